defmodule Caravan.Cluster.Membership.ConnectivityTest do
  use ExUnit.Case, async: true

  import Caravan.Test.MembershipEvents

  alias Caravan.Cluster.Membership

  describe "nodeup and nodedown" do
    test "each report a change once, even if they come twice" do
      state = membership() |> handle(answer(["a@h", "b@h"]), 0) |> handle({:nodeup, "a@h"}, 1)
      assert reports(state) == [{:nodes_up, ["a@h"], nil}]
      membership = elem(state, 1)
      assert Membership.connected(membership) == ["a@h"]
      assert Membership.connected?(membership, "a@h")
      refute Membership.connected?(membership, "b@h")
      refute Membership.connected?(membership, "c@h")
      assert Membership.counts(membership) == %{members: 2, connected: 1}
      assert state |> handle({:nodeup, "a@h"}, 2) |> reports() == []

      state = handle(state, {:nodedown, "a@h"}, 3)
      assert reports(state) == [{:nodes_down, ["a@h"], nil}]
      assert Membership.counts(elem(state, 1)) == %{members: 2, connected: 0}
      assert state |> handle({:nodedown, "a@h"}, 4) |> reports() == []
    end

    test "count only nodes that an answer contained" do
      state = membership() |> handle({:nodeup, "a@h"}, 0)
      assert Membership.counts(elem(state, 1)) == %{members: 0, connected: 0}
      state = handle(state, answer(["a@h", "b@h"]), 1)
      assert dialled(state) == ["b@h"]
      assert {:nodes_up, ["a@h"], nil} in reports(state)
      state = state |> handle({:nodedown, "a@h"}, 2) |> handle({:nodeup, "a@h"}, 3)
      assert Membership.connected(elem(state, 1)) == ["a@h"]
    end

    test "delete a node that is not a member when it goes down" do
      state = membership(keep: 0) |> handle(answer(["a@h"]), 0) |> handle({:nodeup, "a@h"}, 1)
      {_, membership} = state = handle(state, answer(["b@h"]), 2)
      assert Membership.counts(membership) == %{members: 1, connected: 1}
      {_, membership} = handle(state, {:nodedown, "a@h"}, 3)
      assert Map.keys(membership.peers) == ["b@h"]
    end

    test "report a change once if a snapshot is ahead of them" do
      state = membership() |> handle(answer(["a@h"]), 0) |> handle({:connected_nodes, ["a@h"]}, 1)
      assert reports(state) == [{:nodes_up, ["a@h"], nil}]
      state = handle(state, {:nodeup, "a@h"}, 1)
      assert reports(state) == []
      # The node went down and came up again before the snapshot was taken.
      state = state |> handle({:connected_nodes, ["a@h"]}, 2) |> handle({:nodedown, "a@h"}, 2)
      assert reports(state) == [{:nodes_down, ["a@h"], nil}]
      assert state |> handle({:nodeup, "a@h"}, 2) |> reports() == [{:nodes_up, ["a@h"], nil}]
    end

    test "make the other lost nodes be dialled earlier only once, if two lost nodes come up within 200 ms" do
      names = ["a@h", "b@h", "c@h"]
      state = membership() |> handle(answer(names), 0) |> handle({:connected_nodes, names}, 1)
      state = handle(state, {:connected_nodes, []}, 10_000)
      failed = &handle(&1, {:connect_result, "c@h", {:error, :unreachable}}, &2)
      retry_at = fn {_, membership} -> membership.peers["c@h"].retry_at end

      state = state |> failed.(100_000) |> handle({:nodeup, "a@h"}, 100_001)
      assert retry_at.(state) in 100_051..100_201
      state = failed.(state, 100_100)
      later = retry_at.(state)
      assert later in 104_600..109_110
      state = handle(state, {:nodeup, "b@h"}, 100_130)
      assert retry_at.(state) == later
      state = state |> handle({:nodedown, "a@h"}, 200_000) |> failed.(200_000)
      state = handle(state, {:nodeup, "a@h"}, 200_100)
      assert retry_at.(state) in 200_150..200_300
    end
  end

  describe "a nodeup" do
    # Returns a topology of which one node was lost and does not answer, and the time when this node is dialled next.
    defp one_dead(others) do
      names = ["dead@h" | others]
      state = membership() |> handle(answer(names), 0) |> handle({:connected_nodes, names}, 1)
      state = handle(state, {:connected_nodes, others}, 10_000)

      state =
        Enum.reduce(1..8, state, fn _, state ->
          handle(state, {:connect_result, "dead@h", {:error, :unreachable}}, 100_000)
        end)

      {state, retry_at(state, "dead@h")}
    end

    defp retry_at({_actions, membership}, name), do: membership.peers[name].retry_at

    test "of a node that flaps brings no dial of a lost node" do
      {state, before} = one_dead(["a@h"])
      # Here the connection of a@h was steady.
      state = state |> handle({:nodedown, "a@h"}, 100_000) |> handle({:nodeup, "a@h"}, 100_100)
      assert retry_at(state, "dead@h") < before
      state = handle(state, {:connect_result, "dead@h", {:error, :unreachable}}, 101_000)
      before = retry_at(state, "dead@h")
      state = state |> handle({:nodedown, "a@h"}, 101_010) |> handle({:nodeup, "a@h"}, 101_020)
      assert retry_at(state, "dead@h") == before
    end

    test "brings one dial of a lost node, whose next wait is as long as without it" do
      {state, before} = one_dead(["a@h"])
      state = state |> handle({:nodedown, "a@h"}, 100_001) |> handle({:nodeup, "a@h"}, 100_100)
      assert retry_at(state, "dead@h") in 100_150..100_300
      assert before > 100_300
      state = handle(state, {:connect_result, "dead@h", {:error, :unreachable}}, 100_400)
      # A tenth of the 90 seconds for which it has been gone, or half of that.
      assert retry_at(state, "dead@h") in 104_900..109_440
    end

    test "of a node that was never connected brings no dial of a lost node" do
      {state, before} = one_dead(["a@h"])
      state = handle(state, answer(["new@h"]), 100_001)
      assert state |> handle({:nodeup, "new@h"}, 100_002) |> retry_at("dead@h") == before
    end

    test "brings no dial of a lost node that is draining" do
      {state, before} = one_dead(["a@h"])
      state = handle(state, {:peer_draining, "dead@h"}, 100_001)
      state = state |> handle({:nodedown, "a@h"}, 100_002) |> handle({:nodeup, "a@h"}, 100_100)
      assert retry_at(state, "dead@h") == before
    end

    test "does not change the times of lost nodes that are dialled soon anyway" do
      names = for n <- 1..20, do: "n#{n}@h"
      state = membership() |> handle(answer(names), 0) |> handle({:connected_nodes, names}, 1)
      state = handle(state, {:connected_nodes, []}, 10_000)
      before = for name <- tl(names), do: retry_at(state, name)
      state = handle(state, {:nodeup, hd(names)}, 10_010)
      assert for(name <- tl(names), do: retry_at(state, name)) == before
    end
  end

  describe "a node that DNS no longer names while it is being connected" do
    # In both states, the connect to a@h is still in progress when :keep is over. A drain does not stop it, because OTP
    # continues it.
    setup do
      start = membership(prune: [after: 2], keep: 0) |> handle(answer(["a@h", "b@h", "c@h"]), 0)
      gone = &handle(&1, answer(["b@h", "c@h"]), &2)
      resumed = start |> handle(:drain, 1) |> handle(:resume, 2)
      %{states: [gone.(start, 3), gone.(resumed, 3)]}
    end

    test "is connected, and pruned like a node that was connected before", %{states: states} do
      for state <- states do
        assert {:members_changed, [], ["a@h"]} in reports(state)
        state = state |> handle({:nodeup, "b@h"}, 4) |> handle({:nodeup, "a@h"}, 5)
        assert {:nodes_up, ["a@h"], nil} in reports(state)
        state = handle(state, {:connect_result, "a@h", :ok}, 6)
        assert state |> elem(1) |> Membership.connected() |> Enum.sort() == ["a@h", "b@h"]

        state = state |> handle(answer(["b@h", "c@h"]), 10) |> handle(answer(["b@h", "c@h"]), 20)
        assert {:disconnect, "a@h"} in actions(state)
      end
    end

    test "is forgotten when the connect fails, or ends with a drain", %{states: states} do
      failed = {:connect_result, "a@h", {:error, :unreachable}}

      for state <- states, event <- [failed, :drain] do
        state = state |> handle(event, 10) |> handle({:nodeup, "a@h"}, 11)
        assert reports(state) == []
        assert state |> elem(1) |> Membership.connected() == []
      end
    end

    test "is left out when it is connected, if there are :max_nodes others" do
      state = membership(keep: 0, max_nodes: 2) |> handle(answer(["a@h", "b@h"]), 0)
      state = state |> handle(answer(["b@h", "c@h"]), 1) |> handle({:nodeup, "a@h"}, 2)
      assert state |> elem(1) |> Membership.connected() == []
    end
  end
end
