defmodule Caravan.Test.Witness do
  @moduledoc """
  A process on a node under test that keeps what the node sees of the others, is a member of a `:pg`
  group that all nodes share, and sends to a random member of it all the time.
  """

  use GenServer

  @group :witnesses
  @interval 20

  @doc "Starts it, with no link to the caller."
  @spec start() :: :ok
  def start do
    {:ok, _pid} = GenServer.start(__MODULE__, nil, name: __MODULE__)
    :ok
  end

  @doc """
  What it saw: `:ups` and `:downs`, each `{node, milliseconds of system time}`, oldest first; `:received`,
  how many messages by node; `:members`, the nodes of the group as it is here.
  """
  @spec report() :: map
  def report, do: GenServer.call(__MODULE__, :report, 30_000)

  @doc "Keeps these events of telemetry, too: `:events`, each `{event, metadata}`, oldest first."
  @spec attach([[atom]]) :: :ok
  def attach(events),
    do: :telemetry.attach_many(__MODULE__, events, &__MODULE__.handle_event/4, nil)

  @doc false
  @spec handle_event([atom], map, map, term) :: term
  def handle_event(event, _measurements, metadata, _config),
    do: send(__MODULE__, {:event, event, metadata})

  @impl true
  def init(nil) do
    :ok = :net_kernel.monitor_nodes(true)
    # Where one runs already, that one.
    _ = :pg.start(@group)
    :ok = :pg.join(@group, @group, self())
    send(self(), :send)
    {:ok, %{ups: [], downs: [], events: [], received: %{}}}
  end

  @impl true
  def handle_call(:report, _from, state) do
    members = @group |> :pg.get_members(@group) |> Enum.map(&node/1) |> Enum.sort()
    lists = for list <- [:ups, :downs, :events], into: %{}, do: {list, Enum.reverse(state[list])}
    {:reply, state |> Map.merge(lists) |> Map.put(:members, members), state}
  end

  @impl true
  def handle_info(:send, state) do
    # Members only, who are connected: a send must not be what connects two nodes.
    member = @group |> :pg.get_members(@group) |> Enum.random()
    _ = :erlang.send(member, {:hello, node()}, [:noconnect])
    Process.send_after(self(), :send, @interval)
    {:noreply, state}
  end

  def handle_info({:hello, node}, state),
    do: {:noreply, update_in(state.received[node], &((&1 || 0) + 1))}

  def handle_info({:nodeup, node}, state), do: {:noreply, keep(state, :ups, node)}
  def handle_info({:nodedown, node}, state), do: {:noreply, keep(state, :downs, node)}

  def handle_info({:event, event, metadata}, state),
    do: {:noreply, Map.update!(state, :events, &[{event, metadata} | &1])}

  defp keep(state, what, node),
    do: Map.update!(state, what, &[{node, System.system_time(:millisecond)} | &1])
end
