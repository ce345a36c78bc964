defmodule Fleet do
  @moduledoc """
  The smallest application that forms a cluster with Caravan. `bin/demo` runs three nodes of it.
  """

  @doc """
  Prints a table of all nodes, with their names, ports and connected nodes.

      bin/fleet rpc "Fleet.status()"
  """
  @spec status() :: :ok
  def status do
    nodes = Enum.sort([node() | Node.list()])

    # Each node returns its own list, over the connections of the cluster.
    peers = :erpc.multicall(nodes, Node, :list, [], 5_000)

    print("node", "port", "connected to")

    for {node, answer} <- Enum.zip(nodes, peers) do
      print(node, Caravan.Epmd.dist_port(node), describe(answer))
    end

    :ok
  end

  defp describe({:ok, []}), do: "no node"
  defp describe({:ok, peers}), do: peers |> Enum.sort() |> Enum.join(" ")
  defp describe(failure), do: inspect(failure)

  defp print(node, port, peers) do
    IO.puts("#{String.pad_trailing("#{node}", 20)} #{String.pad_trailing("#{port}", 5)} #{peers}")
  end
end
