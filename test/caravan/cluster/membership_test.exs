defmodule Caravan.Cluster.MembershipTest do
  @moduledoc """
  Lookups, drains, and all parts of the membership together with a limited number of links. The files in membership/ test
  its parts, most of them by events too.
  """
  use ExUnit.Case, async: true

  import Caravan.Test.MembershipEvents

  alias Caravan.Cluster.Membership

  @srv {"app.test", :srv}

  describe "lookups" do
    test "of a source that fails become rarer, and those of another source do not" do
      bad = {"bad.test", :srv}
      {_, membership} = state = membership(query: ["app.test", "bad.test"]) |> handle(:tick, 0)
      assert actions(state) == [{:lookup, @srv}, {:lookup, bad}]
      assert Membership.wake(membership, 0) > 0

      state =
        Enum.reduce(1..10, state, fn n, state ->
          handle(state, {:lookup_failed, bad, {:timeout, "no"}}, n)
        end)

      {_, membership} = handle(state, answer(["a@h"], @srv, ttl: 0), 10)
      [{@srv, good}, {^bad, failing}] = membership.sources
      assert good.next_lookup_at <= 10 + 10_000
      assert failing.next_lookup_at in 5_010..10_010
    end

    test "start soon after a nodedown" do
      state = membership(min_interval: 1_000) |> handle(:tick, 0) |> handle(answer(["a@h"]), 1)

      state =
        state |> handle({:connected_nodes, ["a@h"]}, 1) |> handle({:connected_nodes, []}, 1_500)

      {_, membership} = state
      [{@srv, source}] = membership.sources
      assert source.next_lookup_at in 1_501..1_700
    end

    test "start :min_interval after the last one at the earliest, after a nodedown and after an answer" do
      # The wait after the first answer is random, so this checks the wait after the second one.
      state = membership(min_interval: 5_000) |> handle(:tick, 0) |> handle(answer(["a@h"]), 1)
      state = state |> handle(:tick, 20_000) |> handle(answer(["a@h"], @srv, ttl: 1), 20_001)
      assert next_lookup_at(state) in 24_001..26_001
      state = state |> handle({:nodeup, "a@h"}, 20_002) |> handle({:nodedown, "a@h"}, 20_003)
      assert next_lookup_at(state) in 24_001..25_000
    end

    defp next_lookup_at({_actions, membership}) do
      [{@srv, source}] = membership.sources
      source.next_lookup_at
    end

    test "reports a type without records as a failure only if no other type of the query has records" do
      [a, aaaa] = sources = for type <- [:a, :aaaa], do: {"app.test", type}
      state = membership(query: "app.test", type: [:a, :aaaa])
      failed = &handle(&1, {:lookup_failed, &2, {:no_records, "none"}}, 0)

      state = failed.(state, aaaa)
      assert reports(state) == [{:no_records, aaaa, {:no_records, "none"}}]
      assert reports(failed.(state, a)) == [{:lookup_failed, a, {:no_records, "none"}}]
      assert state |> failed.(a) |> failed.(aaaa) |> reports() == []

      # Another query, or another kind of failure, does not count.
      state = membership(query: ["app.test", "b.test"], type: :a)
      assert reports(failed.(state, a)) == [{:lookup_failed, a, {:no_records, "none"}}]
      state = membership(query: "app.test", type: [:a, :aaaa])

      for source <- sources do
        state = handle(state, {:lookup_failed, source, {:nxdomain, "no name"}}, 0)
        assert reports(state) == [{:lookup_failed, source, {:nxdomain, "no name"}}]
      end
    end

    test "report each kind of failure once, and the recovery once" do
      failed = &handle(&1, {:lookup_failed, @srv, {&2, "text of #{&2}"}}, 0)
      state = membership() |> handle(:tick, 0) |> failed.(:timeout)
      assert reports(state) == [{:lookup_failed, @srv, {:timeout, "text of timeout"}}]
      assert state |> failed.(:timeout) |> reports() == []
      state = failed.(state, :servfail)
      assert reports(state) == [{:lookup_failed, @srv, {:servfail, "text of servfail"}}]
      state = handle(state, answer(["a@h"]), 1)
      assert {:lookup_recovered, @srv} in reports(state)
      refute {:lookup_recovered, @srv} in (state |> handle(answer(["a@h"]), 2) |> reports())
    end

    test "report no recovery of a type without records that was no failure" do
      [a, aaaa] = for type <- [:a, :aaaa], do: {"app.test", type}
      state = membership(query: "app.test", type: [:a, :aaaa])
      failed = &handle(&1, {:lookup_failed, &2, {&3, "text"}}, 0)

      recovered? =
        &({:lookup_recovered, aaaa} in (&1 |> handle(answer(["a@h"], aaaa), 1) |> reports()))

      state = failed.(state, aaaa, :no_records)
      refute recovered?.(state)
      assert state |> failed.(aaaa, :timeout) |> recovered?.()

      assert state
             |> failed.(a, :no_records)
             |> handle(answer(["a@h"], a), 1)
             |> reports()
             |> Enum.member?({:lookup_recovered, a})
    end
  end

  test "a topology that resumes starts lookups and dials at once, whatever was pending or has failed" do
    state = membership() |> handle(answer(["a@h"]), 0) |> handle(:tick, 60_000)
    assert {:lookup, @srv} in actions(state)

    state =
      Enum.reduce(1..8, state, fn _, state ->
        handle(state, {:connect_result, "a@h", {:error, :unreachable}}, 60_000)
      end)

    state = state |> handle(:drain, 60_001) |> handle(:resume, 60_002)
    assert {:lookup, @srv} in actions(state)
    assert dialled(state) == ["a@h"]
  end

  test "a drained topology has no actions and no next tick until :resume" do
    {_, membership} = state = membership() |> handle(answer(["a@h"]), 0) |> handle(:drain, 1)
    assert Membership.wake(membership, 1) == :never
    state = handle(state, {:connected_nodes, []}, 100_000)
    assert actions(state) == []
    state = handle(state, :resume, 100_001)
    assert {:lookup, @srv} in actions(state)
    assert dialled(state) == ["a@h"]
    # A connect reads the peer table, which the drain has emptied.
    published = Enum.find_index(actions(state), &(&1 == {:publish, [{"a@h", nil, []}]}))
    assert published < Enum.find_index(actions(state), &(&1 == {:connect, "a@h", nil}))
  end

  describe "with a limited number of links" do
    @names for n <- 1..6, do: "n#{n}@h"

    # The members in the order of their rank for me@h.
    @ranked Enum.sort_by(@names, &:erlang.phash2({"me@h", &1}, 4_294_967_296))

    # The first two members are connected, by connects of this node.
    setup do
      state = membership(links: 2) |> handle(answer(@names), 0)
      [first, second | _] = @ranked
      assert dialled(state) == Enum.sort([first, second])
      %{state: state |> connect(first, 1) |> connect(second, 1)}
    end

    defp connect(state, name, now) do
      state = handle(state, {:nodeup, name}, now)
      handle(state, {:connect_result, name, :ok}, now)
    end

    # Lets seconds pass until a stand-in is released.
    defp await_release(state, now) do
      case List.keyfind(actions(state), :release, 0) do
        nil -> state |> handle(:tick, now + 1_000) |> await_release(now + 1_000)
        {:release, name} -> {name, now, state}
      end
    end

    test "all members are published, and only the links are dialled", %{state: state} do
      {_, membership} = state = handle(state, :tick, 120_000)
      assert dialled(state) == []
      assert length(membership.published) == 6
      assert Enum.sort(Membership.linked(membership)) == Enum.sort(@ranked)
    end

    test "a stand-in replaces a lost node at once, and the lost node is dialled again after its own waits",
         context do
      [first, _second, third, fourth | _] = @ranked
      state = handle(context.state, {:nodedown, first}, 10_000)
      assert reports(state) == [{:nodes_down, [first], :preferred}]
      assert dialled(state) == [third]

      # The stand-in cannot be reached, so the next one is dialled, before the first node.
      state = handle(state, {:connect_result, third, {:error, :unreachable}}, 10_001)
      assert dialled(state) == [fourth]
      state = handle(state, {:nodeup, fourth}, 10_010)
      assert reports(state) == [{:nodes_up, [fourth], :stand_in}]
      state = handle(state, {:connect_result, fourth, :ok}, 10_010)
      assert state |> handle(:tick, 10_300) |> dialled() == [first]
    end

    test "a stand-in is given up a minute after the preferred node is back", context do
      [first, _second, third | _] = @ranked
      state = context.state |> handle({:nodedown, first}, 10_000) |> connect(third, 10_001)
      state = state |> handle(:tick, 10_300) |> connect(first, 20_000)
      assert Membership.wants(elem(state, 1), third) == false
      {^third, 80_000, state} = await_release(state, 20_000)

      # A release is no failure: it brings no lookup forward, and the node can be a stand-in again at once.
      before = elem(state, 1).sources
      state = handle(state, {:nodedown, third}, 80_001)
      assert reports(state) == [{:nodes_down, [third], :released}]
      assert elem(state, 1).sources == before
      state = handle(state, {:release_result, third, :released}, 80_002)
      assert reports(state) == [{:link_released, third}]

      assert state
             |> handle({:nodedown, first}, 90_000)
             |> actions()
             |> Enum.member?({:connect, third, nil})
    end

    test "a preferred node that announces its leave, but stays, is a link again, and its stand-in is given up",
         context do
      [first, _second, third | _] = @ranked
      state = handle(context.state, {:peer_draining, first}, 10_000)
      assert dialled(state) == [third]
      {_, membership} = state = connect(state, third, 10_001)
      assert Membership.wants(membership, third)
      assert Membership.wake(membership, 10_001) <= 20_000
      {_, membership} = state = handle(state, :tick, 20_000)
      refute Membership.wants(membership, third)
      assert {^third, 80_000, _state} = await_release(state, 20_000)
    end

    test "a stand-in that another topology wants stays, and is no link of this one any more",
         context do
      [first, _second, third, fourth | _] = @ranked
      state = context.state |> handle({:nodedown, first}, 10_000) |> connect(third, 10_001)
      assert Membership.wants(elem(state, 1), third)
      state = state |> handle(:tick, 10_300) |> connect(first, 20_000)
      {^third, 80_000, state} = await_release(state, 20_000)
      state = handle(state, {:release_result, third, :kept}, 80_001)
      assert reports(state) == []

      assert for(
               now <- 80_002..90_000//1_000,
               action <- actions(handle(state, :tick, now)),
               match?({:release, _}, action),
               do: action
             ) == []

      assert state |> handle({:nodedown, first}, 90_000) |> dialled() == [fourth]

      assert state |> handle({:nodedown, third}, 90_000) |> reports() == [
               {:nodes_down, [third], :other}
             ]
    end

    test "a connection that the other node made during the probe is not released" do
      [first, second, third | _] = @ranked

      for {result, opened?} <- [ok: true, already: false] do
        state = membership(links: 2) |> handle(answer(@names), 0) |> connect(first, 1)
        state = handle(state, {:connect_result, second, {:error, :unreachable}}, 2)
        assert dialled(state) == [third]
        state = handle(state, {:nodeup, third}, 3)
        {_, membership} = handle(state, {:connect_result, third, result}, 4)
        assert membership.peers[third].opened == opened?
      end
    end

    test "before its first answer, a topology may want any link" do
      assert Membership.wants(membership(links: 2), "a@h") == :unknown
      refute Membership.wants(membership(links: 2) |> handle(answer([]), 0) |> elem(1), "a@h")
    end

    test "a topology wants links to its preferred members", %{state: {_, membership}} do
      [first, second, third | _] = @ranked

      assert Enum.map([first, second, third, "unknown@h"], &Membership.wants(membership, &1)) ==
               [true, true, false, false]

      {_, all} = membership() |> handle(answer(@names), 0)
      assert Membership.wants(all, third)
      {_, drained} = handle(all, :drain, 1)
      refute Membership.wants(drained, third)
    end

    test "a stand-in that the other node has connected stays", context do
      [first, _second, third, fourth | _] = @ranked
      state = handle(context.state, {:nodeup, fourth}, 9_000)
      assert reports(state) == [{:nodes_up, [fourth], :other}]
      state = handle(state, {:nodedown, first}, 10_000)
      assert dialled(state) == [third]

      # Both nodes dialled, and the connection of the other one was faster.
      state = handle(state, {:nodeup, third}, 10_001)
      state = handle(state, {:connect_result, third, {:error, :unreachable}}, 10_002)
      state = state |> handle(:tick, 10_300) |> connect(first, 20_000)

      for now <- 21_000..200_000//1_000, reduce: state do
        state ->
          state = handle(state, :tick, now)
          assert for({:release, name} <- actions(state), do: name) == []
          state
      end
    end

    test "waits after failures depend on the nodes that failed, and not on the others" do
      names = for n <- 1..1_000, do: "n#{n}@h"
      state = membership(links: 1) |> handle(answer(names), 0)
      [name] = dialled(state)
      state = handle(state, {:connect_result, name, {:error, :unreachable}}, 1)
      # A stand-in is connected, so only the preferred node is dialled.
      [stand_in] = dialled(state)
      state = connect(state, stand_in, 2)
      assert Enum.any?(3..600, &(state |> handle(:tick, &1) |> dialled() == [name]))
    end

    test "with `links: 0`, no node is dialled, and connected nodes do not count as linked" do
      {_, membership} = state = membership(links: 0) |> handle(answer(@names), 0)
      assert {dialled(state), length(membership.published)} == {[], 6}
      {_, membership} = state |> handle({:nodeup, "n1@h"}, 1) |> handle(:tick, 60_000)
      assert Membership.linked(membership) == []
    end
  end
end
