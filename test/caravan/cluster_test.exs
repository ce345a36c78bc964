defmodule Caravan.ClusterTest do
  @moduledoc "Waits and drains without distribution. test/caravan/cluster/nodes_test.exs does so with distribution."
  # Not async: tests of the resolver count the lookups of this VM.
  use ExUnit.Case

  import Caravan.Test.Strategy

  alias Caravan.Cluster
  alias Caravan.Cluster.DnsStrategy
  alias Caravan.Cluster.DnsStrategy.Jobs
  alias Caravan.Cluster.DnsStrategy.Waiters
  alias Caravan.Cluster.Membership
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
      assert Eventually.true?(fn -> :sys.get_state(strategy).jobs == %Jobs{} end)
      assert Cluster.await(context.topology, timeout: 0) == :ok
    end

    test "returns after the answer that there is no such name", context do
      DnsServer.put(context.server, @query, :srv, :nxdomain)
      start(context)
      assert Cluster.await(context.topology) == :ok
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
      assert "app-2@n.test" in Membership.members(:sys.get_state(strategy).membership)
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
      assert Eventually.true?(fn -> waiting.() == 0 end, 2_000)
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
      flush()
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
      assert Eventually.true?(fn -> running.() == %{} end, 2_000)
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
      flush()
      refute_receive {:dns_query, _}, 300
      assert Cluster.resume(context.topology) == :ok
    end
  end

  defp flush do
    receive do
      _ -> flush()
    after
      0 -> :ok
    end
  end
end
