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

  @impl true
  def init(nil) do
    :ok = :net_kernel.monitor_nodes(true)
    # Where one runs already, that one.
    _ = :pg.start(@group)
    :ok = :pg.join(@group, @group, self())
    send(self(), :send)
    {:ok, %{ups: [], downs: [], received: %{}}}
  end

  @impl true
  def handle_call(:report, _from, state) do
    members = @group |> :pg.get_members(@group) |> Enum.map(&node/1) |> Enum.sort()
    lists = %{ups: Enum.reverse(state.ups), downs: Enum.reverse(state.downs), members: members}
    {:reply, Map.merge(state, lists), state}
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

  defp keep(state, what, node),
    do: Map.update!(state, what, &[{node, System.system_time(:millisecond)} | &1])
end
