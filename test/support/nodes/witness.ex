defmodule Caravan.Test.Witness do
  @moduledoc """
  Records what one node sees of the other nodes. It runs on the node under test, and the test asks it:

      PeerNode.call(node, Witness, :start, [])
      PeerNode.call(node, Witness, :report, [])

  With `join/0` it also joins a `:pg` group that all nodes share. Every 20 ms it sends a message to a
  random member of that group.
  """

  use GenServer

  @group :witnesses
  @interval 20

  @doc "Starts the process without a link to the caller. From now on it records nodeups and nodedowns."
  @spec start() :: :ok
  def start do
    {:ok, _pid} = GenServer.start(__MODULE__, nil, name: __MODULE__)
    :ok
  end

  @doc "Joins the group and begins to send."
  @spec join() :: :ok
  def join, do: GenServer.call(__MODULE__, :join)

  @doc """
  Returns what the process recorded, oldest first: `:ups` and `:downs`, each a list of `{node, milliseconds}` with times of
  `System.os_time/1`; `:events` of telemetry, each `{event, metadata}`; `:received`, the number of messages by sending
  node; `:members`, the nodes of the group as this node sees it.
  """
  @spec report() :: map
  def report, do: GenServer.call(__MODULE__, :report, 30_000)

  @doc "Returns the nodes that went down, oldest first."
  @spec downs() :: [node]
  def downs, do: for({node, _at} <- report().downs, do: node)

  @doc """
  Returns when the `count`-th node came up, in milliseconds of `System.os_time/1`, or `nil` if fewer
  nodes came up. A node that came up twice counts once.
  """
  @spec complete_at(pos_integer) :: integer | nil
  def complete_at(count) do
    first = report().ups |> Enum.uniq_by(&elem(&1, 0)) |> Enum.at(count - 1)
    first && elem(first, 1)
  end

  @doc "Forgets the nodeups and nodedowns recorded so far."
  @spec clear() :: :ok
  def clear, do: GenServer.call(__MODULE__, :clear)

  @doc "Records these telemetry events from now on."
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
    {:ok, %{ups: [], downs: [], events: [], received: %{}}}
  end

  @impl true
  def handle_call(:join, _from, state) do
    # The scope may run already. Then this returns an error, and the running scope is used.
    _ = :pg.start(@group)
    :ok = :pg.join(@group, @group, self())
    send(self(), :send)
    {:reply, :ok, state}
  end

  def handle_call(:report, _from, state) do
    lists = for list <- [:ups, :downs, :events], into: %{}, do: {list, Enum.reverse(state[list])}
    {:reply, state |> Map.merge(lists) |> Map.put(:members, members()), state}
  end

  def handle_call(:clear, _from, state), do: {:reply, :ok, %{state | ups: [], downs: []}}

  @impl true
  def handle_info(:send, state) do
    # Without :noconnect, this message could connect two nodes that the strategy left apart.
    member = @group |> :pg.get_members(@group) |> Enum.random()
    _ = :erlang.send(member, {:hello, node()}, [:noconnect])
    Process.send_after(self(), :send, @interval)
    {:noreply, state}
  end

  def handle_info({:hello, node}, state),
    do: {:noreply, update_in(state.received[node], &((&1 || 0) + 1))}

  def handle_info({:nodeup, node}, state), do: {:noreply, record(state, :ups, node)}
  def handle_info({:nodedown, node}, state), do: {:noreply, record(state, :downs, node)}

  def handle_info({:event, event, metadata}, state),
    do: {:noreply, Map.update!(state, :events, &[{event, metadata} | &1])}

  # Returns an empty list before join/0, because :pg has not created the table of the scope.
  defp members do
    case :ets.whereis(@group) do
      :undefined -> []
      _table -> @group |> :pg.get_members(@group) |> Enum.map(&node/1) |> Enum.sort()
    end
  end

  defp record(state, list, node),
    do: Map.update!(state, list, &[{node, System.os_time(:millisecond)} | &1])
end
