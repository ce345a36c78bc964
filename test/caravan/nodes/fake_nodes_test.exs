defmodule Caravan.Nodes.FakeNodesTest do
  use ExUnit.Case, async: true

  alias Caravan.Test.FakeNodes
  alias Caravan.Test.PeerNode

  setup do
    # A node that has had no tick for 5 seconds is not connected any more.
    node = PeerNode.start!(name: PeerNode.name("a"), args: ~w(-kernel net_ticktime 4))
    %{node: node, fake: FakeNodes.start!("caravan_test")}
  end

  test "a node connects to 200 fake nodes, and their ticks keep the connections", context do
    names = for n <- 1..200, do: FakeNodes.name(context.fake, n)
    assert Enum.all?(names, &connect(context.node, &1))
    PeerNode.call(context.node, :erlang, :send, [{:no_process, hd(names)}, "message"])

    # Nothing is waited for: without ticks, the connections would end in this time.
    Process.sleep(7_000)
    assert context.node |> PeerNode.call(:erlang, :nodes, []) |> Enum.sort() == Enum.sort(names)
  end

  test "a node with another cookie is refused", context do
    other = FakeNodes.start!("another cookie")
    refute connect(context.node, FakeNodes.name(other, 1))
  end

  defp connect(node, name), do: PeerNode.call(node, :net_kernel, :connect_node, [name])
end
