defmodule Caravan.Cluster.MembershipTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Alarms
  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Membership

  @srv {"app.test", :srv}

  defp membership(options \\ []) do
    config =
      Config.new!(
        Keyword.merge([query: "app.test", node_sname: "app", poll_interval: 10_000], options)
      )

    Membership.new(config, 1, 0)
  end

  defp env(now, options),
    do:
      Map.merge(
        %{now: now, self: "me@h", existing_atom?: fn _ -> false end, atoms_available: true},
        Map.new(options)
      )

  defp handle({_actions, membership}, event, now, options),
    do: Membership.handle(membership, event, env(now, options))

  defp handle(membership, event, now, options),
    do: Membership.handle(membership, event, env(now, options))

  defp handle(state, event, now), do: handle(state, event, now, [])

  defp answer(names, source \\ @srv, options \\ []) do
    endpoints =
      Map.new(names, fn
        {name, ports, addresses} -> {name, %Endpoint{ports: ports, addresses: addresses}}
        name -> {name, %Endpoint{}}
      end)

    {:answer, source,
     Map.merge(%{endpoints: endpoints, ttl: nil, complete: true}, Map.new(options))}
  end

  defp dialled({actions, _membership}), do: Enum.sort(for {:connect, name} <- actions, do: name)
  defp reports({actions, _membership}), do: for({:report, report} <- actions, do: report)
  defp actions({actions, _membership}), do: actions

  # The names dialled when time goes on to `until`, with the times.
  defp dials(state, until, alive \\ fn _ -> false end, found \\ [])

  defp dials({_actions, membership}, until, alive, found) do
    case Membership.wake(membership, 0) do
      wake when is_integer(wake) and wake <= until ->
        state = handle(membership, :tick, wake)

        {found, state} =
          Enum.reduce(dialled(state), {found, state}, fn name, {found, state} ->
            {[{wake, name} | found],
             handle(state, {:connect_result, name, {:error, :unreachable}}, wake)}
          end)

        state =
          for({:lookup, source} <- actions(state), do: source)
          |> Enum.reduce(state, &handle(&2, {:lookup_failed, &1, {:timeout, "no"}}, wake))

        dials(state, until, alive, found)

      _later ->
        Enum.reverse(found)
    end
  end

  # Answers every 10 seconds that name one node, which never accepts a connection. `addresses` gets the
  # number of the answer.
  defp dead_node(addresses, rounds \\ 60) do
    start = %{state: membership(), dials: [], reports: []}

    Enum.reduce(0..(rounds - 1), start, fn round, acc ->
      now = round * 10_000
      answered = handle(acc.state, answer([{"a@h", [], addresses.(round)}]), now)
      acc = dial_and_fail(%{acc | state: answered}, now)
      Enum.reduce(1..9, acc, &tick_and_fail(&2, now + &1 * 1_000))
    end)
  end

  defp tick_and_fail(acc, now),
    do: dial_and_fail(%{acc | state: handle(acc.state, :tick, now)}, now)

  defp dial_and_fail(acc, now) do
    failures = for {:report, {:connect_failed, _, _} = report} <- actions(acc.state), do: report
    acc = %{acc | reports: acc.reports ++ failures}

    Enum.reduce(dialled(acc.state), acc, fn name, acc ->
      state = handle(acc.state, {:connect_result, name, {:error, :unreachable}}, now)
      failures = for {:connect_failed, _, _} = report <- reports(state), do: report
      %{acc | state: state, dials: [now | acc.dials], reports: acc.reports ++ failures}
    end)
  end

  describe "connecting" do
    test "the union of all sources, without this node" do
      other = {"other.test", :srv}
      state = membership(query: ["app.test", "other.test"]) |> handle(:tick, 0)
      state = handle(state, answer(["me@h", "a@h"]), 1)
      assert dialled(state) == ["a@h"]
      assert state |> handle(answer(["a@h", "b@h"], other), 2) |> dialled() == ["b@h"]
    end

    test "not this node, if it has its name later than DNS" do
      nobody = [self: "nonode@nohost"]
      state = membership() |> handle(answer(["me@h", "a@h"]), 0, nobody)
      assert dialled(state) == ["a@h", "me@h"]

      state =
        state
        |> handle({:connect_result, "me@h", {:error, :not_distributed}}, 1, nobody)
        |> handle({:connect_result, "a@h", {:error, :not_distributed}}, 1, nobody)

      state = handle(state, :tick, 60_000)
      assert dialled(state) == ["a@h"]
      assert Membership.members(elem(state, 1)) == ["a@h"]
    end

    test "not this node, if its own name has capital letters and DNS gives it in lower case" do
      own = [self: "app-4881@Node1.Test"]
      state = membership() |> handle(answer(["app-4881@node1.test", "a@h"]), 0, own)
      assert dialled(state) == ["a@h"]
      assert Membership.members(elem(state, 1)) == ["a@h"]
    end

    test "not who is connected already, in or out of DNS before" do
      state =
        membership()
        |> handle({:connected_nodes, ["a@h"]}, 0)
        |> handle(answer(["a@h", "b@h"]), 1)

      assert dialled(state) == ["b@h"]
      assert {:nodes_up, ["a@h"]} in reports(state)
    end

    test "a failed connect again and again, doubling to a minute" do
      state = membership() |> handle(answer(["a@h"]), 0)
      state = handle(state, {:connect_result, "a@h", {:error, :unreachable}}, 0)
      times = state |> dials(600_000) |> Enum.map(&elem(&1, 0))
      waits = Enum.zip_with(tl(times), times, &(&1 - &2))
      assert hd(times) in 250..500
      assert Enum.max(waits) <= 60_000
      assert Enum.sum(Enum.take(waits, -4)) > 120_000
    end

    test "a dead node whose answers rotate among two addresses as rarely as one with a fixed address" do
      fixed = dead_node(fn _round -> [{10, 0, 0, 1}] end)
      rotating = dead_node(fn round -> [{10, 0, 0, 1 + rem(round, 2)}] end)
      assert length(rotating.dials) <= length(fixed.dials) + 4
      assert rotating.reports == fixed.reports
    end

    test "a node at once whose answer has an address that was not seen within :keep" do
      rotating = dead_node(fn round -> [{10, 0, 0, 1 + rem(round, 2)}] end, 50)
      state = handle(rotating.state, answer([{"a@h", [], [{10, 0, 0, 9}]}]), 500_000)
      assert dialled(state) == ["a@h"]
    end

    test "a node that was connected at least at every poll" do
      state =
        membership()
        |> handle(answer(["a@h"]), 0)
        |> handle({:connected_nodes, ["a@h"]}, 1)
        |> handle({:connect_result, "a@h", :ok}, 1)
        |> handle({:connected_nodes, []}, 100_000)

      times = state |> dials(400_000) |> Enum.map(&elem(&1, 0))
      assert hd(times) in 100_001..100_500
      waits = Enum.zip_with(tl(times), times, &(&1 - &2))
      assert Enum.max(waits) <= 10_000
    end

    test "a node that comes and goes waits longer each time" do
      state = membership() |> handle(answer(["a@h"]), 0)

      waits =
        Enum.reduce(1..6, {[], state, 10}, fn _, {waits, state, now} ->
          state =
            state
            |> handle({:connected_nodes, ["a@h"]}, now)
            |> handle({:connect_result, "a@h", :ok}, now)

          {_, membership} = state = handle(state, {:connected_nodes, []}, now + 10)
          {[membership.peers["a@h"].retry_at - now - 10 | waits], state, now + 100}
        end)
        |> elem(0)
        |> Enum.reverse()

      assert hd(waits) <= 500
      assert Enum.at(waits, 5) in 5_000..10_000
    end

    test "those that failed least first" do
      state = membership(max_connects: 1) |> handle(answer(["a@h"]), 0)
      state = handle(state, {:connect_result, "a@h", {:error, :timeout}}, 0)
      # By the time that a@h is due again, so is the newcomer.
      state = handle(state, answer(["a@h", "z@h"]), 1_000)
      assert dialled(state) == ["z@h"]
    end

    test "no more at once than :max_connects, of those that are young" do
      names = for n <- 1..5, do: "n#{n}@h"
      {_, membership} = state = membership(max_connects: 2) |> handle(answer(names), 0)
      assert length(dialled(state)) == 2
      assert Membership.wake(membership, 0) == 100
      state = handle(state, :tick, 100)
      assert length(dialled(state)) == 2
      assert state |> handle(:tick, 200) |> dialled() |> length() == 1
    end

    test "one that claims success and is not there is a failure" do
      state = membership() |> handle(answer(["a@h"]), 0)
      state = handle(state, {:connect_result, "a@h", :ok}, 0)
      assert dialled(state) == []
      state = state |> handle(:tick, 500) |> handle({:connect_result, "a@h", :ok}, 500)
      assert {:connect_failed, "a@h", :not_listed} in reports(state)
    end

    test "a failure is told of when it comes again, once for each kind" do
      failed = fn state, kind -> handle(state, {:connect_result, "a@h", {:error, kind}}, 0) end
      state = membership() |> handle(answer(["a@h"]), 0) |> failed.(:timeout)
      assert reports(state) == []
      state = failed.(state, :unreachable)
      assert reports(state) == [{:connect_failed, "a@h", :unreachable}]
      state = failed.(state, :timeout)
      assert reports(state) == [{:connect_failed, "a@h", :timeout}]
      assert state |> failed.(:unreachable) |> reports() == []
      state = failed.(state, {:crashed, make_ref()})
      assert [{:connect_failed, "a@h", {:crashed, _}}] = reports(state)
      assert state |> failed.({:crashed, make_ref()}) |> reports() == []
    end

    test "at once when the record has moved" do
      state = membership(ports: :srv) |> handle(answer([{"a@h", [1], []}]), 0)

      state =
        Enum.reduce(1..8, state, fn _, state ->
          handle(state, {:connect_result, "a@h", {:error, :unreachable}}, 0)
        end)

      assert state |> handle(answer([{"a@h", [1], []}]), 300) |> dialled() == []
      assert state |> handle(answer([{"a@h", [2], []}]), 300) |> dialled() == ["a@h"]
    end

    test "at once when the record disappeared and returns" do
      state = membership(keep: 0) |> handle(answer(["a@h", "b@h"]), 0)

      state =
        Enum.reduce(1..8, state, fn _, state ->
          handle(state, {:connect_result, "a@h", {:error, :unreachable}}, 0)
        end)

      state = handle(state, answer(["b@h"]), 1)
      assert state |> handle(answer(["a@h", "b@h"]), 2) |> dialled() == ["a@h"]
    end

    test "all that were lost, soon, when one of them is back" do
      names = for n <- 1..20, do: "n#{n}@h"

      state =
        membership()
        |> handle(answer(["dead@h" | names]), 0)
        |> handle({:connected_nodes, names}, 1)

      state = handle(state, {:connected_nodes, []}, 10_000)

      state =
        for(_ <- 1..8, name <- ["dead@h" | names], do: name)
        |> Enum.reduce(state, &handle(&2, {:connect_result, &1, {:error, :unreachable}}, 10_000))

      {_, membership} = handle(state, {:connected_nodes, ["n1@h"]}, 10_001)

      times =
        for {name, peer} <- membership.peers, name not in ["n1@h", "dead@h"], do: peer.retry_at

      assert Enum.all?(times, &(&1 in 10_051..10_301))
      assert length(Enum.uniq(times)) > 10
      # Nobody has ever seen this one.
      assert membership.peers["dead@h"].retry_at > 30_000
    end

    test "nobody sooner because of a node that comes and goes" do
      state =
        membership()
        |> handle(answer(["a@h", "b@h"]), 0)
        |> handle({:connected_nodes, ["a@h", "b@h"]}, 1)

      state = handle(state, {:connected_nodes, ["b@h"]}, 10_000)

      state =
        Enum.reduce(1..8, state, fn _, state ->
          handle(state, {:connect_result, "a@h", {:error, :unreachable}}, 10_000)
        end)

      # It was steady once, and is not any more.
      state =
        state
        |> handle({:connected_nodes, []}, 10_010)
        |> handle({:connected_nodes, ["b@h"]}, 10_020)

      state =
        for(_ <- 1..8, do: {:connect_result, "a@h", {:error, :unreachable}})
        |> Enum.reduce(state, &handle(&2, &1, 10_020))

      state = handle(state, {:connected_nodes, []}, 10_030)
      {_, membership} = handle(state, {:connected_nodes, ["b@h"]}, 10_040)
      assert membership.peers["a@h"].retry_at > 15_000
    end

    test "not soon one that said it leaves" do
      state =
        membership()
        |> handle(answer(["a@h"]), 0)
        |> handle({:connected_nodes, ["a@h"]}, 1)
        |> handle({:connect_result, "a@h", :ok}, 1)
        |> handle({:peer_draining, "a@h"}, 100_000)
        |> handle({:connected_nodes, []}, 100_001)

      assert [{time, "a@h"} | _] = dials(state, 400_000)
      assert time > 100_001 + 30_000 - 1
    end
  end

  describe "nodeup and nodedown" do
    test "a member is connected, and lost, once however often that is reported" do
      state = membership() |> handle(answer(["a@h", "b@h"]), 0) |> handle({:nodeup, "a@h"}, 1)
      assert reports(state) == [{:nodes_up, ["a@h"]}]
      membership = elem(state, 1)
      assert Membership.connected(membership) == ["a@h"]
      assert Membership.connected?(membership, "a@h")
      refute Membership.connected?(membership, "b@h")
      refute Membership.connected?(membership, "c@h")
      assert Membership.counts(membership) == %{members: 2, connected: 1}
      assert state |> handle({:nodeup, "a@h"}, 2) |> reports() == []

      state = handle(state, {:nodedown, "a@h"}, 3)
      assert reports(state) == [{:nodes_down, ["a@h"]}]
      assert Membership.counts(elem(state, 1)) == %{members: 2, connected: 0}
      assert state |> handle({:nodedown, "a@h"}, 4) |> reports() == []
    end

    test "a node that is connected before DNS names it is not dialled" do
      state = membership() |> handle({:nodeup, "a@h"}, 0)
      assert Membership.counts(elem(state, 1)) == %{members: 0, connected: 0}
      state = handle(state, answer(["a@h", "b@h"]), 1)
      assert dialled(state) == ["b@h"]
      assert {:nodes_up, ["a@h"]} in reports(state)
      state = state |> handle({:nodedown, "a@h"}, 2) |> handle({:nodeup, "a@h"}, 3)
      assert Membership.connected(elem(state, 1)) == ["a@h"]
    end

    test "a connected node that is no member is deleted when it goes down" do
      state = membership(keep: 0) |> handle(answer(["a@h"]), 0) |> handle({:nodeup, "a@h"}, 1)
      {_, membership} = state = handle(state, answer(["b@h"]), 2)
      assert Membership.counts(membership) == %{members: 1, connected: 1}
      {_, membership} = handle(state, {:nodedown, "a@h"}, 3)
      assert Map.keys(membership.peers) == ["b@h"]
    end

    test "a snapshot that is ahead of the deltas reports a change once" do
      state = membership() |> handle(answer(["a@h"]), 0) |> handle({:connected_nodes, ["a@h"]}, 1)
      assert reports(state) == [{:nodes_up, ["a@h"]}]
      state = handle(state, {:nodeup, "a@h"}, 1)
      assert reports(state) == []
      # It went down and came up again: the snapshot saw neither.
      state = state |> handle({:connected_nodes, ["a@h"]}, 2) |> handle({:nodedown, "a@h"}, 2)
      assert reports(state) == [{:nodes_down, ["a@h"]}]
      assert state |> handle({:nodeup, "a@h"}, 2) |> reports() == [{:nodes_up, ["a@h"]}]
    end

    test "two nodes that come back within 300 ms make the others be dialled soon once" do
      names = ["a@h", "b@h", "c@h"]
      state = membership() |> handle(answer(names), 0) |> handle({:connected_nodes, names}, 1)
      state = handle(state, {:connected_nodes, []}, 10_000)
      failed = &handle(&1, {:connect_result, "c@h", {:error, :unreachable}}, &2)
      state = Enum.reduce(1..8, state, fn _, state -> failed.(state, 10_000) end)
      retry_at = fn {_, membership} -> membership.peers["c@h"].retry_at end

      state = handle(state, {:nodeup, "a@h"}, 10_001)
      assert retry_at.(state) in 10_051..10_301
      state = Enum.reduce(1..8, state, fn _, state -> failed.(state, 10_001) end)
      later = retry_at.(state)
      assert later > 12_000
      state = handle(state, {:nodeup, "b@h"}, 10_300)
      assert retry_at.(state) == later
      state = state |> handle({:nodedown, "a@h"}, 20_000) |> failed.(20_000)
      state = handle(state, {:nodeup, "a@h"}, 20_100)
      assert retry_at.(state) in 20_150..20_400
    end
  end

  describe "members" do
    test "a failed lookup and an empty answer take nobody away, however long" do
      state = membership(keep: 0) |> handle(answer(["a@h"]), 0)

      state =
        Enum.reduce(1..100, state, fn n, state ->
          state
          |> handle({:lookup_failed, @srv, {:timeout, "no"}}, n * 100_000)
          |> handle(answer([]), n * 100_000)
        end)

      assert state |> elem(1) |> Membership.members() == ["a@h"]
    end

    test "a name stays for :keep after the last answer that had it" do
      state = membership(keep: 60_000) |> handle(answer(["a@h", "b@h"]), 0)
      state = handle(state, answer(["b@h"]), 59_999)
      assert reports(state) == []
      state = handle(state, answer(["b@h"]), 60_000)
      assert {:members_changed, [], ["a@h"]} in reports(state)
    end

    test "one query that fails keeps what it named, whatever the others say" do
      other = {"other.test", :srv}

      state =
        membership(query: ["app.test", "other.test"], keep: 0)
        |> handle(answer(["a@h"], other), 0)
        |> handle(answer(["b@h"]), 100_000)
        |> handle({:lookup_failed, other, {:servfail, "no"}}, 200_000)
        |> handle(answer(["b@h"]), 300_000)

      assert Enum.sort(Membership.members(elem(state, 1))) == ["a@h", "b@h"]
    end

    test "more than :max_nodes are left out, those known longest stay" do
      state = membership(max_nodes: 2) |> handle(answer(["y@h", "z@h"]), 0)
      state = handle(state, answer(["a@h", "b@h", "c@h"]), 1)
      assert {:limit, :max_nodes, 3} in reports(state)
      assert Enum.sort(Membership.members(elem(state, 1))) == ["y@h", "z@h"]
      assert state |> handle(answer(["a@h", "b@h", "c@h"]), 2) |> reports() == []
    end
  end

  test "of two queries, one beyond :max_nodes is told of once" do
    small = {"small.test", :srv}
    state = membership(query: ["app.test", "small.test"], max_nodes: 10)
    names = for n <- 1..15, do: "n#{n}@h"

    {limits, _state} =
      Enum.flat_map_reduce(1..10, state, fn n, state ->
        big = handle(state, answer(names), n * 1_000)

        small =
          handle(big, answer(Enum.take(Membership.members(elem(big, 1)), 5), small), n * 1_000)

        {for({:limit, _, _} = limit <- reports(big) ++ reports(small), do: limit), small}
      end)

    assert limits == [{:limit, :max_nodes, 5}]
  end

  describe "the table of addresses" do
    test "is told what changes, and nothing else" do
      ip = {10, 0, 0, 1}
      state = membership(ports: :srv) |> handle(answer([{"a@h", [7], [ip]}]), 0)
      assert {:publish, [{"a@h", 7, [^ip]}]} = List.keyfind(actions(state), :publish, 0)
      state = handle(state, answer([{"a@h", [7], [ip]}]), 1)
      refute List.keyfind(actions(state), :publish, 0)
      state = handle(state, answer([{"a@h", [8], [ip]}]), 2)
      assert {:publish, [{"a@h", 8, [^ip]}]} = List.keyfind(actions(state), :publish, 0)
    end

    test "is not told of another order of the same addresses" do
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

    test "gets first what a query says now, before what one that fails said once" do
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

      # It answers again: the order of the options counts.
      state = handle(state, answer([{"a@h", [1], [old]}]), 70_000)
      assert {:publish, [{"a@h", 1, [old, new]}]} in actions(state)
    end

    test "keeps its order where answers are further apart than :keep" do
      other = {"other.test", :srv}
      options = [query: ["app.test", "other.test"], ports: :srv, keep: 0]

      state =
        membership(options)
        |> handle(answer([{"a@h", [1], []}]), 0)
        |> handle(answer([{"a@h", [2], []}], other), 5_000)

      refute List.keyfind(actions(state), :publish, 0)
    end

    test "tells of names with several ports once an answer, and remembers no more than there are" do
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

  describe "asking" do
    test "each source by itself: one that fails backs off, the other does not" do
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
      assert failing.next_lookup_at in 30_010..60_010
    end

    test "soon after a node went down" do
      state = membership(min_interval: 1_000) |> handle(:tick, 0) |> handle(answer(["a@h"]), 1)

      state =
        state |> handle({:connected_nodes, ["a@h"]}, 1) |> handle({:connected_nodes, []}, 1_500)

      {_, membership} = state
      [{@srv, source}] = membership.sources
      assert source.next_lookup_at in 1_501..1_700
    end

    test "a kind of failure is told of once, and so is the end of it" do
      failed = &handle(&1, {:lookup_failed, @srv, {&2, "text of #{&2}"}}, 0)
      state = membership() |> handle(:tick, 0) |> failed.(:timeout)
      assert reports(state) == [{:lookup_failed, @srv, "text of timeout"}]
      assert state |> failed.(:timeout) |> reports() == []
      state = failed.(state, :servfail)
      assert reports(state) == [{:lookup_failed, @srv, "text of servfail"}]
      state = handle(state, answer(["a@h"]), 1)
      assert {:lookup_recovered, @srv} in reports(state)
      refute {:lookup_recovered, @srv} in (state |> handle(answer(["a@h"]), 2) |> reports())
    end
  end

  describe "pruning" do
    defp pruning(options \\ []) do
      nodes = for n <- 1..4, do: "n#{n}@h"

      membership(Keyword.merge([prune: [after: 2], keep: 0], options))
      |> handle(answer(nodes), 0)
      |> handle({:connected_nodes, nodes}, 1)
    end

    defp dropped(state), do: for({:disconnect, name} <- actions(state), do: name)

    test "after so many complete answers, and no more than half" do
      state = pruning() |> handle(answer(["n1@h"]), 10)
      assert dropped(state) == []
      state = handle(state, answer(["n1@h"]), 20)
      assert dropped(state) == ["n2@h", "n3@h"]
      assert {:pruned, ["n2@h", "n3@h"], 1} in reports(state)
    end

    test "less and less often where it fails, and told of once" do
      state = pruning(prune: [after: 1])

      {drops, {_, pruned}} =
        Enum.flat_map_reduce(1..40, {state, []}, fn n, {state, pruned} ->
          state = handle(state, answer(["n1@h", "n2@h", "n3@h"]), n * 1_000)
          pruned = pruned ++ for {:pruned, names, _} <- reports(state), do: names
          {for("n4@h" <- dropped(state), do: n), {state, pruned}}
        end)

      assert drops == [1, 2, 4, 8, 16, 32]
      assert pruned == [["n4@h"]]

      # It went at last, came back, and goes again.
      state =
        state
        |> handle({:connected_nodes, ["n1@h"]}, 50_000)
        |> handle({:connected_nodes, ["n1@h", "n4@h"]}, 51_000)

      assert state |> handle(answer(["n1@h"]), 52_000) |> reports() |> List.keymember?(:pruned, 0)
    end

    test "never without the option" do
      state = pruning(prune: nil)
      state = Enum.reduce(1..50, state, &handle(&2, answer(["n1@h"]), &1 * 1_000))
      assert dropped(state) == []
    end

    test "neither errors nor incomplete nor empty answers count" do
      state =
        pruning()
        |> handle(answer(["n1@h"]), 10)
        |> handle({:lookup_failed, @srv, {:truncated, "cut"}}, 20)
        |> handle(answer(["n1@h"], @srv, complete: false), 30)
        |> handle(answer([]), 40)

      assert dropped(state) == []
    end

    test "one answer that names it begins the count anew" do
      state =
        pruning()
        |> handle(answer(["n1@h"]), 10)
        |> handle(answer(for(n <- 1..4, do: "n#{n}@h")), 20)
        |> handle(answer(["n1@h"]), 30)

      assert dropped(state) == []
    end
  end

  describe "limits of atoms" do
    test "a name that is one already costs nothing" do
      names = for n <- 1..5, do: "n#{n}@h"
      known = fn name -> name in ["n1@h", "n2@h"] end
      state = membership(max_new_names: 1) |> handle(answer(names), 0, existing_atom?: known)
      assert length(dialled(state)) == 3
      assert {:limit, :max_new_names, 2} in reports(state)
    end

    test "a full table makes none, and is told of once" do
      state = membership() |> handle(answer(["a@h", "b@h"]), 0, atoms_available: false)
      assert dialled(state) == []
      assert [_] = for({:limit, :atom_table, _} = report <- reports(state), do: report)
      state = handle(state, answer(["a@h", "b@h"]), 100, atoms_available: false)
      assert reports(state) == []
      assert state |> handle(:tick, 60_000) |> dialled() == ["a@h", "b@h"]
    end
  end

  test "drained, it does nothing and has nothing to wake for, until resumed" do
    {_, membership} = state = membership() |> handle(answer(["a@h"]), 0) |> handle(:drain, 1)
    assert Membership.wake(membership, 1) == :never
    state = handle(state, {:connected_nodes, []}, 100_000)
    assert actions(state) == []
    state = handle(state, :resume, 100_001)
    assert {:lookup, @srv} in actions(state)
    assert dialled(state) == ["a@h"]
    # The table of addresses was emptied, and is asked by the connect.
    told = Enum.find_index(actions(state), &(&1 == {:publish, [{"a@h", nil, []}]}))
    assert told < Enum.find_index(actions(state), &(&1 == {:connect, "a@h"}))
  end
end
