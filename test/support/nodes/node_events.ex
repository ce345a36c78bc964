defmodule Caravan.Test.NodeEvents do
  @moduledoc """
  Runs on a node under test: every nodeup and nodedown that it saw, with the time.

      PeerNode.call(node, NodeEvents, :start, [])
      PeerNode.call(node, NodeEvents, :downs, [])
  """

  use GenServer

  @spec start() :: :ok
  def start do
    {:ok, _pid} = GenServer.start(__MODULE__, [], name: __MODULE__)
    :ok
  end

  @doc "The nodes that went down, in order."
  @spec downs() :: [node]
  def downs, do: for({:nodedown, node, _at} <- GenServer.call(__MODULE__, :events), do: node)

  @doc "When the last of this many nodes was up, in milliseconds of `System.os_time/1`; nil if not yet."
  @spec complete_at(pos_integer) :: integer | nil
  def complete_at(count) do
    ups = for {:nodeup, node, at} <- GenServer.call(__MODULE__, :events), do: {node, at}
    first = ups |> Enum.uniq_by(&elem(&1, 0)) |> Enum.at(count - 1)
    first && elem(first, 1)
  end

  @doc "Forgets all it saw."
  @spec clear() :: :ok
  def clear, do: GenServer.call(__MODULE__, :clear)

  @impl true
  def init([]) do
    :ok = :net_kernel.monitor_nodes(true)
    {:ok, []}
  end

  @impl true
  def handle_call(:events, _from, events), do: {:reply, Enum.reverse(events), events}
  def handle_call(:clear, _from, _events), do: {:reply, :ok, []}

  @impl true
  def handle_info({event, node}, events) when event in [:nodeup, :nodedown],
    do: {:noreply, [{event, node, System.os_time(:millisecond)} | events]}
end
