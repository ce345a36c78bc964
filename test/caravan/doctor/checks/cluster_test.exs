defmodule Caravan.Doctor.Checks.ClusterTest do
  use ExUnit.Case, async: true

  import Caravan.Test.Doctor

  alias Caravan.Test.Cluster
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  test "fails with cluster.nodes if fewer nodes are connected than expected" do
    {node, strategy} = node_with_members([])
    report = report(node, strategy: strategy, nodes: 2)
    assert findings(report) == [{"failed", "cluster.nodes", "0 nodes are connected"}]
    assert check(report, "cluster.nodes").expected == "2 nodes at least"
    assert check(report, "cluster.nodes").fix == "see the other findings"
  end

  test "warns with cluster.connect_all if a connected node has another value of it" do
    other = PeerNode.start!(name: PeerNode.name("app"), args: ~w(-connect_all false))
    {node, strategy} = node_with_members([PeerNode.port(other)])
    assert PeerNode.call(node, :net_kernel, :connect_node, [other.name])
    report = report(node, strategy: strategy)
    assert [{"warning", "cluster.connect_all", seen}] = findings(report)
    assert seen == "connect_all is true here, and false on 1 connected nodes"
    assert check(report, "cluster.connect_all").fix =~ "-connect_all false"
  end

  test "warns with cluster.mesh if a connected node has no link to another one, unless neither node wants the link" do
    args = ~w(-connect_all false)

    [a, b, c] =
      nodes =
      for links <- [:all, :all, 0] do
        node = Cluster.start_alone(name: PeerNode.name("app"), args: args)
        strategy = [links: links, query: "none.test", nameservers: ["127.0.0.1:9"]]
        :ok = PeerNode.call(node, Cluster, :run_strategy, [strategy])
        node
      end

    strategy = strategy(start_server(Enum.map(nodes, &PeerNode.port/1)))
    for node <- [b, c], do: true = PeerNode.call(a, :net_kernel, :connect_node, [node.name])
    report = report(a, strategy: strategy, only: [:peers])
    assert [{"warning", "cluster.mesh", seen}] = findings(report)
    assert seen =~ "2 of 2 connected nodes that were asked have replied. "
    assert seen =~ "#{b.name} has no link to #{c.name}"
    assert check(report, "cluster.mesh").fix =~ "IO.puts(Caravan.map())"

    # The nodes of another topology.
    strategy = strategy(start_server(Enum.map([a, b], &PeerNode.port/1)))
    assert findings(report(a, strategy: strategy, only: [:peers])) == []

    # The fix.
    strategy = strategy(start_server(Enum.map(nodes, &PeerNode.port/1)))
    true = PeerNode.call(b, :net_kernel, :connect_node, [c.name])
    report = report(a, strategy: strategy, only: [:peers])
    assert findings(report) == []
    assert check(report, "cluster.mesh").seen =~ "They have the links that this node has"

    # Neither of the two wants the link.
    d = Cluster.start_alone(name: PeerNode.name("app"), args: args)
    strategy = [links: 0, query: "none.test", nameservers: ["127.0.0.1:9"]]
    :ok = PeerNode.call(d, Cluster, :run_strategy, [strategy])
    true = PeerNode.call(a, :net_kernel, :connect_node, [d.name])
    PeerNode.stop!(b)
    Host.await(fn -> length(Cluster.peers(a)) == 2 end, "the nodedown")
    strategy = strategy(start_server(Enum.map([a, c, d], &PeerNode.port/1)))
    assert findings(report(a, strategy: strategy, only: [:peers])) == []
  end

  test "warns in eval if no topology is known, because nothing is looked up then" do
    eval = PeerNode.start!(env: eval_env(PeerNode.name("app")))
    report = report(eval)
    assert [{"warning", "cluster.topology", _seen}] = findings(report)
    assert check(report, "cluster.topology").fix =~ "Caravan.doctor!(strategy: ["
  end

  test "warns if no topology is known, and fails if one of libcluster's does not run" do
    node = PeerNode.start!(name: PeerNode.name("app"))
    assert [{"warning", "cluster.topology", _seen}] = findings(report(node, only: [:peers]))

    topologies = [app: [strategy: Caravan.Cluster.DnsStrategy, config: [query: "app.test"]]]
    PeerNode.call(node, Application, :put_env, [:libcluster, :topologies, topologies])
    report = report(node, only: [:peers])
    assert [{"failed", "cluster.topology", seen}] = findings(report)
    assert seen == "the topology :app of the configuration of :libcluster does not run"
    assert check(report, "cluster.topology").fix =~ "Cluster.Supervisor"

    PeerNode.call(node, Application, :delete_env, [:libcluster, :topologies])
    options = [topology: :app, query: "app.test"]
    PeerNode.call(node, Application, :put_env, [:kernel, Caravan.Cluster.DnsStrategy, options])
    report = report(node, only: [:peers])
    assert [{"failed", "cluster.topology", seen}] = findings(report)
    assert seen == "the topology :app of the configuration of :kernel does not run"
    assert check(report, "cluster.topology").fix =~ "fetch_env!(:kernel, Caravan.Cluster.DnsStr"

    roles = [core: options, edge: [query: ["b.test"], topology: :edge]]
    PeerNode.call(node, Application, :put_env, [:kernel, Caravan.Cluster.DnsStrategy, roles])
    report = report(node, only: [:peers], topology: :edge)
    assert [{"failed", "cluster.topology", seen}] = findings(report)
    assert seen == "the topology :edge of the configuration of :kernel does not run"

    assert check(report, "cluster.topology").fix =~
             "fetch_env!(:kernel, Caravan.Cluster.DnsStrategy)[:edge]}"
  end

  test "is ok if a strategy with the same query runs under another name" do
    node = Cluster.start_alone()
    options = [query: "app.test", node_sname: "app", nameservers: ["127.0.0.1:9"]]
    PeerNode.call(node, Application, :put_env, [:kernel, Caravan.Cluster.DnsStrategy, options])
    assert [{"failed", "cluster.topology", _seen}] = findings(report(node, only: [:peers]))

    # The fix, with a name.
    :ok = PeerNode.call(node, Cluster, :run_strategy, [[topology: :named] ++ options])
    report = report(node, only: [:peers])
    assert findings(report) == []
    assert check(report, "cluster.topology").seen == "named"
  end

  test "fails if a topology does not run, also if another one looks up nothing" do
    node = PeerNode.start!(name: PeerNode.name("app"))
    roles = [core: [topology: :core, query: :ignore], edge: [topology: :edge, query: "b.test"]]
    PeerNode.call(node, Application, :put_env, [:kernel, Caravan.Cluster.DnsStrategy, roles])
    assert [{"failed", "cluster.topology", seen}] = findings(report(node, only: [:peers]))
    assert seen == "the topology :edge of the configuration of :kernel does not run"
  end

  test "warns if a topology looks up nothing, because a variable of the environment is missing" do
    eval = PeerNode.start!(env: eval_env(PeerNode.name("app")))
    ignore = [topology: :app, query: :ignore, type: :a]
    PeerNode.call(eval, Application, :put_env, [:kernel, Caravan.Cluster.DnsStrategy, ignore])

    for options <- [[], [topology: :app]] do
      report = report(eval, options)
      assert [{"warning", "cluster.topology", seen}] = findings(report)
      assert seen == "the topology :app looks up nothing, because its :query is :ignore"
      assert check(report, "cluster.topology").fix =~ "CARAVAN_QUERY=app.internal"
    end
  end
end
