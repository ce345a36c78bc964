defmodule Caravan.ReleaseTest do
  use ExUnit.Case, async: true

  import Caravan.Test.Command, only: [assert_refused: 1]
  import Caravan.Test.Host, only: [forbid_epmd: 1]

  alias Caravan.Test.DnsServer
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Release
  alias Caravan.Test.Requirements

  @query "_fleet._tcp.fleet.test"

  setup :forbid_epmd

  setup_all do
    {:ok, release: Release.build!()}
  end

  # Prepares two nodes with SRV records. The tests start them.
  setup %{release: release} do
    names = [PeerNode.name("app"), PeerNode.name("app")]
    records = for name <- names, do: {0, 0, PeerNode.port(name), "localhost"}
    server = start_supervised!({DnsServer, answers: [{@query, :srv, records}]})

    env = [
      {"FLEET_QUERY", @query},
      {"FLEET_NAMESERVER", DnsServer.address(server)},
      {"FLEET_NODE_NAME", "{name}-{port}@127.0.0.1"}
    ]

    [a, b] = for name <- names, do: Release.node(release, name, env)
    {:ok, a: a, b: b, env: env}
  end

  defp start_both(a, b) do
    nodes = [Release.start!(a), Release.start!(b)]
    await_pair(nodes)
    nodes
  end

  defp await_pair([a, b]) do
    Release.await(a, "Node.list() == [:\"#{b.name}\"]")
    Release.await(b, "Node.list() == [:\"#{a.name}\"]")
  end

  describe "two nodes" do
    test "in embedded mode find each other, each on the port of its name", %{a: a, b: b} do
      nodes = [a, _b] = start_both(a, b)

      for node <- nodes,
          do: assert(Host.listening_ports(node.os_pid) == [PeerNode.port(node.name)])

      assert Release.rpc(a, ":code.get_mode()") == ":embedded"
      assert Release.rpc(a, "Caravan.check()") == ":ok"
      assert String.to_integer(Release.rpc(a, ":erlang.system_info(:creation)")) > 4
    end

    test "in interactive mode find each other", %{a: a, b: b} do
      [a, b] = for node <- [a, b], do: %{node | env: [{"RELEASE_MODE", "interactive"} | node.env]}
      [a, b] = start_both(a, b)

      assert Release.rpc(a, ":code.get_mode()") == ":interactive"
      assert Host.listening_ports(b.os_pid) == [PeerNode.port(b.name)]
    end

    test "meet again after a restart of one of them", %{a: a, b: b} do
      nodes = [a, _b] = start_both(a, b)
      creation = Release.rpc(a, ":erlang.system_info(:creation)")

      assert %{status: 0} = Release.run(a, ["restart"])
      Release.await(a, ":erlang.system_info(:creation) != #{creation}")
      await_pair(nodes)
      assert Host.listening_ports(a.os_pid) == [PeerNode.port(a.name)]
    end
  end

  describe "while a node runs" do
    setup %{a: a} do
      a = Release.start!(a)
      Release.await(a)
      {:ok, a: a, port: PeerNode.port(a.name)}
    end

    test "rpc works, and does not take the port of the node", %{a: a, port: port} do
      assert %{status: 0, stdout: stdout, stderr: ""} =
               Release.run(a, ["rpc", "IO.inspect({node(), Node.list(:hidden)})"])

      assert stdout =~ ~r/^{:"#{a.name}", \[:"rpc-\w+-#{a.name}"\]}$/m
      assert Host.listening_ports(a.os_pid) == [port]
    end

    @tag Requirements.tag(:script)
    test "a remote console works, and does not take the port of the node", %{a: a, port: port} do
      console = Release.on_terminal!(a, "remote")
      consoles = ~S|Enum.filter(Node.list(:hidden), &String.starts_with?("#{&1}", "rem-"))|
      Release.await(a, "match?([_], #{consoles})")
      assert Release.rpc(a, consoles) =~ ~r/^\[:"rem-\w+-#{a.name}"\]$/

      # What is typed before the shell runs is lost.
      assert Release.await_output(console, "iex(#{a.name})1>")
      # The sum proves that the line was evaluated and not only echoed.
      Port.command(console, "IO.puts([\"sum \", to_string(40 + 2), \" \", to_string(node())])\n")
      assert Release.await_output(console, "sum 42 #{a.name}")
      assert Host.listening_ports(a.os_pid) == [port]
    end

    test "eval runs in a VM that is not alive", %{a: a, port: port} do
      assert %{status: 0, stdout: "false\n", stderr: ""} =
               Release.run(a, ["eval", "IO.inspect(Node.alive?())"])

      assert Host.listening_ports(a.os_pid) == [port]
    end

    test "pid prints its process id", %{a: a} do
      assert %{status: 0, stdout: stdout} = Release.run(a, ["pid"])
      assert String.trim(stdout) == a.os_pid
    end

    test "stop ends the node", %{a: a} do
      assert %{status: 0} = Release.run(a, ["stop"])
      assert Host.await_exit(a.os_pid) == :ok
    end

    test "another start under the same name ends with status 1 and one line", %{a: a, port: port} do
      line = a |> Release.run(["start"]) |> assert_refused()
      assert line =~ "app-#{port}"
      assert line =~ "cannot listen on port #{port}: the port is in use"
      assert line =~ "another node"
      assert Release.rpc(a, "Node.self()") == ~s(:"#{a.name}")
    end

    test "a start under another name with the same number ends with status 1 and one line",
         context do
      %{release: release, env: env, port: port} = context
      other = Release.node(release, "other-#{port}@127.0.0.1", env)
      line = other |> Release.run(["start"]) |> assert_refused()
      assert line =~ "other-#{port}"
      assert line =~ "another node"
    end
  end

  test "a daemon starts, answers and stops", %{a: a} do
    assert %{status: 0} = Release.run(a, ["daemon"])
    Release.await(a)

    assert %{status: 0, stdout: os_pid} = Release.run(a, ["pid"])
    os_pid = String.trim(os_pid)
    assert Host.listening_ports(os_pid) == [PeerNode.port(a.name)]

    assert %{status: 0} = Release.run(a, ["stop"])
    assert Host.await_exit(os_pid) == :ok
  end

  test "a node without digits and its helpers use the base port of the environment",
       context do
    %{release: release, env: env} = context
    port = Host.free_port()
    env = [{"CARAVAN_BASE_PORT", "#{port}"} | env]
    node = release |> Release.node("app@127.0.0.1", env) |> Release.start!()

    Release.await(node)
    assert Host.listening_ports(node.os_pid) == [port]
    assert Release.rpc(node, "Caravan.Epmd.dist_port(:app)") == "#{port}"
  end

  test "rpc, pid and stop find a node that listens on listen_port, whatever its name", context do
    %{release: release, env: env} = context
    [port, name_port] = [Host.free_port(), Host.free_port()]
    # The host of the name is an address outside, as in a bridge network.
    env = [{"CARAVAN_LISTEN_PORT", "#{port}"} | env]
    node = release |> Release.node("app-#{name_port}@192.0.2.1", env) |> Release.start!()

    Release.await(node)
    assert Host.listening_ports(node.os_pid) == [port]
    assert Release.rpc(node, "node()") == ~s(:"#{node.name}")
    assert %{status: 0, stdout: stdout} = Release.run(node, ["pid"])
    assert String.trim(stdout) == node.os_pid
    assert %{status: 0} = Release.run(node, ["stop"])
    assert Host.await_exit(node.os_pid) == :ok
  end

  test "the main node reads config :caravan from the release's sys.config", context do
    %{release: release, env: env} = context
    [port, name_port] = [Host.free_port(), Host.free_port()]
    node = Release.node(release, "app-#{name_port}@127.0.0.1", env)

    config = Path.join(node.dir, "listen")
    [sys_config] = Path.wildcard("#{release.dir}/releases/*/sys.config")
    {:ok, [terms]} = :file.consult(sys_config)
    terms = List.keystore(terms, :caravan, 0, {:caravan, [listen_port: port]})
    File.write!(config <> ".config", :io_lib.format("~tp.~n", [terms]))

    node = Release.start!(%{node | env: [{"RELEASE_SYS_CONFIG", config} | node.env]})
    Host.await(fn -> Host.listening_ports(node.os_pid) == [port] end, "a node on port #{port}")
  end

  describe "a start ends with status 1 and one line on stderr" do
    test "when the name has no port", %{release: release, env: env} do
      node = Release.node(release, "app-70000@127.0.0.1", env)
      line = node |> Release.run(["start"]) |> assert_refused()
      assert line =~ "app-70000"
      assert line =~ "over 65535"
    end

    test "when a setting does not parse", %{release: release, env: env} do
      node = Release.node(release, "app@127.0.0.1", [{"CARAVAN_BASE_PORT", "abc"} | env])
      line = node |> Release.run(["start"]) |> assert_refused()
      assert line =~ "CARAVAN_BASE_PORT"
      assert line =~ "abc"
    end
  end
end
