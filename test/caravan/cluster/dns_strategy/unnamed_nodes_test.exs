defmodule Caravan.Cluster.DnsStrategy.UnnamedNodesTest do
  # Not async: another strategy of this VM would be the one that reports.
  use ExUnit.Case

  import Caravan.Test.Strategy, only: [start_servers: 1, options: 2]
  import ExUnit.CaptureLog

  alias Caravan.Cluster
  alias Caravan.Cluster.Config
  alias Caravan.Cluster.DnsStrategy
  alias Caravan.Cluster.DnsStrategy.Status
  alias Caravan.Cluster.DnsStrategy.UnnamedNodes
  alias Caravan.Cluster.Topologies
  alias Caravan.Epmd.Peers
  alias Caravan.Test.DnsServer
  alias Caravan.Test.Eventually

  @visible [node_type: :visible]
  @minute 60_000

  setup context do
    key = Topologies.register(context.test)

    on_exit(fn ->
      for topology <- [key, :unnamed_other], do: Peers.delete(topology)
    end)

    config = Config.new!(topology: context.test, query: "app.test", node_sname: "app")
    %{key: key, unnamed: UnnamedNodes.new(config, key)}
  end

  defp up(unnamed, node, now), do: UnnamedNodes.nodeup(unnamed, node, @visible, now)

  defp report(unnamed, now) do
    test = self()
    log = capture_log(fn -> send(test, UnnamedNodes.report(unnamed, now)) end)
    assert_received %UnnamedNodes{} = unnamed
    {log, unnamed}
  end

  test "a node that no query names is reported once, a minute after its nodeup", context do
    unnamed = context.unnamed |> up(:a@h, 0) |> up(:b@h, 1)
    assert {"", unnamed} = report(unnamed, @minute - 1)
    {log, unnamed} = report(unnamed, @minute)
    assert log =~ "connected, but not named by any query: a@h. Either DNS lacks a record"
    {log, unnamed} = report(unnamed, @minute + 1)
    assert log =~ "b@h" and not (log =~ "a@h")
    assert {"", _unnamed} = report(unnamed, 10 * @minute)
  end

  test "nodes that any topology names, hidden and disconnected nodes are not reported", context do
    :ok = Peers.put(context.key, [{"a@h", nil, []}])
    :ok = Peers.put(:unnamed_other, [{"b@h", nil, []}])

    unnamed =
      context.unnamed
      |> up(:a@h, 0)
      |> up(:b@h, 0)
      |> up(:c@h, 0)
      |> UnnamedNodes.nodedown(:c@h)
      |> UnnamedNodes.nodeup(:d@h, [node_type: :hidden], 0)

    assert {"", _unnamed} = report(unnamed, @minute)
  end

  test "the first strategy of the VM reports, once the peer table has the nodes of all topologies",
       context do
    # The test is the first strategy.
    Status.new(context.key, context.unnamed.config)
    second = up(%{context.unnamed | key: :unnamed_other}, :a@h, 0)
    assert {"", ^second} = report(second, @minute)

    :ets.insert(context.key, {:complete, true})
    assert {"", %{waiting: none}} = report(second, @minute)
    assert none == %{}
  end

  test "a strategy does not report while :max_nodes leaves out nodes that DNS names", context do
    Process.unregister(context.key)
    context = Map.merge(context, start_servers(context))

    DnsServer.put(context.server, "_app._tcp.test", :srv, [
      {0, 0, 1, "n.test"},
      {0, 0, 2, "n.test"}
    ])

    log =
      capture_log(fn ->
        strategy = start_supervised!({DnsStrategy, options(context, max_nodes: 1)})
        send(strategy, {:nodeup, :"app-1@n.test", @visible})
        send(strategy, {:nodeup, :"app-2@n.test", @visible})
        let_a_minute_pass(strategy)
        for _ <- 1..3, do: assert_receive({:dns_query, _}, 5_000)
        assert map_size(:sys.get_state(strategy).warnings.unnamed_nodes.waiting) == 2
      end)

    refute log =~ "not named by any query"
  end

  test "a strategy does not report while :max_nodes of another one leaves out nodes", context do
    Process.unregister(context.key)
    context = Map.merge(context, start_servers(context))
    records = for port <- 1..2, do: {0, 0, port, "n.test"}
    DnsServer.put(context.server, "_app._tcp.test", :srv, records)
    DnsServer.put(context.server, "_web._tcp.test", :srv, [{0, 0, 1, "web.test"}])

    log =
      capture_log(fn ->
        start_supervised!({DnsStrategy, options(context, topology: :unnamed_b, max_nodes: 1)})
        assert Eventually.true?(fn -> Cluster.ready?(:unnamed_b) end)

        options = options(context, topology: :unnamed_a, query: "_web._tcp.test")
        strategy = start_supervised!({DnsStrategy, options})
        for port <- 1..2, do: send(strategy, {:nodeup, :"app-#{port}@n.test", @visible})
        let_a_minute_pass(strategy)
        for _ <- 1..3, do: assert_receive({:dns_query, %{name: "_web._tcp.test"}}, 5_000)
        assert map_size(:sys.get_state(strategy).warnings.unnamed_nodes.waiting) == 2
      end)

    refute log =~ "not named by any query"
  end

  test "a strategy is not complete while the peer table is full, and during a drain", context do
    Process.unregister(context.key)
    context = Map.merge(context, start_servers(context))
    DnsServer.put(context.server, "_app._tcp.test", :srv, [{0, 0, 1, "n.test"}])
    strategy = start_supervised!({DnsStrategy, options(context, [])})
    assert Eventually.true?(fn -> Status.complete?(context.key) end)

    :sys.replace_state(strategy, &put_in(&1.warnings.peer_table_full?, true))
    send(strategy, :tick)
    _ = :sys.get_state(strategy)
    refute Status.complete?(context.key)

    :sys.replace_state(strategy, &put_in(&1.warnings.peer_table_full?, false))
    send(strategy, :tick)
    _ = :sys.get_state(strategy)
    assert Status.complete?(context.key)

    :ok = Cluster.drain(strategy)
    refute Status.complete?(context.key)
    :ok = Cluster.resume(strategy)
    assert Status.complete?(context.key)
  end

  defp let_a_minute_pass(strategy) do
    :sys.replace_state(strategy, fn state ->
      update_in(
        state.warnings.unnamed_nodes.waiting,
        &Map.new(&1, fn {node, at} -> {node, at - @minute} end)
      )
    end)
  end

  test "a strategy reports when its queries are answered, and not while a lookup fails",
       context do
    Process.unregister(context.key)
    context = Map.merge(context, start_servers(context))
    DnsServer.put(context.server, "_app._tcp.test", :srv, :nxdomain)

    log =
      capture_log(fn ->
        strategy = start_supervised!({DnsStrategy, options(context, [])})
        send(strategy, {:nodeup, :"stranger@h.test", @visible})
        let_a_minute_pass(strategy)

        for _ <- 1..3, do: assert_receive({:dns_query, _}, 5_000)
        assert map_size(:sys.get_state(strategy).warnings.unnamed_nodes.waiting) == 1
        DnsServer.put(context.server, "_app._tcp.test", :srv, [{0, 0, 1, "n.test"}])

        assert Eventually.true?(fn ->
                 :sys.get_state(strategy).warnings.unnamed_nodes.waiting == %{}
               end)
      end)

    assert [_, _] = String.split(log, "not named by any query: stranger@h.test")
  end
end
