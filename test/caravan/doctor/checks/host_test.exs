defmodule Caravan.Doctor.Checks.HostTest do
  use ExUnit.Case, async: true

  import Caravan.Test.Doctor

  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  @only [only: [:node]]

  defp eval(name, env \\ [], options \\ []),
    do: PeerNode.start!([env: eval_env(name, env)] ++ options)

  describe "node.longnames" do
    @addresses [query: "app.test", type: :a]

    test "fails for a short name while the topology names addresses, and the fix mends it" do
      node = eval("app@node1", [{"RELEASE_DISTRIBUTION", "sname"}])
      report = report(node, [strategy: @addresses] ++ @only)

      assert [{"failed", "node.longnames", "the node has a short name, but the topology" <> _}] =
               findings(report)

      assert check(report, "node.longnames").fix == "RELEASE_DISTRIBUTION=name"
      assert check(report, "node.host").status == "skipped"

      assert findings(report(eval("app@127.0.0.1"), [strategy: @addresses] ++ @only)) == []
    end

    test "fails for a running node with a short name while the topology names addresses" do
      node = PeerNode.start!(name: "app-#{Host.free_port()}")
      report = report(node, [strategy: @addresses] ++ @only)
      assert [{"failed", "node.longnames", _seen}] = findings(report)
    end

    test "fails for a long name while the topology names hosts without a dot" do
      strategy = [query: "app.test", node_name: "app@{host_label}"]
      report = report(eval("app@127.0.0.1"), [strategy: strategy] ++ @only)
      assert [{"failed", "node.longnames", seen}] = findings(report)

      assert seen ==
               "the node has a long name, but the topology :caravan has nodes of the other kind"

      assert check(report, "node.longnames").fix == "RELEASE_DISTRIBUTION=sname"
    end

    test "is ok if the kind of the names depends on the records" do
      report = report(eval("app@127.0.0.1"), [strategy: [query: "app.test"]] ++ @only)
      assert findings(report) == []
    end

    test "fails for a long name whose host has no dot, which OTP does not start" do
      assert [{"failed", "node.longnames", seen}] = findings(report(eval("app@node1"), @only))
      assert seen == "the node has a long name, but its host node1 has no dot"
    end

    test "fails for a short name whose host has a dot, which OTP does not start" do
      node = eval("app@127.0.0.1", [{"RELEASE_DISTRIBUTION", "sname"}])
      report = report(node, @only)
      assert [{"failed", "node.longnames", seen}] = findings(report)
      assert seen == "the node has a short name, but its host 127.0.0.1 has a dot"

      # The fix.
      assert ["RELEASE_DISTRIBUTION" = variable, value] =
               String.split(check(report, "node.longnames").fix, "=")

      assert findings(report(eval("app@127.0.0.1", [{variable, value}]), @only)) == []
    end
  end

  describe "node.host" do
    for {kind, host} <- [
          {"the unspecified address", "0.0.0.0"},
          {"the unspecified address", "::"},
          {"a link-local address", "169.254.7.7"},
          {"a link-local address", "fe80::7"}
        ] do
      test "fails for #{host}" do
        proto = if unquote(host) =~ ":", do: ~w(-proto_dist inet6_tcp), else: []
        report = report(eval("app@#{unquote(host)}", [], args: proto), @only)
        seen = "the host #{unquote(host)} is #{unquote(kind)}, #{unquote(host)}"
        assert findings(report) == [{"failed", "node.host", seen}]
      end
    end

    test "is mended by the line of the fix, which a shell runs as it runs env.sh" do
      report = report(eval("app@0.0.0.0"), @only)
      [_text, line] = String.split(check(report, "node.host").fix, "\n")

      # The programs hostname of the test print an address that this host has: that of Debian on a host with two addresses,
      # and that of Alpine.
      for {all, own} <- [
            {"echo '127.0.0.1 192.0.2.7 '", "echo 127.0.1.1"},
            {"exit 1", "echo 127.0.0.1"}
          ] do
        dir = Path.join(System.tmp_dir!(), "hostname-#{Host.free_port()}")
        File.mkdir!(dir)
        on_exit(fn -> File.rm_rf!(dir) end)
        script = "#!/bin/sh\nif [ \"$1\" = -I ]; then #{all}; else #{own}; fi\n"
        File.write!(Path.join(dir, "hostname"), script)
        File.chmod!(Path.join(dir, "hostname"), 0o755)
        env = [{"PATH", "#{dir}:#{System.get_env("PATH")}"}]

        assert {"app-4001@127.0.0.1", 0} =
                 System.cmd("sh", ["-c", line <> "; printf %s \"$RELEASE_NODE\""], env: env)
      end

      assert findings(report(eval("app-4001@127.0.0.1"), @only)) == []
    end

    test "fails for a host that does not resolve" do
      # The resolver is not queried for such a name.
      host = String.duplicate("a", 64) <> ".test"
      report = report(eval("app@" <> host), @only)
      assert [{"failed", "node.host", seen}] = findings(report)
      assert seen =~ "the host #{host} does not resolve: "
      assert check(report, "node.host").fix =~ ~S(export RELEASE_NODE="app-4001@$)
    end

    test "fails for an address of the other family" do
      report = report(eval("app@::1"), @only)

      assert findings(report) == [
               {"failed", "node.host", "the host ::1 has addresses of IPv6 only"}
             ]

      fix = check(report, "node.host").fix
      assert fix =~ "-proto_dist inet6_tcp"

      args = ~w(-proto_dist inet6_tcp)
      assert findings(report(eval("app@::1", [], args: args), @only)) == []
    end

    test "warns about an address that this machine does not have" do
      report = report(eval("app@192.0.2.7"), @only)
      assert [{"warning", "node.host", seen}] = findings(report)
      assert seen =~ "which is not an address of this machine"
    end

    test "fails for capital letters if the hosts of the topology come from DNS" do
      node = eval("app@LocalHost.localdomain")
      strategy = [query: "app.test", node_sname: "app"]

      report = report(node, [strategy: strategy] ++ @only)
      assert [{"failed", "node.host", seen}] = findings(report)
      assert seen =~ "the host LocalHost.localdomain has capital letters"
      assert check(report, "node.host").fix == "RELEASE_NODE=app@localhost.localdomain"

      literal = [strategy: strategy ++ [node_name: "{name}@LocalHost.localdomain"]]
      assert %{seen: seen} = check(report(node, literal ++ @only), "node.host")
      refute seen =~ "capital"
    end

    test "fails for a loopback address while a connected node is on another address" do
      # On Linux, a node on a loopback address can be connected from the same machine only.
      a = PeerNode.start!(name: PeerNode.name("a"))
      assert findings(report(a, @only)) == []

      args = ~w(-hidden -dist_listen false)
      b = PeerNode.start!(name: "b@10.9.8.7", args: args)
      assert PeerNode.call(b, :net_kernel, :connect_node, [a.name])

      assert [{"failed", "node.host", seen}] = findings(report(a, @only))
      assert seen == "the host 127.0.0.1 is a loopback address, and b@10.9.8.7 is not on one"
    end
  end
end
