defmodule Caravan.Cluster.Membership.MembersTest do
  use ExUnit.Case, async: true

  import Caravan.Test.MembershipEvents

  alias Caravan.Cluster.Alarms

  @srv {"app.test", :srv}

  describe "members" do
    test "stay through any number of failed lookups and empty answers" do
      state = membership(keep: 0) |> handle(answer(["a@h"]), 0)

      state =
        Enum.reduce(1..100, state, fn n, state ->
          state
          |> handle({:lookup_failed, @srv, {:timeout, "no"}}, n * 100_000)
          |> handle(answer([]), n * 100_000)
        end)

      assert members(elem(state, 1)) == ["a@h"]
    end

    test "stay for :keep after the last answer that contained them" do
      state = membership(keep: 60_000) |> handle(answer(["a@h", "b@h"]), 0)
      state = handle(state, answer(["b@h"]), 59_999)
      assert reports(state) == []
      state = handle(state, answer(["b@h"]), 60_000)
      assert {:members_changed, [], ["a@h"]} in reports(state)
    end

    test "stay for :keep after the last of many equal answers" do
      state = membership(keep: 60_000)

      # The membership does not update its members at each equal answer.
      state =
        Enum.reduce(0..50_000//1_000, state, fn now, state ->
          {_, membership} = state = handle(state, answer(["a@h", "b@h"]), now)
          assert Enum.sort(members(membership)) == ["a@h", "b@h"]
          state
        end)

      state = Enum.reduce(51_000..109_999//1_000, state, &handle(&2, answer(["b@h"]), &1))
      assert "a@h" in members(elem(state, 1))
      state = handle(state, answer(["b@h"]), 110_000)
      assert {:members_changed, [], ["a@h"]} in reports(state)
    end

    test "are the same with and without equal answers in between" do
      names = for n <- 1..20, do: "n#{n}@h"
      run = fn times -> Enum.reduce(times, membership(), &handle(&2, answer(names), &1)) end
      peers = fn {_, membership} -> membership.peers end
      last = answer(["n1@h"])
      one = [0, 29_000] |> run.() |> handle(last, 29_500)
      many = 0..29_000//1_000 |> run.() |> handle(last, 29_500)
      seen = &for({name, peer} <- peers.(&1), into: %{}, do: {name, peer.endpoints})
      assert seen.(one) == seen.(many)
      assert map_size(seen.(one)) == 20
      assert %{@srv => {29_000, _}} = seen.(many)["n2@h"]
    end

    test "of a query that fails stay, whatever other queries return" do
      other = {"other.test", :srv}

      state =
        membership(query: ["app.test", "other.test"], keep: 0)
        |> handle(answer(["a@h"], other), 0)
        |> handle(answer(["b@h"]), 100_000)
        |> handle({:lookup_failed, other, {:servfail, "no"}}, 200_000)
        |> handle(answer(["b@h"]), 300_000)

      assert Enum.sort(members(elem(state, 1))) == ["a@h", "b@h"]
    end

    test "beyond :max_nodes are left out, and those known longest stay" do
      state = membership(max_nodes: 2) |> handle(answer(["y@h", "z@h"]), 0)
      state = handle(state, answer(["a@h", "b@h", "c@h"]), 1)
      assert {:limit, :max_nodes, 3} in reports(state)
      assert Enum.sort(members(elem(state, 1))) == ["y@h", "z@h"]
      assert state |> handle(answer(["a@h", "b@h", "c@h"]), 2) |> reports() == []
    end

    test "beyond :max_nodes are left out, and nodes that were connected before the answer stay" do
      # A strategy that restarts finds nodes connected before its first answer.
      state = membership(max_nodes: 2) |> handle({:connected_nodes, ["z@h"]}, 0)
      state = handle(state, answer(["x@h", "y@h", "z@h"]), 1)
      assert {:limit, :max_nodes, 1} in reports(state)
      assert Enum.sort(members(elem(state, 1))) == ["x@h", "z@h"]
    end
  end

  test ":max_nodes is reported once if only one of two queries exceeds it" do
    small = {"small.test", :srv}
    state = membership(query: ["app.test", "small.test"], max_nodes: 10)
    names = for n <- 1..15, do: "n#{n}@h"

    {limits, _state} =
      Enum.flat_map_reduce(1..10, state, fn n, state ->
        big = handle(state, answer(names), n * 1_000)

        small = handle(big, answer(Enum.take(members(elem(big, 1)), 5), small), n * 1_000)

        {for({:limit, _, _} = limit <- reports(big) ++ reports(small), do: limit), small}
      end)

    assert limits == [{:limit, :max_nodes, 5}]
  end

  describe "the peer table" do
    test "gets its entries only when they change" do
      ip = {10, 0, 0, 1}
      state = membership(ports: :srv) |> handle(answer([{"a@h", [7], [ip]}]), 0)
      assert {:publish, [{"a@h", 7, [^ip]}]} = List.keyfind(actions(state), :publish, 0)
      state = handle(state, answer([{"a@h", [7], [ip]}]), 1)
      refute List.keyfind(actions(state), :publish, 0)
      state = handle(state, answer([{"a@h", [8], [ip]}]), 2)
      assert {:publish, [{"a@h", 8, [^ip]}]} = List.keyfind(actions(state), :publish, 0)
    end

    test "gets the same entries again after it had no room for them" do
      state = membership() |> handle(answer(["a@h"]), 0) |> handle(:publish_failed, 1)
      assert {:publish, [{"a@h", nil, []}]} in (state |> handle(answer(["a@h"]), 2) |> actions())
    end

    test "does not get the same addresses in another order" do
      [one, two] = ips = [{10, 0, 0, 2}, {10, 0, 0, 1}]
      state = membership(ports: :srv) |> handle(answer([{"a@h", [7], ips}]), 0)
      assert {:publish, [{"a@h", 7, [^one, ^two]}]} = List.keyfind(actions(state), :publish, 0)
      state = handle(state, answer([{"a@h", [7], [two, one]}]), 1)
      refute List.keyfind(actions(state), :publish, 0)
    end

    test "gets the lowest port of several, with one warning" do
      state = membership(ports: :srv) |> handle(answer([{"a@h", [7, 9], []}]), 0)
      assert {:publish, [{"a@h", 7, []}]} in actions(state)
      assert {:port_conflict, ["a@h"]} in reports(state)
      state = handle(state, answer([{"a@h", [7, 9], []}]), 1)
      assert reports(state) == []
      state = handle(state, answer([{"a@h", [7], []}]), 2)
      assert reports(state) == []
      state = handle(state, answer([{"a@h", [7, 9], []}]), 3)
      assert reports(state) == [{:port_conflict, ["a@h"]}]
    end

    test "gets the ports and addresses of a failing query after those of the other queries" do
      [old, new] = [{10, 0, 0, 1}, {10, 0, 0, 2}]
      other = {"other.test", :srv}
      options = [query: ["app.test", "other.test"], ports: :srv, keep: 60_000]

      state =
        membership(options)
        |> handle(answer([{"a@h", [1], [old]}]), 0)
        |> handle({:lookup_failed, @srv, {:servfail, "no"}}, 10_000)
        |> handle(answer([{"a@h", [2], [new]}], other), 59_000)

      assert {:publish, [{"a@h", 1, [old, new]}]} in actions(state)
      assert {:port_conflict, ["a@h"]} in reports(state)

      state = handle(state, answer([{"a@h", [2], [new]}], other), 60_001)
      assert {:publish, [{"a@h", 2, [new, old]}]} in actions(state)

      # The first query is answered again, so the order of the options counts.
      state = handle(state, answer([{"a@h", [1], [old]}]), 70_000)
      assert {:publish, [{"a@h", 1, [old, new]}]} in actions(state)
    end

    test "gets the port of the first query even if answers are further apart than :keep" do
      other = {"other.test", :srv}
      options = [query: ["app.test", "other.test"], ports: :srv, keep: 0]

      state =
        membership(options)
        |> handle(answer([{"a@h", [1], []}]), 0)
        |> handle(answer([{"a@h", [2], []}], other), 5_000)

      refute List.keyfind(actions(state), :publish, 0)
    end

    test "causes one report of port conflicts per answer, and no alarm is left over" do
      state = membership(ports: :srv, keep: 0, max_nodes: 10)

      answers = for poll <- 1..20, do: answer(for n <- 1..10, do: {"p#{poll}n#{n}@h", [1, 2], []})

      {_, membership} =
        answers
        |> Enum.with_index()
        |> Enum.reduce(state, fn {answer, poll}, state ->
          state = handle(state, answer, poll * 10_000)
          assert [names] = for({:port_conflict, names} <- reports(state), do: names)
          assert length(names) == 10
          state
        end)

      assert membership.alarms == Alarms.new()
    end

    test "gets the addresses of all sources" do
      state =
        membership(query: "app.test", type: [:a, :aaaa])
        |> handle(answer([{"a@h", [], [{10, 0, 0, 1}]}], {"app.test", :a}), 0)
        |> handle(answer([{"a@h", [], [{0, 0, 0, 0, 0, 0, 0, 1}]}], {"app.test", :aaaa}), 1)

      assert {:publish, [{"a@h", nil, [{10, 0, 0, 1}, {0, 0, 0, 0, 0, 0, 0, 1}]}]} in actions(
               state
             )
    end
  end

  describe "pruning" do
    defp pruning(options \\ []) do
      nodes = for n <- 1..4, do: "n#{n}@h"

      membership(Keyword.merge([prune: [after: 2], keep: 0], options))
      |> handle(answer(nodes), 0)
      |> handle({:connected_nodes, nodes}, 1)
    end

    defp disconnected(state), do: for({:disconnect, name} <- actions(state), do: name)

    test "disconnects after the given number of complete answers, and at most half of the nodes" do
      state = pruning() |> handle(answer(["n1@h"]), 10)
      assert disconnected(state) == []
      state = handle(state, answer(["n1@h"]), 20)
      assert disconnected(state) == ["n2@h", "n3@h"]
      assert {:pruned, ["n2@h", "n3@h"], 1} in reports(state)
    end

    test "disconnects less and less often if the node stays connected all the same, and reports the node once" do
      state = pruning(prune: [after: 1])

      {rounds, {_, pruned}} =
        Enum.flat_map_reduce(1..40, {state, []}, fn n, {state, pruned} ->
          state = handle(state, answer(["n1@h", "n2@h", "n3@h"]), n * 1_000)
          pruned = pruned ++ for {:pruned, names, _} <- reports(state), do: names
          {for("n4@h" <- disconnected(state), do: n), {state, pruned}}
        end)

      assert rounds == [1, 2, 4, 8, 16, 32]
      assert pruned == [["n4@h"]]

      # The node went down and came up, and is missing again.
      state =
        state
        |> handle({:connected_nodes, ["n1@h"]}, 50_000)
        |> handle({:connected_nodes, ["n1@h", "n4@h"]}, 51_000)

      assert state |> handle(answer(["n1@h"]), 52_000) |> reports() |> List.keymember?(:pruned, 0)
    end

    test "disconnects no node without the option" do
      state = pruning(prune: nil)
      state = Enum.reduce(1..50, state, &handle(&2, answer(["n1@h"]), &1 * 1_000))
      assert disconnected(state) == []
    end

    test "counts neither errors nor incomplete nor empty answers" do
      state =
        pruning()
        |> handle(answer(["n1@h"]), 10)
        |> handle({:lookup_failed, @srv, {:truncated, "cut"}}, 20)
        |> handle(answer(["n1@h"], @srv, complete: false), 30)
        |> handle(answer([]), 40)

      assert disconnected(state) == []
    end

    test "starts to count again after an answer that contains the node" do
      state =
        pruning()
        |> handle(answer(["n1@h"]), 10)
        |> handle(answer(for(n <- 1..4, do: "n#{n}@h")), 20)
        |> handle(answer(["n1@h"]), 30)

      assert disconnected(state) == []
    end
  end
end
