defmodule Caravan.Cluster.Membership.DialQueueTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Membership.DialQueue
  alias Caravan.Cluster.Membership.Peer

  defp queue(keys), do: Enum.reduce(keys, DialQueue.new(), &DialQueue.move(&2, nil, &1))

  # Returns the names in the order in which they are dialled.
  defp drain(queue, keys) do
    case DialQueue.first(queue) do
      nil ->
        []

      name ->
        key = List.keyfind!(keys, name, 2)
        [name | queue |> DialQueue.move(key, nil) |> drain(keys)]
    end
  end

  test "an empty queue has no next node" do
    queue = DialQueue.mature(DialQueue.new(), 0, "me@h")
    assert DialQueue.next_at(queue) == nil
    assert DialQueue.first(queue) == nil
  end

  test "the key of a peer is its time, its failures and its name" do
    peer = %{Peer.new("a@h", 5) | connect_failures: 2, retry_at: 10}
    assert DialQueue.key(peer) == {10, 2, "a@h"}
  end

  test "a node is ready when its time has come" do
    queue = queue([{10, 0, "a@h"}, {20, 0, "b@h"}])
    assert DialQueue.next_at(queue) == 10
    assert queue |> DialQueue.mature(9, "me@h") |> DialQueue.ready() == []
    queue = DialQueue.mature(queue, 10, "me@h")
    assert DialQueue.ready(queue) == ["a@h"]
    assert DialQueue.next_at(queue) == :now
    assert queue |> DialQueue.move({10, 0, "a@h"}, nil) |> DialQueue.next_at() == 20
  end

  test "a node whose time is in the past is ready at once" do
    queue = DialQueue.new() |> DialQueue.mature(10, "me@h") |> DialQueue.move(nil, {10, 0, "a@h"})
    assert DialQueue.ready(queue) == ["a@h"]
  end

  test "a node that failed less often comes first" do
    keys = [{0, 2, "a@h"}, {0, 0, "b@h"}, {0, 1, "c@h"}]
    assert keys |> queue() |> DialQueue.mature(0, "me@h") |> drain(keys) == ["b@h", "c@h", "a@h"]
  end

  test "two nodes dial the same new nodes in different orders" do
    keys = for n <- 1..20, do: {0, 0, "n#{n}@h"}

    [mine, yours] =
      for self <- ["me@h", "you@h"],
          do: keys |> queue() |> DialQueue.mature(0, self) |> drain(keys)

    assert Enum.sort(mine) == Enum.sort(yours)
    assert mine != yours
  end

  test "a node that was ready waits again when its time moves" do
    queue = queue([{0, 0, "a@h"}]) |> DialQueue.mature(0, "me@h")
    queue = DialQueue.move(queue, {0, 0, "a@h"}, {50, 1, "a@h"})
    assert DialQueue.ready(queue) == []
    assert DialQueue.next_at(queue) == 50
    queue = DialQueue.move(queue, {50, 1, "a@h"}, {5, 1, "a@h"})
    assert DialQueue.next_at(queue) == 5
  end

  test "a node that has not changed keeps its place" do
    queue = queue([{0, 0, "a@h"}, {9, 0, "b@h"}]) |> DialQueue.mature(0, "me@h")
    assert DialQueue.move(queue, {0, 0, "a@h"}, {0, 0, "a@h"}) == queue
    assert DialQueue.move(queue, nil, nil) == queue
  end

  test "a node can be moved out of the queue, whether it waits or is ready" do
    queue = queue([{0, 0, "a@h"}, {9, 0, "b@h"}]) |> DialQueue.mature(0, "me@h")
    queue = queue |> DialQueue.move({0, 0, "a@h"}, nil) |> DialQueue.move({9, 0, "b@h"}, nil)
    assert DialQueue.ready(queue) == []
    assert DialQueue.next_at(queue) == nil
  end

  test "the order of the ready nodes changes with the name of this node" do
    keys = for n <- 1..20, do: {0, 0, "n#{n}@h"}
    before = keys |> queue() |> DialQueue.mature(0, "nonode@nohost")
    renamed = before |> DialQueue.mature(0, "me@h") |> drain(keys)
    assert renamed == keys |> queue() |> DialQueue.mature(0, "me@h") |> drain(keys)
    assert renamed != drain(before, keys)
  end
end
