defmodule Caravan.Test.FakeNetwork do
  @moduledoc """
  The connect, disconnect and list_nodes functions of a topology, without distribution.

  An agent holds the connected nodes. The owner, which started it, gets a message for each connect and disconnect.
  """

  use Agent

  @type behaviour :: :connects | :unreachable | :hangs | {:returns, term} | :raises

  @spec start_link(pid) :: Agent.on_start()
  def start_link(owner) do
    Agent.start_link(fn -> %{owner: owner, connected: [], nodes: %{}} end)
  end

  @doc "Returns the options of a strategy that uses this network."
  @spec options(pid) :: keyword
  def options(network),
    do: [
      connect: {__MODULE__, :connect, [network]},
      disconnect: {__MODULE__, :disconnect, [network]},
      list_nodes: {__MODULE__, :list, [network]}
    ]

  @doc "Sets what a connect to `node` does from now on. By default it succeeds."
  @spec behave(pid, node, behaviour) :: :ok
  def behave(network, node, behaviour),
    do: Agent.update(network, &put_in(&1.nodes[node], behaviour))

  @doc "Deletes `node` from the connected nodes."
  @spec drop(pid, node) :: :ok
  def drop(network, node),
    do: Agent.update(network, &update_in(&1.connected, fn c -> c -- [node] end))

  @spec list(pid) :: [node]
  def list(network), do: Agent.get(network, & &1.connected)

  @spec connect(pid, node) :: term
  def connect(network, node) do
    case Agent.get_and_update(network, &connected(&1, node)) do
      :connects -> true
      :unreachable -> false
      :hangs -> Process.sleep(:infinity)
      {:returns, term} -> term
      :raises -> raise "the connect function raised"
    end
  end

  # Another process that asks for the list after this message finds the node in it.
  defp connected(state, node) do
    send(state.owner, {:connect, node})

    case Map.get(state.nodes, node, :connects) do
      :connects -> {:connects, update_in(state.connected, &[node | &1])}
      behaviour -> {behaviour, state}
    end
  end

  @spec disconnect(pid, node) :: true
  def disconnect(network, node) do
    :ok = drop(network, node)
    %{owner: owner} = Agent.get(network, & &1)
    send(owner, {:disconnect, node})
    true
  end
end
