defmodule Caravan.Cluster.DnsStrategyTest do
  # Not async: it captures the log.
  use ExUnit.Case

  import Caravan.Test.Strategy
  import ExUnit.CaptureLog

  alias Caravan.Cluster.Alarms
  alias Caravan.Cluster.DnsStrategy
  alias Caravan.Test.DnsServer
  alias Caravan.Test.Eventually
  alias Caravan.Test.FakeNetwork
  alias Caravan.Test.Host

  @query "_app._tcp.test"

  setup :start_servers

  describe "discovery" do
    test "the strategy connects the nodes in DNS as soon as it starts", context do
      DnsServer.put(context.server, @query, :srv, [srv(4001), srv(4002, "other.test")])
      start(context, poll_interval: 3_600_000)
      assert_receive {:connect, :"app-4001@node.test"}, 5_000
      assert_receive {:connect, :"app-4002@other.test"}, 5_000
    end

    test "the strategy looks up again after each interval and connects new nodes", context do
      DnsServer.put(context.server, @query, :srv, {:sequence, [[srv(1)], [srv(1), srv(2)]]})
      start(context)
      assert_receive {:connect, :"app-1@node.test"}, 5_000
      assert_receive {:connect, :"app-2@node.test"}, 5_000
      await_round()
      refute_received {:connect, _}
    end

    test "the strategy never connects its own node", context do
      own = node() |> Atom.to_string() |> String.split("@") |> hd()
      DnsServer.put(context.server, @query, :srv, [srv(1, "nohost"), srv(4001)])
      start(context, node_sname: own, node_name: "{name}@{host}")
      assert_receive {:connect, _}, 5_000
      await_round()
      refute_received {:connect, :nonode@nohost}
    end

    test "the nodes of several queries are connected, for A and AAAA records too", context do
      DnsServer.put(context.server, "a.test", :a, [{127, 0, 0, 1}])
      DnsServer.put(context.server, "b.test", :aaaa, [{0, 0, 0, 0, 0, 0, 0, 1}])
      start(context, query: ["a.test", "b.test"], type: [:a, :aaaa])
      assert_receive {:connect, :"app@127.0.0.1"}, 5_000
      assert_receive {:connect, :"app@::1"}, 5_000
    end

    test "a custom dns_client is called in place of the resolver", context do
      defmodule Client do
        @behaviour Caravan.DnsClient
        @impl true
        def get_nodes("clients.test"), do: [{4001, "node.test"}]
      end

      start(context, query: "clients.test", dns_client: Client)
      assert_receive {:connect, :"app-4001@node.test"}, 5_000
    end
  end

  describe "a connected node stays connected" do
    for reply <- [:nxdomain, :empty, :servfail, :refused, :silent, :garbage, :wrong_id, :cut] do
      test "when DNS answers #{reply}", context do
        DnsServer.put(context.server, @query, :srv, [srv(4001)])
        strategy = start(context, lookup_timeout: 100)
        assert_receive {:connect, :"app-4001@node.test"}, 5_000
        DnsServer.put(context.server, @query, :srv, unquote(reply))
        await_round()
        assert FakeNetwork.list(context.network) == [:"app-4001@node.test"]
        assert Process.alive?(strategy)
      end
    end

    test "and lookups continue after a failure", context do
      replies = {:sequence, [:servfail, :servfail, [srv(4001)]]}
      DnsServer.put(context.server, @query, :srv, replies)
      # Sends one query for each lookup: otherwise SERVFAIL is tried again.
      start(context, lookup_attempts: 1)
      assert_receive {:connect, :"app-4001@node.test"}, 5_000
    end

    test "and is connected again after a nodedown while DNS fails", context do
      DnsServer.put(context.server, @query, :srv, [srv(4001)])
      start(context)
      assert_receive {:connect, :"app-4001@node.test"}, 5_000
      DnsServer.put(context.server, @query, :srv, :servfail)
      await_round()
      FakeNetwork.drop(context.network, :"app-4001@node.test")
      assert_receive {:connect, :"app-4001@node.test"}, 5_000
    end

    test "when the dns_client raises, hangs, or returns a wrong term", context do
      defmodule FaultyClient do
        @behaviour Caravan.DnsClient
        @impl true
        def get_nodes(_name) do
          case :counters.get(counter(), 1) do
            0 -> :counters.add(counter(), 1, 1) && raise "no"
            1 -> :counters.add(counter(), 1, 1) && :rubbish
            2 -> :counters.add(counter(), 1, 1) && Process.sleep(:infinity)
            3 -> :counters.add(counter(), 1, 1) && [{70_000, "node.test"}]
            4 -> :counters.add(counter(), 1, 1) && [{4001, "node.test"} | :improper]
            _ -> [{4001, "node.test"}]
          end
        end

        def counter, do: :persistent_term.get(__MODULE__)
      end

      :persistent_term.put(FaultyClient, :counters.new(1, []))

      log =
        capture_log(fn ->
          start(context, dns_client: FaultyClient, lookup_timeout: 100)
          assert_receive {:connect, :"app-4001@node.test"}, 20_000
        end)

      assert log =~ "the dns_client failed"
      assert log =~ "returned :rubbish, expected a list of {port, host}"
    end
  end

  describe "connecting" do
    test "dead addresses that come first do not delay other nodes", context do
      records = for n <- 1..10, do: srv(n, "a-dead.test")
      for n <- 1..10, do: FakeNetwork.behave(context.network, :"app-#{n}@a-dead.test", :hangs)
      DnsServer.put(context.server, @query, :srv, records ++ [srv(4001)])
      start(context, connect_timeout: 60_000)

      Host.await(fn -> FakeNetwork.list(context.network) == [:"app-4001@node.test"] end, "a join")
    end

    test "a node is dialled soon after its nodedown, and not at the next interval", context do
      DnsServer.put(context.server, @query, :srv, [srv(4001)])
      strategy = start(context, poll_interval: 3_600_000)
      assert_receive {:connect, :"app-4001@node.test"}, 5_000
      Host.await(fn -> FakeNetwork.list(context.network) != [] end, "a connect")

      FakeNetwork.drop(context.network, :"app-4001@node.test")
      send(strategy, {:nodedown, :"app-4001@node.test", []})
      assert_receive {:connect, :"app-4001@node.test"}, 5_000
    end

    test "a node is not dialled again while a connect is in progress", context do
      FakeNetwork.behave(context.network, :"app-4001@node.test", :hangs)
      DnsServer.put(context.server, @query, :srv, [srv(4001)])
      start(context, connect_timeout: 60_000)
      assert_receive {:connect, :"app-4001@node.test"}, 5_000
      await_round()
      refute_received {:connect, _}
    end

    test "a connect that hangs ends at its deadline, and is repeated", context do
      FakeNetwork.behave(context.network, :"app-4001@node.test", :hangs)
      DnsServer.put(context.server, @query, :srv, [srv(4001)])

      log =
        capture_log(fn ->
          start(context, connect_timeout: 100)
          for _ <- 1..3, do: assert_receive({:connect, :"app-4001@node.test"}, 10_000)
        end)

      assert log =~ "cannot connect to app-4001@node.test: no result within :connect_timeout"
    end

    test "the failure of a connect function is logged once, and the connect is repeated",
         context do
      FakeNetwork.behave(context.network, :"app-1@node.test", :raises)
      FakeNetwork.behave(context.network, :"app-2@node.test", {:returns, :rubbish})
      FakeNetwork.behave(context.network, :"app-3@node.test", :unreachable)
      DnsServer.put(context.server, @query, :srv, [srv(1), srv(2), srv(3)])

      log =
        capture_log(fn ->
          start(context)

          for n <- 1..3, node = :"app-#{n}@node.test", _ <- 1..3 do
            assert_receive {:connect, ^node}, 5_000
          end

          await_round()
        end)

      assert [_, _] =
               String.split(log, "cannot connect to app-1@node.test: the connect function failed")

      assert [_, _] =
               String.split(
                 log,
                 "cannot connect to app-2@node.test: the connect function returned :rubbish"
               )

      assert [_, _] = String.split(log, "cannot connect to app-3@node.test: not reachable")
    end

    for {title, function} <- [raises: {Enum, :fetch!, [[], 0]}, exits: {Kernel, :exit, [:no]}] do
      test "a list_nodes function that #{title} is logged once, and lookups continue", context do
        DnsServer.put(context.server, @query, :srv, [srv(4001)])

        log =
          capture_log(fn ->
            strategy = start(context, list_nodes: unquote(Macro.escape(function)))
            # The function may end after the first lookups.
            warned? = fn -> Alarms.set?(:sys.get_state(strategy).warnings.alarms, :list_nodes) end
            assert Eventually.true?(warned?, 10_000)
            await_round()
          end)

        assert [_, _] =
                 String.split(log, "list_nodes #{inspect(unquote(Macro.escape(function)))}")
      end
    end
  end

  describe "a list_nodes function that hangs" do
    test "delays neither connects nor calls", context do
      DnsServer.put(context.server, @query, :srv, for(n <- 1..50, do: srv(n)))

      strategy = start(context, list_nodes: {Process, :sleep, [:infinity]}, log_level: :none)

      # Each connect result is an event that waits for a list.
      for n <- 1..50 do
        node = :"app-#{n}@node.test"
        assert_receive {:connect, ^node}, 10_000
      end

      flush_queries()
      assert_receive {:dns_query, _}, 10_000

      times =
        for _ <- 1..10 do
          started = System.monotonic_time(:millisecond)
          send(strategy, {:nodedown, :a@b, []})
          assert Caravan.Cluster.await(strategy, nodes: 1, timeout: 0) == {:error, :timeout}
          System.monotonic_time(:millisecond) - started
        end

      # Half of the calls, because a busy machine may delay some of them.
      assert times |> Enum.sort() |> Enum.at(5) < 900

      assert Caravan.Cluster.drain(strategy) == :ok
      assert Caravan.Cluster.resume(strategy) == :ok
      assert_receive {:connect, _}, 10_000
    end
  end

  describe "an endless number of names" do
    test "creates no more atoms than :max_new_names, in 1,000 lookups of 1,000 names", context do
      defmodule Inventor do
        @behaviour Caravan.DnsClient
        @impl true
        def get_nodes(_name) do
          {counter, owner} = :persistent_term.get(__MODULE__)
          poll = :atomics.add_get(counter, 1, 1)
          if poll == 1_000, do: send(owner, :thousand)
          for n <- 1..1_000, do: {4_001, "p#{poll}n#{n}.test"}
        end
      end

      :persistent_term.put(Inventor, {:atomics.new(1, []), self()})

      # A module creates atoms when it is loaded, which may happen first in this test.
      {:ok, modules} = :application.get_key(:caravan, :modules)
      Enum.each(modules, &Code.ensure_loaded!/1)
      before = :erlang.system_info(:atom_count)

      # With ten queries, the 1,000 lookups take less time.
      options = [
        query: for(n <- 1..10, do: "q#{n}.test"),
        dns_client: Inventor,
        max_new_names: 200,
        keep: 0,
        max_connects: 1_024
      ]

      log =
        capture_log(fn ->
          start(context, options)
          assert_receive :thousand, 500_000
          assert length(FakeNetwork.list(context.network)) <= 200
        end)

      # The test, its log lines and other tests create some atoms as well.
      assert :erlang.system_info(:atom_count) - before < 200 + 200
      assert [_, _] = String.split(log, "more than 200 new names within a day (:max_new_names)")
    end
  end

  describe "ports and addresses" do
    test "of SRV records are in the table of Caravan.Epmd while the node is a member",
         context do
      DnsServer.put(context.server, @query, :srv, [srv(25_001, "n1.test"), srv(25_002, "n2.test")])

      start(context, ports: :srv, topology: :ports)
      assert_receive {:connect, :"app@n1.test"}, 5_000
      assert_receive {:connect, :"app@n2.test"}, 5_000

      assert [{"app@n1.test", 25_001, _}, {"app@n2.test", 25_002, _}] =
               for(
                 {name, _, _} = entry <- Caravan.Epmd.Peers.list(),
                 name =~ ~r/@n[12]\.test$/,
                 do: entry
               )

      # net_kernel calls this function.
      assert {:port, 25_002, _} = Caravan.Epmd.port_please(~c"app", ~c"n2.test")
      Caravan.Epmd.Peers.delete(:"Caravan.Cluster.DnsStrategy:ports")
    end

    test "are put into the table when it has room again", context do
      # Other tests may have left entries. The list has a name once, even if several owners have put it.
      free = 16_384 - length(Caravan.Epmd.Peers.list())
      put = &Caravan.Epmd.Peers.put(:big, for(n <- 1..&1, do: {"x#{n}@h", nil, []}))
      assert Enum.find(free..1//-1, &(put.(&1) == :ok))
      on_exit(fn -> Caravan.Epmd.Peers.delete(:big) end)
      DnsServer.put(context.server, @query, :srv, [srv(25_001, "room.test")])

      log =
        capture_log(fn ->
          start(context, ports: :srv, topology: :room)
          assert_receive {:connect, :"app@room.test"}, 5_000
          await_round()
        end)

      assert [_, _] = String.split(log, "the peer table is full")
      Caravan.Epmd.Peers.delete(:big)
      named = fn {name, port, _} -> {name, port} == {"app@room.test", 25_001} end
      Host.await(fn -> Enum.any?(Caravan.Epmd.Peers.list(), named) end, "the entry")
      Caravan.Epmd.Peers.delete(:"Caravan.Cluster.DnsStrategy:room")
    end

    test "of a node with two ports are the lower one, and logged once", context do
      DnsServer.put(context.server, @query, :srv, [srv(25_002, "n.test"), srv(25_001, "n.test")])

      log =
        capture_log(fn ->
          start(context, ports: :srv, topology: :conflict)
          assert_receive {:connect, :"app@n.test"}, 5_000
          await_round()
        end)

      assert [_, _] = String.split(log, "SRV records give app@n.test more than one port")
      assert {:port, 25_001, _} = Caravan.Epmd.port_please(~c"app", ~c"n.test")
      Caravan.Epmd.Peers.delete(:"Caravan.Cluster.DnsStrategy:conflict")
    end
  end

  describe "pruning" do
    test "disconnects at most half of the nodes that are missing from DNS, and logs them",
         context do
      DnsServer.put(context.server, @query, :srv, for(n <- 1..4, do: srv(n)))

      # DNS has no new node, so that no node is dialled afterwards.
      log =
        capture_log(fn ->
          start(context, prune: [after: 3], keep: 100)
          Host.await(fn -> length(FakeNetwork.list(context.network)) == 4 end, "four connects")
          # The strategy has seen all four.
          await_round()
          DnsServer.put(context.server, @query, :srv, [srv(1)])
          assert_receive {:disconnect, :"app-2@node.test"}, 5_000
          assert_receive {:disconnect, :"app-3@node.test"}, 5_000
          await_round()
        end)

      assert log =~
               "gone from DNS, and disconnected unless another topology needs them: app-2@node.test, app-3@node.test"

      assert log =~ "1 more connected nodes are gone from DNS"
    end

    test "is off by default", context do
      DnsServer.put(context.server, @query, :srv, [srv(1), srv(2)])
      start(context, keep: 0)
      Host.await(fn -> length(FakeNetwork.list(context.network)) == 2 end, "two connects")
      DnsServer.put(context.server, @query, :srv, [srv(1)])
      for _ <- 1..5, do: await_round()
      refute_received {:disconnect, _}
      assert length(FakeNetwork.list(context.network)) == 2
    end
  end

  describe "log_level" do
    test "suppresses lines of lower levels", context do
      DnsServer.put(context.server, @query, :srv, {:sequence, [:servfail, [srv(1)]]})

      log =
        capture_log(fn ->
          start(context, log_level: :warning, lookup_attempts: 1)
          assert_receive {:connect, _}, 5_000
          await_round()
        end)

      assert log =~ "(:servfail)"
      refute log =~ "connected to"
      refute log =~ "answers again"
    end

    test ":none suppresses all lines", context do
      DnsServer.put(context.server, @query, :srv, :servfail)

      log =
        capture_log(fn ->
          start(context, log_level: :none)
          await_round()
        end)

      refute log =~ "[caravan:"
    end
  end

  describe "the process" do
    test "continues after a crash, and disconnects no node", context do
      DnsServer.put(context.server, @query, :srv, [srv(1)])
      strategy = start(context)
      assert_receive {:connect, _}, 5_000
      Host.await(fn -> FakeNetwork.list(context.network) != [] end, "a connect")
      Process.exit(strategy, :kill)
      await_round()
      assert FakeNetwork.list(context.network) == [:"app-1@node.test"]
      refute_received {:disconnect, _}
    end

    test "runs as a libcluster strategy", context do
      {config, functions} =
        Keyword.split(options(context), [:query, :node_sname, :nameservers, :poll_interval])

      state =
        struct!(
          Cluster.Strategy.State,
          [topology: :consul, config: config, disconnect: {:erlang, :disconnect_node, []}] ++
            Keyword.take(functions, [:connect, :list_nodes])
        )

      DnsServer.put(context.server, @query, :srv, [srv(4001)])

      # Cluster.Supervisor starts its children like this.
      child = %{id: :consul, start: {DnsStrategy, :start_link, [[state]]}}

      log =
        capture_log(fn ->
          start_supervised!(child)
          assert_receive {:connect, :"app-4001@node.test"}, 5_000
          Host.await(fn -> FakeNetwork.list(context.network) != [] end, "a connect")
          await_round()
        end)

      assert log =~ "[caravan:consul] connected to app-4001@node.test"
      assert %{id: {DnsStrategy, :consul}} = DnsStrategy.child_spec([state])
    end

    test "runs several times under one supervisor", context do
      DnsServer.put(context.server, "a.test", :srv, [srv(1)])
      DnsServer.put(context.server, "b.test", :srv, [srv(2)])

      # Without a topology, the query makes the ids differ.
      children =
        for query <- ["a.test", "b.test"],
            options = context |> options(query: query) |> Keyword.delete(:topology),
            do: {DnsStrategy, options}

      start_supervised!(%{
        id: :both,
        start: {Supervisor, :start_link, [children, [strategy: :one_for_one]]}
      })

      assert_receive {:connect, :"app-1@node.test"}, 5_000
      assert_receive {:connect, :"app-2@node.test"}, 5_000
    end

    test "has one tick for each lookup, even after pauses", context do
      DnsServer.put(context.server, @query, :srv, [srv(4001)])

      # The default list. With that of FakeNetwork, the strategy would wait for it after a nodedown.
      strategy = start(context, list_nodes: {:erlang, :nodes, [:connected]})
      assert_receive {:connect, _}, 5_000

      # A tick is in the mailbox behind a nodedown, which sets the timer again.
      for _ <- 1..20 do
        :sys.suspend(strategy)
        send(strategy, {:nodedown, :a@b, []})

        Host.await(
          fn -> :tick in elem(Process.info(strategy, :messages), 1) end,
          "a tick"
        )

        :sys.resume(strategy)
        await_round()
      end

      :erlang.trace(strategy, true, [:receive])
      for _ <- 1..10, do: await_round()
      :erlang.trace(strategy, false, [:receive])
      delivered = :erlang.trace_delivered(strategy)
      assert_receive {:trace_delivered, ^strategy, ^delivered}, 5_000
      # Each lookup has one tick. If this machine pauses, there are a few more.
      assert ticks() in 5..40
    end

    test "ignores unexpected messages", context do
      DnsServer.put(context.server, @query, :srv, [srv(4001)])
      strategy = start(context)
      assert_receive {:connect, _}, 5_000

      for message <- [
            :hello,
            {make_ref(), {:ok, 1}},
            {:DOWN, make_ref(), :process, self(), :x},
            {:nodeup, :a@b, []},
            {:nodeup, "rubbish", []},
            {:await_timeout, :unknown},
            :guard,
            {Caravan.Cluster.DnsStrategy.Departure, make_ref()},
            {:nodedown, :a@b, []}
          ] do
        send(strategy, message)
      end

      assert GenServer.call(strategy, :rubbish) == {:error, :unknown_call}
      GenServer.cast(strategy, :rubbish)
      await_round()
      assert Process.alive?(strategy)
    end

    test "does not start with wrong options" do
      assert_raise ArgumentError, ~r/expected :query/, fn ->
        DnsStrategy.start_link(query: "", node_sname: "app")
      end
    end

    test "logs what to add if its node is not alive", context do
      log =
        capture_log(fn ->
          start(context)
          await_round()
        end)

      refute Node.alive?()
      assert log =~ "this node is not alive"
      assert log =~ "-epmd_module Elixir.Caravan.Epmd"
      assert log =~ "-start_epmd false"
    end

    test "does nothing with query: :ignore", context do
      log =
        capture_log(fn ->
          start(context, query: :ignore, log_level: :debug)
          assert Caravan.Cluster.await(context.topology, nodes: 0) == :ok
          assert Caravan.Cluster.ready?(context.topology)
        end)

      assert [line] = lines(log)
      assert line =~ "[debug]"
      assert line =~ "query: :ignore. The strategy does nothing"
      assert DnsServer.queries(context.server) == []
      assert Caravan.Cluster.drain(context.topology) == :ok
    end

    test "does nothing in a VM that is neither alive nor a release", context do
      refute Node.alive?()

      log =
        capture_log(fn ->
          options = options(context) |> Keyword.drop([:connect, :disconnect, :list_nodes])
          strategy = start_supervised!({DnsStrategy, options})
          :erlang.trace(strategy, true, [:receive])
          assert Caravan.Cluster.await(context.topology, nodes: 0) == :ok
          assert Caravan.Cluster.ready?(context.topology)

          # The strategy has checked twice whether distribution has started.
          for _ <- 1..2, do: assert_receive({:trace, _, :receive, :start_unless_idle}, 5_000)
          assert :sys.get_state(strategy)

          assert Caravan.Cluster.drain(context.topology) == :ok
          assert Caravan.Cluster.resume(context.topology) == :ok
          assert_receive({:trace, _, :receive, :start_unless_idle}, 5_000)
          assert {:ok, %{drained: false}} = Caravan.Cluster.status(context.topology)
        end)

      assert [line, drained, resumed] = lines(log)
      assert line =~ "[info]"
      assert line =~ "this node is not alive. The strategy does nothing until distribution starts"
      assert drained =~ "drained: leaving the cluster"
      assert resumed =~ "resumed: joining the cluster again"
      assert DnsServer.queries(context.server) == []
    end

    test "logs again which members are missing and which lookups fail, if that lasts", context do
      DnsServer.put(context.server, @query, :srv, [srv(1), srv(2)])
      DnsServer.put(context.server, "none.test", :srv, :nxdomain)
      FakeNetwork.behave(context.network, :"app-2@node.test", :unreachable)

      log =
        capture_log(fn ->
          strategy = start(context, query: [@query, "none.test"])
          assert Caravan.Cluster.await(context.topology) == :ok
          assert Caravan.Cluster.await(context.topology, nodes: 1) == :ok
          await_round()
          earlier = 10 * 60_000

          :sys.replace_state(strategy, fn state ->
            peers =
              Map.new(state.membership.peers, fn {name, peer} ->
                {name, %{peer | missing_since: peer.missing_since - earlier}}
              end)

            sources =
              for {source, poll} <- state.membership.sources do
                since = poll.failing_since && poll.failing_since - earlier
                {source, %{poll | failing_since: since}}
              end

            state = put_in(state.warnings.checked_at, nil)
            %{state | membership: %{state.membership | peers: peers, sources: sources}}
          end)

          for _ <- 1..3, do: await_round()
        end)

      text =
        "still 1 of 2 members missing: app-2@node.test (for 10 minutes). The last attempt to connect app-2@node.test: not reachable"

      assert [line] = Enum.filter(lines(log), &(&1 =~ "still 1"))
      assert line =~ text
      assert [line] = Enum.filter(lines(log), &(&1 =~ "still, for 10 minutes"))
      assert line =~ ~s(DNS lookup of "none.test" (SRV\) failed)
    end

    test "logs one line when DNS fails, and one when it has recovered", context do
      replies = {:sequence, [:servfail, :servfail, :servfail, :servfail, [srv(4001)]]}
      DnsServer.put(context.server, @query, :srv, replies)

      log =
        capture_log(fn ->
          start(context)
          assert_receive {:connect, _}, 5_000
          await_round()
        end)

      address = DnsServer.address(context.server)
      assert [_, _] = String.split(log, "failed at #{address}: the nameserver failed (:servfail)")
      assert [_, _] = String.split(log, "DNS answers again for \"_app._tcp.test\"")
    end
  end

  defp lines(log), do: log |> String.split("\n") |> Enum.filter(&(&1 =~ "[caravan:"))

  defp ticks(count \\ 0) do
    receive do
      {:trace, _strategy, :receive, :tick} -> ticks(count + 1)
      {:trace, _strategy, :receive, _message} -> ticks(count)
    after
      0 -> count
    end
  end
end
