defmodule Caravan.Cluster.Distribution.DiagnosisTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Distribution.Diagnosis
  alias Caravan.Cluster.Distribution.Probe
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  # On a busy machine, a node may need longer for a reply than a diagnosis waits.
  defp find(node, name, tries \\ 10) do
    case PeerNode.call(node, Diagnosis, :find, [name]) do
      {:protocol, _where, "then says nothing for 2 seconds"} when tries > 1 ->
        find(node, name, tries - 1)

      finding ->
        finding
    end
  end

  test "a diagnosis of a node without a free file descriptor names descriptors" do
    node = PeerNode.start!(name: PeerNode.name("app"))
    limit = ["sh", "-c", ~S(ulimit -n 64; exec "$@"), "sh"]
    full = PeerNode.start!(name: PeerNode.name("full"), wrapper: limit)

    hold = """
    test = self()

    spawn(fn ->
      held = Caravan.Test.OsResources.hold_descriptors()
      send(test, length(held))
      Process.sleep(:infinity)
    end)

    receive do: (held -> held)
    """

    assert PeerNode.eval(full, hold) > 0
    finding = PeerNode.call(node, Diagnosis, :find, [Atom.to_string(full.name)])
    where = "127.0.0.1:#{PeerNode.port(full)}"
    assert finding == {:protocol, where, "then says nothing for 2 seconds"}
    assert Diagnosis.text(finding) =~ "or has no free file descriptor"
  end

  test "a diagnosis finds out why a node cannot be connected" do
    node = PeerNode.start!(name: PeerNode.name("app"))
    find = &find(node, &1)

    closed = Host.free_port()
    assert find.("app-#{closed}@127.0.0.1") == {:refused, "127.0.0.1:#{closed}"}

    # Each connect fails in the handshake.
    other = PeerNode.start!(name: PeerNode.name("other"), args: ["-setcookie", "other"])
    refute PeerNode.call(node, :net_kernel, :connect_node, [other.name])
    where = "127.0.0.1:#{PeerNode.port(other)}"
    assert find.(Atom.to_string(other.name)) == {:cookie, where}

    # No cookie is sent if this node has one for the other node only.
    true = PeerNode.call(node, :erlang, :set_cookie, [other.name, :other])
    finding = find.(Atom.to_string(other.name))
    assert finding == {:own_cookie, where}
    assert Diagnosis.id(finding) == "peer.cookie"
    assert Diagnosis.text(finding) =~ "the node at #{where} alone (Node.set_cookie/2)"

    third = PeerNode.start!(name: PeerNode.name("third"))
    where = "127.0.0.1:#{PeerNode.port(third)}"
    wrong = "app-#{PeerNode.port(third)}@127.0.0.1"
    refute PeerNode.call(node, :net_kernel, :connect_node, [String.to_atom(wrong)])
    assert find.(wrong) == {:name, where, Atom.to_string(third.name)}
    assert find.(Atom.to_string(third.name)) == {:accepted, where}

    tls = PeerNode.start!(name: PeerNode.name("tls"), args: PeerNode.tls_args())
    assert find.(Atom.to_string(tls.name)) == {:tls, "127.0.0.1:#{PeerNode.port(tls)}"}

    {:ok, hangs} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(hangs)
    what = "then says nothing for 2 seconds"
    finding = PeerNode.call(node, Diagnosis, :find, ["app-#{port}@127.0.0.1"])
    assert finding == {:protocol, "127.0.0.1:#{port}", what}

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
    assert PeerNode.call(short, Probe, :name_type, [long]) == {:name_type, "127.0.0.1"}
    assert PeerNode.call(short, Probe, :name_type, ["app@fd00::1"]) == :ok
    assert PeerNode.call(node, Probe, :name_type, ["app@fd00::1"]) == :ok
    assert PeerNode.call(node, Probe, :name_type, [long]) == :ok

    # With -name, OTP starts a node whose host has no dot, and connects it to nodes with long names.
    undotted = PeerNode.start!(args: ["-name", "app-#{Host.free_port()}@localhost"])
    assert PeerNode.call(undotted, Probe, :name_type, [long]) == :ok
    assert PeerNode.call(undotted, Probe, :name_type, ["app@node1"]) == {:name_type, "node1"}
    assert PeerNode.call(undotted, :net_kernel, :connect_node, [node.name])

    assert PeerNode.call(short, Diagnosis, :find, [long]) == {:name_type, "127.0.0.1"}
  end

  test "the finding for a link-local address says that a node cannot connect to it" do
    node = PeerNode.start!(name: PeerNode.name("app", "::1"), args: ~w(-proto_dist inet6_tcp))
    finding = PeerNode.call(node, Diagnosis, :find, ["app-4001@fe80::77"])
    assert finding == {:network, "[fe80::77]:4001", :einval}
    assert Diagnosis.text(finding) =~ "[fe80::77]:4001 is not an address"
  end

  test "over TLS, the handshake is examined too, if the options are in a file" do
    tls = PeerNode.tls_args()
    node = PeerNode.start!(name: PeerNode.name("app"), args: tls)

    find = fn node, other ->
      where = "127.0.0.1:#{PeerNode.port(other)}"
      finding = find(node, Atom.to_string(other.name))
      {elem(finding, 0), PeerNode.call(node, Diagnosis, :text, [finding]) =~ where}
    end

    other = PeerNode.start!(name: PeerNode.name("other"), args: ["-setcookie", "other" | tls])
    assert find.(node, other) == {:cookie, true}
    stranger = PeerNode.start!(name: PeerNode.name("stranger"), args: PeerNode.tls_args())
    assert find.(node, stranger) == {:certificate, true}
    plain = PeerNode.start!(name: PeerNode.name("plain"))
    assert find.(node, plain) == {:no_tls, true}

    args = tls ++ ~w(-ssl_dist_opt client_depth 10)
    options = PeerNode.start!(name: PeerNode.name("options"), args: args)
    assert find.(options, other) == {:unexamined, true}
  end
end
