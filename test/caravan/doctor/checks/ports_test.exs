defmodule Caravan.Doctor.Checks.PortsTest do
  use ExUnit.Case, async: true

  import Caravan.Test.Doctor

  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  @only [only: [:ports]]

  test "a node that listens on the port of its name has no finding" do
    node = PeerNode.start!(name: PeerNode.name("app"))
    report = report(node, @only)
    assert findings(report) == []
    assert report.counts.ok == 3
    port = PeerNode.port(node)
    assert check(report, "ports.listen").seen == "the node listens on port #{port}"
  end

  test "a node over IPv6 has no finding" do
    node = PeerNode.start!(name: PeerNode.name("app", "::1"), args: ~w(-proto_dist inet6_tcp))
    report = report(node, @only)
    assert findings(report) == []
    port = PeerNode.port(node)

    assert check(report, "ports.advertised").seen ==
             "a connection to [::1]:#{port} reaches this node"
  end

  describe "ports.rule" do
    test "fails for a name that has no port" do
      report = report(PeerNode.start!(env: eval_env("app-70000@127.0.0.1")), @only)
      assert [{"failed", "ports.rule", seen}] = findings(report)
      assert seen =~ "its number gives a port over 65535"
      assert check(report, "ports.rule").fix == "RELEASE_NODE=app-4001@127.0.0.1"
      assert report.counts.skipped == 2
    end

    test "fails for a setting that does not parse" do
      env = eval_env("app@127.0.0.1", [{"CARAVAN_BASE_PORT", "abc"}])
      assert [{"failed", "ports.rule", seen}] = findings(report(PeerNode.start!(env: env), @only))

      assert seen ==
               ~s(environment variable CARAVAN_BASE_PORT: expected a port from 1 to 65535, got: "abc")
    end
  end

  describe "ports.rule of connected nodes" do
    test "fails if their base port or their rule differs" do
      node = PeerNode.start!(name: PeerNode.name("app"))
      same = PeerNode.start!(name: PeerNode.name("same"))
      assert PeerNode.call(node, :net_kernel, :connect_node, [same.name])
      assert findings(report(node, @only)) == []

      other = PeerNode.start!(name: PeerNode.name("other"), env: [{"CARAVAN_BASE_PORT", "5000"}])
      assert PeerNode.call(node, :net_kernel, :connect_node, [other.name])
      report = report(node, @only)
      seen = "base_port or port_rule differ on #{other.name}"
      assert findings(report) == [{"failed", "ports.rule", seen}]
      assert check(report, "ports.rule").fix =~ "CARAVAN_BASE_PORT"

      srv = [strategy: [query: "app.test", ports: :srv, nameservers: ["127.0.0.1:9"]]] ++ @only
      assert findings(report(node, srv)) == []

      PeerNode.stop!(other)
      port = Host.free_port()
      env = [{"CARAVAN_BASE_PORT", "#{port}"}, {"CARAVAN_PORT_RULE", "fixed"}]
      fixed = PeerNode.start!(name: "fixed-#{port}@127.0.0.1", env: env)
      assert PeerNode.call(node, :net_kernel, :connect_node, [fixed.name])
      assert [{"failed", "ports.rule", _seen}] = findings(report(node, @only))
    end
  end

  describe "ports.listen" do
    test "fails for a node that does not listen" do
      node = PeerNode.start!(name: PeerNode.name("app"), args: ~w(-dist_listen false))
      report = report(node, @only)
      assert findings(report) == [{"failed", "ports.listen", "the node does not listen"}]
      fix = check(report, "ports.listen").fix
      assert fix == "remove -dist_listen false from the VM arguments"
    end

    test "fails if a setting has changed since the start" do
      node = PeerNode.start!(name: PeerNode.name("app"))
      port = Host.free_port()
      PeerNode.call(node, :os, :putenv, [~c"CARAVAN_LISTEN_PORT", ~c"#{port}"])
      report = report(node, @only)
      seen = "the node listens on port #{PeerNode.port(node)}"
      assert findings(report) == [{"failed", "ports.listen", seen}]
      assert "restart the node: a setting has changed" <> _ = check(report, "ports.listen").fix
    end

    test "is ok for a release whose port is free, or whose node runs" do
      name = PeerNode.name("app")
      eval = PeerNode.start!(env: eval_env(name))
      port = PeerNode.port(name)
      report = report(eval, @only)
      assert findings(report) == []
      assert check(report, "ports.listen").seen == "port #{port} is free"

      PeerNode.start!(name: name)
      report = report(eval, @only)
      assert findings(report) == []
      assert check(report, "ports.listen").seen == "the node runs, and listens on port #{port}"
    end

    test "fails for a release whose port another node has, and names that node" do
      name = PeerNode.name("other")
      port = PeerNode.port(name)
      PeerNode.start!(name: name)
      eval = PeerNode.start!(env: eval_env("app-#{port}@127.0.0.1"))

      report = report(eval, @only)
      assert [{"failed", "ports.listen", seen}] = findings(report)
      assert seen =~ ~r/\Athe node #{name} listens on port #{port}: \S+ \(pid \d+\)\z/
      assert check(report, "ports.listen").fix =~ "stop #{name}"
    end

    test "fails for a release whose port another program has" do
      port = Host.free_port()
      {:ok, socket} = :gen_tcp.listen(port, [])
      eval = PeerNode.start!(env: eval_env("app-#{port}@127.0.0.1"))

      report = report(eval, @only)
      assert [{"failed", "ports.listen", seen}] = findings(report)
      assert seen =~ ~r/\Aanother program listens on port #{port}: \S+ \(pid #{System.pid()}\)\z/

      assert check(report, "ports.listen").fix ==
               "stop the program, or take another number in RELEASE_NODE"

      # The fix.
      :ok = :gen_tcp.close(socket)
      assert findings(report(eval, @only)) == []
    end
  end

  describe "ports.advertised" do
    defp mapped_node(port) do
      args = ["-caravan", "listen_port", "#{Host.free_port()}"]
      PeerNode.start!(name: "app-#{port}@127.0.0.1", args: args)
    end

    test "fails if nothing listens on the port of the name" do
      port = Host.free_port()
      report = report(mapped_node(port), @only)

      seen = "a connection to 127.0.0.1:#{port} does not reach this node: nothing listens there"
      assert findings(report) == [{"failed", "ports.advertised", seen}]
      fix = check(report, "ports.advertised").fix
      assert "open the port in the firewall, and correct inet_dist_use_interface" <> _ = fix
    end

    test "fails if another node or program listens on the port of the name" do
      other = PeerNode.start!(name: PeerNode.name("other"))
      port = PeerNode.port(other)
      report = report(mapped_node(port), @only)
      seen = "a connection to 127.0.0.1:#{port} reaches the node #{other.name}"
      assert findings(report) == [{"failed", "ports.advertised", seen}]
      fix = check(report, "ports.advertised").fix
      assert fix == "correct the port mapping, or the address in RELEASE_NODE"

      {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
      {:ok, port} = :inet.port(socket)
      report = report(mapped_node(port), @only)
      assert [{"failed", "ports.advertised", seen}] = findings(report)
      assert seen =~ "another program listens there"
    end

    test "is ok over TLS, and skipped if the options are not in a file" do
      node = PeerNode.start!(name: PeerNode.name("app"), args: PeerNode.tls_args())
      report = report(node, @only)
      assert findings(report) == []
      where = "127.0.0.1:#{PeerNode.port(node)}"

      assert check(report, "ports.advertised").seen ==
               "a connection to #{where} reaches this node"

      args = PeerNode.tls_args() ++ ~w(-ssl_dist_opt client_depth 10)
      report = report(PeerNode.start!(name: PeerNode.name("app"), args: args), @only)
      assert findings(report) == []
      assert check(report, "ports.advertised").status == "skipped"
    end

    test "is skipped if the certificate of the node is not for its host" do
      # The certificate is for 127.0.0.1.
      node = PeerNode.start!(name: PeerNode.name("app", "127.0.0.2"), args: PeerNode.tls_args())
      report = report(node, @only)
      assert findings(report) == []
      assert %{status: "skipped", seen: seen} = check(report, "ports.advertised")
      assert seen =~ "the TLS handshake with 127.0.0.2:#{PeerNode.port(node)} fails: TLS client: "
    end
  end
end
