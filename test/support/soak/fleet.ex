defmodule Caravan.Test.Soak.Fleet do
  @moduledoc "The nodes of a soak, their DNS and the links between them: carries out the steps of a schedule."

  alias Caravan.Test.Soak.Firewall
  alias Caravan.Test.Soak.Schedule
  alias Caravan.Test.Soak.Vm
  alias Caravan.Test.Soak.Zone

  # How many addresses a node has. It moves from one to the next.
  @places 3
  @first_port 24_000

  # The default of `:poll_interval`, in milliseconds.
  @poll_interval 5_000

  # Milliseconds. Short, so that nodes forget removed records while the soak lasts.
  @keep 20_000

  @enforce_keys [:vms, :zone]
  defstruct @enforce_keys ++ [places: %{}, cuts: [], changes: []]

  @typedoc """
    * `:places`: for each node, the number of its address
    * `:cuts`: the pairs of nodes whose link is cut
    * `:changes`: when the address of a node changed in DNS, in milliseconds of `System.os_time/1`; newest first
  """
  @type t :: %__MODULE__{
          vms: %{Schedule.id() => pid},
          zone: Zone.t(),
          places: %{Schedule.id() => non_neg_integer},
          cuts: [{Schedule.id(), Schedule.id()}],
          changes: [{integer, name :: String.t()}]
        }

  @spec poll_interval() :: pos_integer
  def poll_interval, do: @poll_interval

  @doc """
  Starts the VMs of nodes 1 to `count`, linked to the caller, and waits for them.

  Their logs go to `dir`. `args` are further arguments of the VMs.
  """
  @spec start(pos_integer, Path.t(), args :: [String.t()]) :: t
  def start(count, dir, args) do
    ids = 1..count
    zone = Zone.start(Map.new(ids, &{&1, {port(&1), address(&1, 0)}}))

    vms =
      for id <- ids, into: %{} do
        fields = [id: id, name: name(id), address: address(id, 0), dir: dir, args: args]
        {:ok, vm} = Vm.start_link([strategy: strategy(zone)] ++ fields)
        :ok = Vm.act(vm, :start)
        {id, vm}
      end

    fleet = %__MODULE__{vms: vms, zone: zone, places: Map.new(ids, &{&1, 0})}
    _ = sync(fleet)
    fleet
  end

  @doc "Ends all VMs and the DNS server."
  @spec stop(t) :: :ok
  def stop(%__MODULE__{} = fleet) do
    _ = each(fleet, &GenServer.stop/1)
    Zone.stop(fleet.zone)
  end

  @doc "The name of a node."
  @spec name(Schedule.id()) :: String.t()
  def name(id), do: "app-#{port(id)}@#{Zone.host(id)}"

  @doc "Carries out an action. If it is an action of a VM, it ends later; see `sync/1`."
  @spec perform(t, Schedule.action()) :: t
  def perform(%__MODULE__{} = fleet, {:dns, mode}),
    do: %{fleet | zone: Zone.disturb(fleet.zone, mode)}

  def perform(fleet, {change, id}) when change in [:add, :remove],
    do: %{fleet | zone: Zone.change(fleet.zone, {change, id})}

  def perform(fleet, {:move, id}) do
    place = rem(fleet.places[id] + 1, @places)
    :ok = Vm.act(fleet.vms[id], :kill)
    :ok = Vm.act(fleet.vms[id], {:address, address(id, place)})
    put_in(fleet.places[id], place)
  end

  def perform(fleet, {:readdress, id}) do
    zone = Zone.change(fleet.zone, {:address, id, address(id, fleet.places[id])})
    %{fleet | zone: zone, changes: [{System.os_time(:millisecond), name(id)} | fleet.changes]}
  end

  def perform(fleet, {:cut, pairs}), do: cut(fleet, Enum.uniq(pairs ++ fleet.cuts))
  def perform(fleet, {:heal, pairs}), do: cut(fleet, fleet.cuts -- pairs)

  def perform(fleet, {action, id}) do
    :ok = Vm.act(fleet.vms[id], action)
    fleet
  end

  @doc "Forgets the changes, and the queries that the DNS server remembers."
  @spec forget(t) :: t
  def forget(%__MODULE__{} = fleet) do
    :ok = Zone.forget(fleet.zone)
    %{fleet | changes: []}
  end

  @doc "Waits until the actions of all VMs have ended. Returns the states of the VMs."
  @spec sync(t) :: %{Schedule.id() => Vm.t()}
  def sync(%__MODULE__{} = fleet), do: each(fleet, &Vm.sync/1)

  @doc "Calls a function of `Caravan.Test.Soak.Node` in all VMs at the same time. `nil`: the node is down."
  @spec call(t, atom, [term]) :: %{Schedule.id() => term}
  def call(%__MODULE__{} = fleet, function, arguments \\ []),
    do: each(fleet, &Vm.call(&1, function, arguments))

  defp each(fleet, fun) do
    fleet.vms
    |> Enum.map(fn {id, vm} -> {id, Task.async(fn -> fun.(vm) end)} end)
    |> Map.new(fn {id, task} -> {id, Task.await(task, :infinity)} end)
  end

  defp cut(fleet, pairs) do
    all = fn id -> for place <- 0..(@places - 1), do: address(id, place) end
    :ok = Firewall.cut(for {one, other} <- pairs, do: {all.(one), all.(other)})
    %{fleet | cuts: pairs}
  end

  defp strategy(zone) do
    [
      query: Zone.query(),
      node_sname: "app",
      nameservers: [Zone.nameserver(zone)],
      poll_interval: @poll_interval,
      lookup_timeout: 1_000,
      keep: @keep
    ]
  end

  defp port(id), do: @first_port + id

  # Where there is no network namespace, several soaks can run beside each other.
  defp address(id, place) do
    soak = if Firewall.possible?(), do: 1, else: 1 + rem(String.to_integer(System.pid()), 250)
    {127, soak, place, id}
  end
end
