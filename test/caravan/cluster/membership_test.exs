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

  # The members of a topology without a limit of links.
  defp members(membership),
    do: for({name, {true, _status}} <- Membership.nodes(membership), do: name)

  defp dialled({actions, _membership}),
    do: Enum.sort(for {:connect, name, _probe} <- actions, do: name)

  defp reports({actions, _membership}), do: for({:report, report} <- actions, do: report)
  defp actions({actions, _membership}), do: actions

  # Returns the times and names of all dials until `until`. Each connect and each lookup fails.
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

  # Simulates a dead node. An answer that contains it comes every 10 seconds, and each connect fails. `addresses`
  # returns its addresses for the number of the answer.
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
    test "dials the nodes of all sources, except this node" do
      other = {"other.test", :srv}
      state = membership(query: ["app.test", "other.test"]) |> handle(:tick, 0)
      state = handle(state, answer(["me@h", "a@h"]), 1)
      assert dialled(state) == ["a@h"]
      assert state |> handle(answer(["a@h", "b@h"], other), 2) |> dialled() == ["b@h"]
    end

    test "does not dial this node when it gets its name after the answer" do
      nonode = [self: "nonode@nohost"]
      state = membership() |> handle(answer(["me@h", "a@h"]), 0, nonode)
      assert dialled(state) == ["a@h", "me@h"]

      state =
        state
        |> handle({:connect_result, "me@h", {:error, :not_distributed}}, 1, nonode)
        |> handle({:connect_result, "a@h", {:error, :not_distributed}}, 1, nonode)

      state = handle(state, :tick, 60_000)
      assert dialled(state) == ["a@h"]
      assert members(elem(state, 1)) == ["a@h"]
    end

    test "does not dial this node if its name has capital letters and DNS returns it in lower case" do
      own = [self: "app-4881@Node1.Test"]
      state = membership() |> handle(answer(["app-4881@node1.test", "a@h"]), 0, own)
      assert dialled(state) == ["a@h"]
      assert members(elem(state, 1)) == ["a@h"]
    end

    test "does not dial a node that was connected before an answer contained it" do
      state =
        membership()
        |> handle({:connected_nodes, ["a@h"]}, 0)
        |> handle(answer(["a@h", "b@h"]), 1)

      assert dialled(state) == ["b@h"]
      assert {:nodes_up, ["a@h"], nil} in reports(state)
    end

    test "dials a node that does not answer again, with waits that double to a minute" do
      state = membership() |> handle(answer(["a@h"]), 0)
      state = handle(state, {:connect_result, "a@h", {:error, :unreachable}}, 0)
      times = state |> dials(600_000) |> Enum.map(&elem(&1, 0))
      waits = Enum.zip_with(tl(times), times, &(&1 - &2))
      assert hd(times) in 250..500
      assert Enum.max(waits) <= 60_000
      assert Enum.sum(Enum.take(waits, -4)) > 120_000
    end

    test "dials a new node whose handshakes fail more rarely if there are many members" do
      names = for n <- 1..999, do: "n#{n}@h"

      [0, second | later] =
        membership(poll_interval: 60_000)
        |> handle({:connected_nodes, names}, 0)
        |> handle(answer(["new@h" | names]), 0)
        |> handle({:connect_result, "new@h", {:error, :unreachable}}, 0)
        |> dials(60_000)
        |> then(&[0 | for({time, "new@h"} <- &1, do: time)])

      # The first connect may fail because the node is only starting.
      assert second <= 500

      for {time, next} <- Enum.zip([second | later], later),
          do: assert(next - time >= 5_000 - 1_024)

      assert length(later) <= 6
    end

    test "dials a dead node whose address alternates as rarely as one with a fixed address" do
      fixed = dead_node(fn _round -> [{10, 0, 0, 1}] end)
      rotating = dead_node(fn round -> [{10, 0, 0, 1 + rem(round, 2)}] end)
      assert length(rotating.dials) <= length(fixed.dials) + 6
      assert rotating.reports == fixed.reports
    end

    test "dials a node at once when it has an address that was not seen within :keep" do
      rotating = dead_node(fn round -> [{10, 0, 0, 1 + rem(round, 2)}] end, 50)
      state = handle(rotating.state, answer([{"a@h", [], [{10, 0, 0, 9}]}]), 500_000)
      assert dialled(state) == ["a@h"]
    end

    test "dials a node that was connected once after a tenth of its absence, or after 40 seconds at most" do
      state =
        membership()
        |> handle(answer(["a@h"]), 0)
        |> handle({:connected_nodes, ["a@h"]}, 1)
        |> handle({:connect_result, "a@h", :ok}, 1)
        |> handle({:connected_nodes, []}, 100_000)

      times = state |> dials(600_000) |> Enum.map(&elem(&1, 0))
      assert hd(times) in 100_050..100_200

      for {time, next} <- Enum.zip(times, tl(times)) do
        assert next - time <= max(500, min(40_000, div(time - 100_000, 10)))
      end

      assert List.last(times) > 570_000
    end

    test "dials a node that flaps after a longer wait each time" do
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

    test "connects a new node without a probe, and probes it after a failure or a nodedown" do
      probed = fn state -> for {:connect, name, every} <- actions(state), every, do: name end
      refused = {:connect_result, "a@h", {:error, {:probe, {:refused, "h:1"}, 5}}}
      state = membership() |> handle(answer(["a@h", "b@h"]), 0)
      assert {dialled(state), probed.(state)} == {["a@h", "b@h"], []}
      state = state |> handle({:nodeup, "b@h"}, 1) |> handle({:connect_result, "b@h", :ok}, 1)
      state = handle(state, {:connect_result, "a@h", {:error, :unreachable}}, 2)
      state = handle(state, :tick, 502)
      assert probed.(state) == ["a@h"]
      state = state |> handle(refused, 503) |> handle({:nodedown, "b@h"}, 10_000)
      assert "b@h" in probed.(handle(state, :tick, 10_200))
    end

    test "probes a node that was connected several times a second at first, with or without reply" do
      start =
        membership()
        |> handle(answer(["a@h"]), 0)
        |> handle({:nodeup, "a@h"}, 1)
        |> handle({:connect_result, "a@h", :ok}, 1)
        |> handle({:nodedown, "a@h"}, 10_000)

      for {finding, takes} <- [refused: 0, no_reply: 2_000] do
        kind = {:probe, {finding, "h:1"}, 5}

        {_state, spans, _now} =
          Enum.reduce(1..20, {start, [], 10_000}, fn _, {state, spans, now} ->
            # The end of a probe that had no reply starts the next one.
            {state, at} =
              if dialled(state) == ["a@h"],
                do: {state, now},
                else: {handle(state, :tick, now + 200), now + 200}

            assert [{:connect, "a@h", every}] =
                     for({:connect, _, _} = action <- actions(state), do: action)

            assert every in 100..200
            now = at + takes
            state = handle(state, {:connect_result, "a@h", {:error, kind}}, now)
            {state, [at | spans], now}
          end)

        assert Enum.max(Enum.zip_with(spans, tl(spans), &(&1 - &2))) <= max(200, takes)
      end
    end

    test "counts findings of a probe as one kind of failure, whatever the address" do
      failed = fn state, finding ->
        handle(state, {:connect_result, "a@h", {:error, {:probe, finding, make_ref()}}}, 2_000)
      end

      state = membership() |> handle(answer(["a@h"]), 0) |> failed.({:refused, "h:1"})
      assert reports(state) == []
      state = failed.(state, {:refused, "h:2"})
      assert [{:connect_failed, "a@h", {:probe, {:refused, "h:2"}, _}}] = reports(state)
      assert state |> failed.({:refused, "h:1"}) |> reports() == []
      state = failed.(state, {:no_reply, "h:1"})
      assert [{:connect_failed, "a@h", {:probe, {:no_reply, "h:1"}, _}}] = reports(state)
      assert state |> failed.({:no_reply, "h:2"}) |> reports() == []
    end

    test "reports a failed probe two seconds after the first answer, or ten after a nodedown" do
      refused = {:error, {:probe, {:refused, "h:1"}, 5}}
      failed = fn state, now -> handle(state, {:connect_result, "a@h", refused}, now) end

      state = membership() |> handle(answer(["a@h"]), 1_000) |> failed.(1_001) |> failed.(2_999)
      assert reports(state) == []
      assert [{:connect_failed, "a@h", _}] = state |> failed.(3_000) |> reports()

      state = state |> handle({:nodeup, "a@h"}, 10_000) |> handle({:nodedown, "a@h"}, 20_000)
      state = state |> failed.(20_001) |> failed.(29_999)
      assert reports(state) == []
      assert [{:connect_failed, "a@h", _}] = state |> failed.(30_000) |> reports()
    end

    test "dials nodes with fewer failures first" do
      state = membership(max_connects: 1) |> handle(answer(["a@h"]), 0)
      state = handle(state, {:connect_result, "a@h", {:error, :timeout}}, 0)
      # Both nodes are due now.
      state = handle(state, answer(["a@h", "z@h"]), 1_000)
      assert dialled(state) == ["z@h"]
    end

    test "dials at most :max_connects nodes at once, not counting those that have been dialled for 100 ms" do
      names = for n <- 1..5, do: "n#{n}@h"
      {_, membership} = state = membership(max_connects: 2) |> handle(answer(names), 0)
      assert length(dialled(state)) == 2
      assert Membership.wake(membership, 0) == 100
      state = handle(state, :tick, 100)
      assert length(dialled(state)) == 2
      assert state |> handle(:tick, 200) |> dialled() |> length() == 1
    end

    test "has at most 512 connects in progress, and from 256 on probes new nodes first" do
      names = for n <- 1..1_000, do: "n#{n}@h"
      start = handle(membership(), answer(names), 0)
      states = [start | Enum.scan(1..20, start, &handle(&2, :tick, &1 * 100))]
      connects = for state <- states, {:connect, name, probe} <- actions(state), do: {name, probe}
      assert length(connects) == 512
      {first, rest} = Enum.split(connects, 256)
      assert Enum.all?(first, fn {_name, probe} -> probe == nil end)
      assert Enum.all?(rest, fn {_name, probe} -> is_integer(probe) end)

      # No slot is free before one of the connects ends.
      {_, membership} = full = List.last(states)
      assert Membership.wake(membership, 2_000) > 5_000
      {name, nil} = hd(first)
      full = handle(full, {:connect_result, name, {:error, :timeout}}, 2_001)
      assert [next] = dialled(full)
      refute List.keymember?(connects, next, 0)
    end

    test "needs no tick for nodes whose time comes before a slot is free" do
      names = for n <- 1..20, do: "n#{n}@h"
      state = membership(max_connects: 1) |> handle(answer(names), 0)
      state = state |> handle({:connected_nodes, names}, 1) |> handle(:tick, 20_000)
      state = handle(state, answer(names), 20_001)
      # Each is dialled again 50 ms later at the earliest.
      state = handle(state, {:connected_nodes, []}, 30_000)
      state = handle(state, answer(["new@h" | names]), 30_020)
      assert dialled(state) == ["new@h"]
      assert Membership.wake(elem(state, 1), 30_020) == 30_120
    end

    test "counts a connect that returned true as failed if the node is not connected" do
      state = membership() |> handle(answer(["a@h"]), 0)
      state = handle(state, {:connect_result, "a@h", :ok}, 0)
      assert dialled(state) == []
      state = state |> handle(:tick, 500) |> handle({:connect_result, "a@h", :ok}, 500)
      assert {:connect_failed, "a@h", :not_listed} in reports(state)
    end

    test "reports the second failure in a row, and each kind of failure once" do
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

    test "counts no failure of a connect whose node is connected by then" do
      # Both nodes have dialled, and one of the two connects has failed.
      failed = &handle(&1, {:connect_result, "a@h", {:error, :unreachable}}, &2)
      state = membership() |> handle(answer(["a@h"]), 0) |> handle({:nodeup, "a@h"}, 1)
      state = failed.(state, 2)
      state = state |> handle({:nodedown, "a@h"}, 10_000) |> failed.(10_500)
      assert reports(state) == []
      assert [{:connect_failed, "a@h", :unreachable}] = state |> failed.(11_500) |> reports()
    end

    test "forgets the failures before a nodeup, and the flaps before a steady connection" do
      failed = &handle(&1, {:connect_result, "a@h", {:error, :unreachable}}, &2)
      retry_at = fn {_, membership} -> membership.peers["a@h"].retry_at end
      state = membership() |> handle(answer(["a@h"]), 0)
      state = Enum.reduce(1..8, state, fn _, state -> failed.(state, 0) end)

      state =
        Enum.reduce(1..6, state, fn n, state ->
          state |> handle({:nodeup, "a@h"}, n * 10) |> handle({:nodedown, "a@h"}, n * 10 + 1)
        end)

      assert retry_at.(state) > 5_000

      state =
        state
        |> handle({:nodeup, "a@h"}, 10_000)
        |> handle({:nodedown, "a@h"}, 20_000)
        |> failed.(20_100)

      assert retry_at.(state) in 20_350..20_600
      assert reports(state) == []
      state = state |> handle({:nodeup, "a@h"}, 30_000) |> handle({:nodedown, "a@h"}, 30_010)
      assert retry_at.(state) in 30_260..30_510
    end

    test "dials a node that flaps after a long absence as often as one that was just lost" do
      state = membership() |> handle(answer(["a@h"]), 0) |> handle({:nodeup, "a@h"}, 1)
      state = state |> handle({:nodedown, "a@h"}, 10_000) |> handle({:nodeup, "a@h"}, 100_000)
      state = handle(state, {:nodedown, "a@h"}, 100_010)
      state = handle(state, {:connect_result, "a@h", {:error, :unreachable}}, 100_600)
      {_, membership} = state
      assert membership.peers["a@h"].retry_at in 100_850..101_100
    end

    test "uses another address after each failure, if the node has several" do
      failed = &handle(&1, {:connect_result, "a@h", {:error, :unreachable}}, 1)
      one = membership() |> handle(answer([{"a@h", [], [{10, 0, 0, 1}]}]), 0) |> failed.()
      assert actions(one) == []
      two = [{10, 0, 0, 1}, {10, 0, 0, 2}]
      state = membership() |> handle(answer([{"a@h", [], two}]), 0) |> failed.()
      assert actions(state) == [{:rotate_addresses, "a@h"}]
      assert state |> failed.() |> actions() |> List.keymember?(:rotate_addresses, 0)
    end

    test "dials a node at once when its port changes" do
      state = membership(ports: :srv) |> handle(answer([{"a@h", [1], []}]), 0)

      state =
        Enum.reduce(1..8, state, fn _, state ->
          handle(state, {:connect_result, "a@h", {:error, :unreachable}}, 0)
        end)

      assert state |> handle(answer([{"a@h", [1], []}]), 300) |> dialled() == []
      assert state |> handle(answer([{"a@h", [2], []}]), 300) |> dialled() == ["a@h"]
    end

    test "dials a node at once when its record returns after longer than :keep" do
      state = membership(keep: 0) |> handle(answer(["a@h", "b@h"]), 0)

      state =
        Enum.reduce(1..8, state, fn _, state ->
          handle(state, {:connect_result, "a@h", {:error, :unreachable}}, 0)
        end)

      state = handle(state, answer(["b@h"]), 1)
      assert state |> handle(answer(["a@h", "b@h"]), 2) |> dialled() == ["a@h"]
    end

    test "dials all lost nodes soon when one of them is connected again" do
      names = for n <- 1..20, do: "n#{n}@h"

      state =
        membership()
        |> handle(answer(["dead@h" | names]), 0)
        |> handle({:connected_nodes, names}, 1)

      state = handle(state, {:connected_nodes, []}, 10_000)

      state =
        Enum.reduce(["dead@h" | names], state, fn name, state ->
          handle(state, {:connect_result, name, {:error, :unreachable}}, 200_000)
        end)

      {_, membership} = handle(state, {:connected_nodes, ["n1@h"]}, 200_001)

      times =
        for {name, peer} <- membership.peers, name not in ["n1@h", "dead@h"], do: peer.retry_at

      assert Enum.all?(times, &(&1 in 200_051..200_201))
      assert length(Enum.uniq(times)) > 10
      # This node was never connected.
      assert membership.peers["dead@h"].retry_at >= 230_000
    end

    test "dials no node sooner because of a node that flaps" do
      state =
        membership()
        |> handle(answer(["a@h", "b@h"]), 0)
        |> handle({:connected_nodes, ["a@h", "b@h"]}, 1)

      state = handle(state, {:connected_nodes, ["b@h"]}, 10_000)
      failed = &handle(&1, {:connect_result, "a@h", {:error, :unreachable}}, &2)

      # b@h was steady, and flaps now.
      state =
        state
        |> failed.(200_000)
        |> handle({:connected_nodes, []}, 200_010)
        |> handle({:connected_nodes, ["b@h"]}, 200_020)
        |> failed.(300_020)
        |> handle({:connected_nodes, []}, 200_030)

      {_, membership} = handle(state, {:connected_nodes, ["b@h"]}, 200_040)
      assert membership.peers["a@h"].retry_at > 301_000
    end

    test "does not redial a draining node soon" do
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

    test "of two lost nodes within 200 ms bring the dials of the other lost nodes forward only once" do
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

      # Equal answers are applied less often than they come.
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
      state = membership() |> handle(answer(["a@h"]), 0) |> handle(:peer_table_full, 1)
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

    test "disconnects a node that stays connected less and less often, and reports it once" do
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

  describe "the limits of atoms" do
    test "do not count a name that is an atom already" do
      names = for n <- 1..5, do: "n#{n}@h"
      known = fn name -> name in ["n1@h", "n2@h"] end
      state = membership(max_new_names: 1) |> handle(answer(names), 0, existing_atom?: known)
      assert length(dialled(state)) == 3
      assert {:limit, :max_new_names, 2} in reports(state)
    end

    test "stop new names while the atom table is nearly full, which is reported once" do
      state = membership() |> handle(answer(["a@h", "b@h"]), 0, atoms_available: false)
      assert dialled(state) == []
      assert [_] = for({:limit, :atom_table, _} = report <- reports(state), do: report)
      state = handle(state, answer(["a@h", "b@h"]), 100, atoms_available: false)
      assert reports(state) == []
      assert state |> handle(:tick, 60_000) |> dialled() == ["a@h", "b@h"]
    end

    test "report a full atom table again if it had room in between, even if no name became an atom then" do
      limits = fn state -> for {:limit, limit, _} <- reports(state), do: limit end
      state = membership(max_new_names: 1) |> handle(answer(["a@h"]), 0)
      state = handle(state, answer(["a@h", "b@h"]), 1, atoms_available: false)
      assert limits.(state) == [:atom_table]
      state = handle(state, :tick, 60_001)
      assert limits.(state) == [:max_new_names]
      state = handle(state, :tick, 120_001, atoms_available: false)
      assert limits.(state) == [:atom_table]
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
