defmodule Caravan.ClusterTest do
  @moduledoc "Waits and drains without distribution. test/caravan/cluster/nodes_test.exs does so with distribution."
  # Not async: tests of the resolver count the lookups of this VM.
  use ExUnit.Case

  import Caravan.Test.Strategy
  import ExUnit.CaptureLog

  alias Caravan.Cluster
  alias Caravan.Cluster.DnsStrategy
  alias Caravan.Cluster.DnsStrategy.Jobs
  alias Caravan.Cluster.DnsStrategy.Waiters
  alias Caravan.Cluster.Membership
  alias Caravan.Dns
  alias Caravan.Native
  alias Caravan.Test.DnsServer
  alias Caravan.Test.Eventually
  alias Caravan.Test.FakeNetwork

  @query "_app._tcp.test"

  setup :start_servers

  defp records(context, ports),
    do:
      DnsServer.put(context.server, @query, :srv, for(port <- ports, do: {0, 0, port, "n.test"}))

  describe "await" do
    test "returns after the first answer", context do
      records(context, [1])
      strategy = start(context, poll_interval: 3_600_000, min_interval: 3_600_000)
      assert Cluster.await(context.topology) == :ok
      # From then on it returns at once, without any event.
      assert Cluster.await(context.topology, nodes: 1) == :ok
      assert Eventually.true?(fn -> :sys.get_state(strategy).jobs == Jobs.new() end)
      assert Cluster.await(context.topology, timeout: 0) == :ok
    end

    test "returns after the answer that there is no such name", context do
      DnsServer.put(context.server, @query, :srv, :nxdomain)
      start(context)
      assert Cluster.await(context.topology) == :ok
    end

    test "logs the topologies that run if the topology does not", context do
      assert capture_log(fn -> assert Cluster.await(:none) == {:error, :not_running} end) =~
               "[caravan] the topology :none does not run. No topology runs in this VM"

      start(context)

      for call <- [&Cluster.await/1, &Cluster.drain/1, &Cluster.resume/1] do
        assert capture_log(fn -> assert call.(:none) == {:error, :not_running} end) =~
                 "the topology :none does not run. These topologies run: #{inspect(context.topology)}"
      end
    end

    test "waits for an answer to every query", context do
      records(context, [1])
      DnsServer.put(context.server, "other.test", :srv, :servfail)
      strategy = start(context, query: [@query, "other.test"])
      # One of the queries was answered.
      assert_receive {:connect, :"app-1@n.test"}, 5_000
      assert Cluster.await(strategy, timeout: 50) == {:error, :timeout}

      waiting = Task.async(fn -> Cluster.await(strategy, timeout: 10_000) end)
      DnsServer.put(context.server, "other.test", :srv, [{0, 0, 2, "n.test"}])
      assert Task.await(waiting, 11_000) == :ok
      assert "app-2@n.test" in Membership.peers(:sys.get_state(strategy).membership)
    end

    test "waits for the given number of nodes", context do
      records(context, [1, 2])
      FakeNetwork.behave(context.network, :"app-2@n.test", :unreachable)
      start(context)
      assert Cluster.await(context.topology, nodes: 1) == :ok
      assert Cluster.await(context.topology, nodes: 2, timeout: 50) == {:error, :timeout}
      waiting = Task.async(fn -> Cluster.await(context.topology, nodes: 2, timeout: 10_000) end)
      FakeNetwork.behave(context.network, :"app-2@n.test", :connects)
      assert Task.await(waiting, 11_000) == :ok
    end

    test "ends at its deadline while DNS does not answer", context do
      DnsServer.put(context.server, @query, :srv, :silent)
      strategy = start(context)
      assert Cluster.await(context.topology, timeout: 50) == {:error, :timeout}
      assert Waiters.count(:sys.get_state(strategy).waiters) == 0
    end

    test "returns an error if no strategy runs, as drain and resume do" do
      assert Cluster.await(:no_such_topology) == {:error, :not_running}
      assert Cluster.drain(:no_such_topology) == {:error, :not_running}
      assert Cluster.resume(:no_such_topology) == {:error, :not_running}
      {:ok, pid} = Agent.start(fn -> nil end)
      Agent.stop(pid)
      assert Cluster.await(pid) == {:error, :not_running}
    end

    test "returns an error if the strategy ends meanwhile", context do
      DnsServer.put(context.server, @query, :srv, :silent)
      strategy = start(context)
      waiting = Task.async(fn -> Cluster.await(strategy, nodes: 5, timeout: 10_000) end)
      assert Eventually.true?(fn -> Waiters.count(:sys.get_state(strategy).waiters) > 0 end)
      stop_supervised!({DnsStrategy, context.topology})
      assert Task.await(waiting) == {:error, :not_running}
    end

    test "forgets a caller that has died", context do
      DnsServer.put(context.server, @query, :srv, :silent)
      strategy = start(context)

      callers =
        for _ <- 1..100,
            do: spawn(fn -> Cluster.await(strategy, nodes: 5, timeout: 3_600_000) end)

      waiting = fn -> Waiters.count(:sys.get_state(strategy).waiters) end
      assert Eventually.true?(fn -> waiting.() == 100 end)
      Enum.each(callers, &Process.exit(&1, :kill))
      assert Eventually.true?(fn -> waiting.() == 0 end)
    end

    test "raises for wrong options" do
      assert_raise ArgumentError, ~r/await\/2: expected :nodes/, fn ->
        Cluster.await(:app, nodes: -1)
      end

      assert_raise ArgumentError, ~r/expected :timeout/, fn ->
        Cluster.await(:app, timeout: :infinity)
      end
    end
  end

  describe "drain" do
    test "stops discovery until resume, even if the strategy crashes", context do
      records(context, [1])
      start(context)
      assert_receive {:connect, :"app-1@n.test"}, 5_000
      assert Cluster.drain(context.topology) == :ok
      assert Cluster.drain(context.topology) == :ok
      flush_queries(context)
      records(context, [1, 2])
      refute_receive {:dns_query, _}, 300

      [pid] = Caravan.Cluster.Topologies.whereis(context.topology)
      Process.exit(pid, :kill)

      assert Eventually.true?(fn ->
               match?(
                 [new] when new != pid,
                 Caravan.Cluster.Topologies.whereis(context.topology)
               )
             end)

      refute_receive {:dns_query, _}, 300

      assert Cluster.resume(context.topology) == :ok
      assert Cluster.resume(context.topology) == :ok
      assert_receive {:connect, :"app-2@n.test"}, 5_000
    end

    test "ends connects that are in progress", context do
      records(context, [1])
      FakeNetwork.behave(context.network, :"app-1@n.test", :hangs)
      strategy = start(context)
      assert_receive {:connect, :"app-1@n.test"}, 5_000
      assert Cluster.drain(strategy) == :ok
      running = fn -> :sys.get_state(strategy).jobs.running end
      assert Eventually.true?(fn -> running.() == %{} end)
      Cluster.resume(strategy)
      assert_receive {:connect, :"app-1@n.test"}, 5_000
    end

    test "drains all strategies of a topology", context do
      DnsServer.put(context.server, "b.test", :srv, [{0, 0, 2, "n.test"}])
      records(context, [1])
      start(context)
      child = {DnsStrategy, options(context, query: "b.test")}
      start_supervised!(Supervisor.child_spec(child, id: :second))
      assert_receive {:connect, :"app-1@n.test"}, 5_000
      assert_receive {:connect, :"app-2@n.test"}, 5_000
      assert length(Caravan.Cluster.Topologies.whereis(context.topology)) == 2
      assert Cluster.drain(context.topology) == :ok
      flush_queries(context)
      refute_receive {:dns_query, _}, 300
      assert Cluster.resume(context.topology) == :ok
    end
  end

  describe "status" do
    test "shows members, missing nodes and lookups while the strategy hangs", context do
      records(context, [1, 2])
      FakeNetwork.behave(context.network, :"app-2@n.test", :unreachable)
      strategy = start(context)
      assert Cluster.await(context.topology, nodes: 1) == :ok
      finding = fn -> status(context).missing |> hd() |> Map.fetch!(:finding) end
      assert Eventually.true?(fn -> finding.() != nil end)

      :ok = :sys.suspend(strategy)
      assert {:ok, %{topology: topology}} = Cluster.status(strategy)
      assert topology == Atom.to_string(context.topology)
      status = status(context)
      assert status.topology == topology
      assert %{drained: false, ready: true, connected: ["app-1@n.test"]} = status
      assert status.members == ["app-1@n.test", "app-2@n.test"]
      assert status.links == %{preferred: ["app-1@n.test"], stand_ins: []}
      assert [%{node: "app-2@n.test", id: "peer.connected"} = missing] = status.missing
      assert missing.finding =~ "not reachable"
      assert missing.since_ms in 0..60_000
      assert [%{query: @query, type: "srv", result: "ok", records: 2} = source] = status.sources
      assert source.nameserver == DnsServer.address(context.server)
      assert source.ttl >= 0 and source.age_ms in 0..60_000

      # The other functions that read the table do not wait for the strategy either.
      assert context.topology in Cluster.topologies()
      assert Cluster.ready?(context.topology, nodes: 1)
      :ok = :sys.resume(strategy)
    end

    test "shows why a lookup has failed", context do
      DnsServer.put(context.server, "none.test", :srv, :nxdomain)
      DnsServer.put(context.server, @query, :srv, :silent)
      start(context, query: [@query, "none.test"], lookup_timeout: 60_000)
      assert Eventually.true?(fn -> List.last(status(context).sources).result == "nxdomain" end)
      address = DnsServer.address(context.server)
      assert [waiting, %{records: 0, ttl: nil, nameserver: ^address}] = status(context).sources
      assert %{query: @query, type: "srv", result: nil, records: nil, age_ms: nil} = waiting
    end

    test "is that of the first strategy of the name, or of the given one", context do
      records(context, [1])
      DnsServer.put(context.server, "b.test", :srv, [{0, 0, 2, "n.test"}])
      start(context)
      child = {DnsStrategy, options(context, query: "b.test")}
      second = start_supervised!(Supervisor.child_spec(child, id: :second))
      query = fn {:ok, %{sources: [%{query: query}]}} -> query end
      assert query.(Cluster.status(context.topology)) == @query
      assert query.(Cluster.status(second)) == "b.test"
      assert Enum.count(Cluster.topologies(), &(&1 == context.topology)) == 1

      stop_supervised!({DnsStrategy, context.topology})
      assert query.(Cluster.status(context.topology)) == "b.test"
      stop_supervised!(:second)
      assert Cluster.status(context.topology) == {:error, :not_running}
      refute context.topology in Cluster.topologies()
    end

    test "returns an error if no strategy runs" do
      assert Cluster.status(:no_such_topology) == {:error, :not_running}
      assert Cluster.status(self()) == {:error, :not_running}
    end
  end

  describe "ready?" do
    test "is true once each query was answered and the nodes were connected, until a drain",
         context do
      DnsServer.put(context.server, "other.test", :srv, :silent)
      records(context, [1])
      start(context, query: [@query, "other.test"])
      assert Cluster.await(context.topology, nodes: 1) == :ok
      refute Cluster.ready?(context.topology)
      DnsServer.put(context.server, "other.test", :srv, :nxdomain)
      assert Eventually.true?(fn -> Cluster.ready?(context.topology) end)
      assert Cluster.ready?(context.topology, nodes: 1)
      refute Cluster.ready?(context.topology, nodes: 2)

      FakeNetwork.behave(context.network, :"app-1@n.test", :unreachable)
      FakeNetwork.drop(context.network, :"app-1@n.test")
      assert Eventually.true?(fn -> status(context).connected == [] end)
      assert Cluster.ready?(context.topology, nodes: 1)

      assert Cluster.drain(context.topology) == :ok
      refute Cluster.ready?(context.topology)
      assert Cluster.resume(context.topology) == :ok
      assert Cluster.ready?(context.topology)
      refute Cluster.ready?(context.topology, nodes: 1)
    end

    test "is true only if all strategies of the name are ready", context do
      records(context, [1])
      DnsServer.put(context.server, "b.test", :srv, :silent)
      start(context)
      assert Cluster.await(context.topology) == :ok
      assert Cluster.ready?(context.topology)
      child = {DnsStrategy, options(context, query: "b.test")}
      start_supervised!(Supervisor.child_spec(child, id: :second))
      refute Cluster.ready?(context.topology)
      DnsServer.put(context.server, "b.test", :srv, :nxdomain)
      assert Eventually.true?(fn -> Cluster.ready?(context.topology) end)
    end

    test "is false for everything that is not a running strategy" do
      {:ok, dead} = Agent.start(fn -> nil end)
      Agent.stop(dead)
      too_long = String.to_atom(String.duplicate("a", 255))

      for other <- [:no_such_topology, nil, :code_server, "app", 1, self(), dead, too_long],
          do: refute(Cluster.ready?(other, nodes: 0))
    end

    test "creates no atom" do
      names = for n <- 1..1_000, do: :"no_such_topology#{n}"
      atoms = :erlang.system_info(:atom_count)
      refute Enum.any?(names, &Cluster.ready?/1)
      # The first call may load modules, whose names are atoms.
      assert :erlang.system_info(:atom_count) - atoms < length(names)
    end

    test "is false for a wrong option, and logs what was expected" do
      for {options, text} <- [
            {[nodes: -1], "Caravan.Cluster.ready?/2: expected :nodes to be an integer from 0"},
            {[node: 1], "unknown option :node (given 1), expected one of: :nodes"},
            {1, "expected options as a keyword list, got: 1"}
          ] do
        log = capture_log(fn -> refute Cluster.ready?(:app, options) end)
        assert log =~ "[error] [caravan] "
        assert log =~ text
      end
    end

    test "takes less than 200 reductions and sends no message", context do
      records(context, [1])
      strategy = start(context)
      assert Cluster.await(context.topology, nodes: 1) == :ok

      probe = fn ->
        receive do: (:start -> :ok)

        # Loads the code.
        true = Cluster.ready?(context.topology, nodes: 1)
        {:reductions, before} = Process.info(self(), :reductions)
        for _ <- 1..1_000, do: true = Cluster.ready?(context.topology, nodes: 1)
        {:reductions, now} = Process.info(self(), :reductions)
        div(now - before, 1_000)
      end

      %{pid: pid} = task = Task.async(probe)
      1 = :erlang.trace(pid, true, [:send])
      send(pid, :start)
      reductions = Task.await(task, 30_000)
      # The reply of the task is traced, and nothing before it.
      assert_receive {:trace, ^pid, :send, message, _to}
      assert {_ref, ^reductions} = message
      # A call takes about 80, and 2 µs.
      assert reductions < 200
      assert Process.alive?(strategy)
    end
  end

  defp status(context) do
    {:ok, status} = Cluster.status(context.topology)
    status
  end

  # Drops the messages about the queries so far. A query of a lookup that has ended may still be on its way. The server gets
  # such a query before the one for last.test.
  defp flush_queries(context) do
    assert Eventually.true?(fn -> match?({0, _tasks}, Native.dns_in_flight()) end)
    address = DnsServer.address(context.server)
    {:error, _} = Dns.lookup("last.test", :a, nameservers: [address], timeout: 60_000)
    assert_receive {:dns_query, %{name: "last.test"}}
    flush()
  end

  defp flush do
    receive do
      _ -> flush()
    after
      0 -> :ok
    end
  end
end
