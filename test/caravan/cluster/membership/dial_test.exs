defmodule Caravan.Cluster.Membership.DialTest do
  use ExUnit.Case, async: true

  import Caravan.Test.MembershipEvents

  alias Caravan.Cluster.Membership

  # Returns the times and names of all dials until `until`. Each connect and each lookup fails.
  defp dials(state, until, found \\ [])

  defp dials({_actions, membership}, until, found) do
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

        dials(state, until, found)

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

    test "dials a node that does not answer after waits that double up to a minute" do
      state = membership() |> handle(answer(["a@h"]), 0)
      state = handle(state, {:connect_result, "a@h", {:error, :unreachable}}, 0)
      times = state |> dials(600_000) |> Enum.map(&elem(&1, 0))
      waits = Enum.zip_with(tl(times), times, &(&1 - &2))
      assert hd(times) in 250..500
      assert Enum.max(waits) <= 60_000
      assert Enum.sum(Enum.take(waits, -4)) > 120_000
    end

    test "waits longer between failed handshakes with a new node if there are many members" do
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

    test "dials a lost node after waits of a tenth of its absence so far, and of 40 seconds at most" do
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

    test "probes a lost node several times a second at first, with or without reply" do
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

    test "has at most 512 connects in progress, and probes even new nodes before a connect if 256 are in progress" do
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
end
