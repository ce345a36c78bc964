defmodule Caravan.Test.Soak.Links do
  @moduledoc """
  A process in each VM of a soak. It logs each nodeup and nodedown, and finds out which nodes reply.
  """

  use GenServer

  alias Caravan.Test.Soak.LogFile

  # Milliseconds in which a connected node has to reply.
  @reply_timeout 1_000

  @typedoc "The connected nodes, and those of them that reply."
  @type t :: %{connected: [node], replying: [node]}

  @spec start_link(term) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Returns the links of this VM. Only `nodes` are asked to reply.

  Asking does not connect nodes.
  """
  @spec list(nodes :: [node]) :: t
  def list(nodes) do
    connected = Node.list()
    asked = for node <- nodes, node in connected, do: node
    ref = make_ref()
    for node <- asked, do: send_if_connected({__MODULE__, node}, {:ping, self(), ref})
    deadline = System.monotonic_time(:millisecond) + @reply_timeout
    %{connected: connected, replying: replies(ref, length(asked), deadline, [])}
  end

  defp replies(_ref, 0, _deadline, nodes), do: nodes

  defp replies(ref, count, deadline, nodes) do
    receive do
      {^ref, node} -> replies(ref, count - 1, deadline, [node | nodes])
    after
      max(0, deadline - System.monotonic_time(:millisecond)) -> nodes
    end
  end

  defp send_if_connected(to, message),
    do: :erlang.send(to, message, [:noconnect, :nosuspend])

  @impl true
  def init(nil) do
    :ok = :net_kernel.monitor_nodes(true, [:nodedown_reason])
    for node <- Node.list(), do: LogFile.note("up #{node}")
    {:ok, nil}
  end

  @impl true
  def handle_info({:ping, from, ref}, state) do
    _ = send_if_connected(from, {ref, node()})
    {:noreply, state}
  end

  def handle_info({:nodeup, node, _info}, state) do
    LogFile.note("up #{node}")
    {:noreply, state}
  end

  def handle_info({:nodedown, node, info}, state) do
    LogFile.note("down #{node} #{inspect(info[:nodedown_reason])}")
    {:noreply, state}
  end
end
