defmodule Caravan.Cluster.Membership.DialQueueTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Membership.DialQueue
  alias Caravan.Cluster.Membership.Peer

  defp peer(name, retry_at, failures \\ 0),
    do: %{Peer.new(name, 0) | retry_at: retry_at, connect_failures: failures}

  defp queue(peers), do: Enum.reduce(peers, DialQueue.new(), &DialQueue.put(&2, &1))

  # The names in the order in which they are dialled.
  defp drain(queue) do
    case DialQueue.first(queue) do
      nil -> []
      name -> [name | queue |> DialQueue.delete(name) |> drain()]
    end
  end

  test "an empty queue has nothing to wait for" do
    queue = DialQueue.mature(DialQueue.new(), 0, "me@h")
    assert DialQueue.next_at(queue) == nil
    assert DialQueue.first(queue) == nil
  end

  test "a peer is ready when its time has come" do
    queue = queue([peer("a@h", 10), peer("b@h", 20)])
    assert DialQueue.next_at(queue) == 10
    assert queue |> DialQueue.mature(9, "me@h") |> DialQueue.ready() == []
    queue = DialQueue.mature(queue, 10, "me@h")
    assert DialQueue.ready(queue) == ["a@h"]
    assert DialQueue.next_at(queue) == :now
    assert queue |> DialQueue.delete("a@h") |> DialQueue.next_at() == 20
  end

  test "a peer that failed less often comes first" do
    queue = queue([peer("a@h", 0, 2), peer("b@h", 0, 0), peer("c@h", 0, 1)])
    assert queue |> DialQueue.mature(0, "me@h") |> drain() == ["b@h", "c@h", "a@h"]
  end

  test "two nodes dial the same new peers in different orders" do
    queue = queue(for n <- 1..20, do: peer("n#{n}@h", 0))
    orders = for self <- ["me@h", "you@h"], do: queue |> DialQueue.mature(0, self) |> drain()
    assert [same, same] = Enum.map(orders, &Enum.sort/1)
    assert orders |> Enum.uniq() |> length() == 2
  end

  test "a peer that was ready waits again when its time moves" do
    queue = queue([peer("a@h", 0)]) |> DialQueue.mature(0, "me@h")
    queue = DialQueue.put(queue, peer("a@h", 50, 1))
    assert DialQueue.ready(queue) == []
    assert DialQueue.next_at(queue) == 50
    queue = DialQueue.put(queue, peer("a@h", 5, 1))
    assert DialQueue.next_at(queue) == 5
  end

  test "a peer that has not changed keeps its place" do
    queue = queue([peer("a@h", 0), peer("b@h", 9)]) |> DialQueue.mature(0, "me@h")
    assert DialQueue.put(queue, %{peer("a@h", 0) | atom_allowed: true}) == queue
    assert DialQueue.put(queue, peer("b@h", 9)) == queue
  end

  test "a deleted peer is gone from either stage" do
    queue = queue([peer("a@h", 0), peer("b@h", 9)]) |> DialQueue.mature(0, "me@h")
    queue = queue |> DialQueue.delete("a@h") |> DialQueue.delete("b@h") |> DialQueue.delete("c@h")
    assert %{queue | self: nil} == DialQueue.new()
  end

  test "a new name of this node changes the order of the peers that are ready" do
    queue = queue(for n <- 1..20, do: peer("n#{n}@h", 0))
    before = DialQueue.mature(queue, 0, "nonode@nohost")

    assert before |> DialQueue.mature(0, "me@h") |> drain() ==
             queue |> DialQueue.mature(0, "me@h") |> drain()

    assert before |> DialQueue.mature(0, "me@h") |> drain() != drain(before)
  end
end
