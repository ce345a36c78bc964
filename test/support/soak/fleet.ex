defmodule Caravan.Test.Soak.Fleet do
  @moduledoc """
  The nodes of a soak, their DNS server and the firewall between them. `perform/2` carries out the actions of a
  schedule on them.
  """

  alias Caravan.Test.Soak.Firewall
  alias Caravan.Test.Soak.LogCheck
  alias Caravan.Test.Soak.Schedule
  alias Caravan.Test.Soak.Vm
  alias Caravan.Test.Soak.Zone

  # A node has this many addresses, which are numbered from 0. It listens on one, and moves from one to the next.
  @addresses 3

  # The port of a node is this number and its id.
  @first_port 24_000

  # The default of `:poll_interval`, in milliseconds.
  @poll_interval 5_000

  # Milliseconds. Short, so that nodes forget removed records while the soak lasts.
  @keep 20_000

  @enforce_keys [:vms, :zone]
  defstruct @enforce_keys ++ [addresses: %{}, cuts: [], changes: []]

  @typedoc """
    * `:addresses`: for each node, the number of its address
    * `:cuts`: the pairs of nodes whose link is cut
    * `:changes`: the addresses that changed in DNS since `end_round/1`
  """
  @type t :: %__MODULE__{
          vms: %{Schedule.id() => pid},
          zone: Zone.t(),
          addresses: %{Schedule.id() => non_neg_integer},
          cuts: [{Schedule.id(), Schedule.id()}],
          changes: LogCheck.changes()
        }

  @doc "The option `:poll_interval` of the strategies."
  @spec poll_interval() :: pos_integer
  def poll_interval, do: @poll_interval

  @doc """
  Starts the DNS server and the VMs of nodes 1 to `count`, and waits for them.

  Their logs go to `dir`. `args` are further arguments of the VMs.
  """
  @spec start(pos_integer, Path.t(), args :: [String.t()]) :: t
  def start(count, dir, args) do
    ids = 1..count
    zone = Zone.start(Map.new(ids, &{&1, {port(&1), address(&1, 0)}}))

    vms =
      for id <- ids, into: %{} do
        fields = [id: id, name: name(id), address: address(id, 0), dir: dir, args: args]
        {:ok, vm} = Vm.start_link([options: options(zone)] ++ fields)
        :ok = Vm.perform(vm, :start)
        {id, vm}
      end

    fleet = %__MODULE__{vms: vms, zone: zone, addresses: Map.new(ids, &{&1, 0})}
    _ = await_actions(fleet)
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

  @doc "Carries out an action. An action of a VM may end later; see `await_actions/1`."
  @spec perform(t, Schedule.action()) :: t
  def perform(%__MODULE__{} = fleet, {:dns, mode}),
    do: %{fleet | zone: Zone.set_mode(fleet.zone, mode)}

  def perform(fleet, {change, id}) when change in [:add, :remove],
    do: %{fleet | zone: Zone.change(fleet.zone, {change, id})}

  def perform(fleet, {:move, id}) do
    number = rem(fleet.addresses[id] + 1, @addresses)
    :ok = Vm.perform(fleet.vms[id], :kill)
    :ok = Vm.perform(fleet.vms[id], {:address, address(id, number)})
    put_in(fleet.addresses[id], number)
  end

  def perform(fleet, {:publish_address, id}) do
    zone = Zone.change(fleet.zone, {:address, id, address(id, fleet.addresses[id])})
    %{fleet | zone: zone, changes: [{System.os_time(:millisecond), name(id)} | fleet.changes]}
  end

  def perform(fleet, {:cut, pairs}), do: cut(fleet, Enum.uniq(pairs ++ fleet.cuts))
  def perform(fleet, {:heal, pairs}), do: cut(fleet, fleet.cuts -- pairs)

  def perform(fleet, {action, id}) do
    :ok = Vm.perform(fleet.vms[id], action)
    fleet
  end

  @doc "Clears `:changes`, and the queries that the DNS server has kept."
  @spec end_round(t) :: t
  def end_round(%__MODULE__{} = fleet) do
    :ok = Zone.clear_queries(fleet.zone)
    %{fleet | changes: []}
  end

  @doc "Waits until the actions of all VMs have ended. Returns the states of the VMs."
  @spec await_actions(t) :: %{Schedule.id() => Vm.t()}
  def await_actions(%__MODULE__{} = fleet), do: each(fleet, &Vm.await_actions/1)

  @doc "Calls a function in all VMs at the same time. Returns `nil` for a node without a running VM."
  @spec call(t, module, atom, [term]) :: %{Schedule.id() => term}
  def call(%__MODULE__{} = fleet, module, function, arguments),
    do: each(fleet, &Vm.call(&1, module, function, arguments))

  defp each(fleet, fun) do
    fleet.vms
    |> Enum.map(fn {id, vm} -> {id, Task.async(fn -> fun.(vm) end)} end)
    |> Map.new(fn {id, task} -> {id, Task.await(task, :infinity)} end)
  end

  defp cut(fleet, pairs) do
    all = fn id -> for number <- 0..(@addresses - 1), do: address(id, number) end
    :ok = Firewall.cut(for {one, other} <- pairs, do: {all.(one), all.(other)})
    %{fleet | cuts: pairs}
  end

  defp options(zone) do
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

  # Soaks that run at the same time without a network namespace need different addresses.
  defp address(id, number) do
    soak = if Firewall.possible?(), do: 1, else: 1 + rem(String.to_integer(System.pid()), 250)
    {127, soak, number, id}
  end
end
