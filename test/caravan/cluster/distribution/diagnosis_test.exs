defmodule Caravan.Cluster.Distribution.DiagnosisTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Distribution.Diagnosis
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  test "a diagnosis finds out why a node cannot be connected" do
    node = PeerNode.start!(name: PeerNode.name("app"))
    find = &PeerNode.call(node, Diagnosis, :find, [&1])

    closed = Host.free_port()
    assert find.("app-#{closed}@127.0.0.1") == {:refused, "127.0.0.1:#{closed}"}

    # A node with another cookie: the TCP connection succeeds, the handshake fails.
    other = PeerNode.start!(name: PeerNode.name("other"), args: ["-setcookie", "other"])
    refute PeerNode.call(node, :net_kernel, :connect_node, [other.name])
    where = "127.0.0.1:#{PeerNode.port(other)}"
    assert find.(Atom.to_string(other.name)) == {:accepted, where}

    # The resolver is not queried for such a name.
    host = String.duplicate("a", 64) <> ".test"
    assert find.("app-4001@#{host}") == {:unresolvable, host}
    assert find.("app-70000@127.0.0.1") == {:no_port, "app-70000@127.0.0.1"}

    # OTP does not connect short names and long names.
    refute PeerNode.call(node, :net_kernel, :connect_node, [:"app-#{closed}@localhost"])
    assert find.("app-#{closed}@localhost") == {:name_type, "localhost"}
    short = PeerNode.start!(name: "app-#{Host.free_port()}")
    refute PeerNode.call(short, :net_kernel, :connect_node, [node.name])
    long = Atom.to_string(node.name)

    assert PeerNode.call(short, Diagnosis, :find, [long]) == {:name_type, "127.0.0.1"}
  end

  test "the finding for a link-local address says that a node cannot connect to it" do
    node = PeerNode.start!(name: PeerNode.name("app", "::1"), args: ~w(-proto_dist inet6_tcp))
    finding = PeerNode.call(node, Diagnosis, :find, ["app-4001@fe80::77"])
    assert finding == {:network, "[fe80::77]:4001", :einval}
    assert Diagnosis.text(finding) =~ "[fe80::77]:4001 is not an address"
  end

  test "over TLS, a certificate may be the cause of a failed handshake" do
    for {protocol, tls?} <- [inet_tcp: false, inet_tls: true, inet6_tls: true] do
      node = PeerNode.start!(args: ~w(-proto_dist #{protocol}))
      text = PeerNode.call(node, Diagnosis, :text, [{:accepted, "127.0.0.1:4001"}])
      assert {protocol, text =~ "certificate"} == {protocol, tls?}
    end
  end
end
