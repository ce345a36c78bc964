defmodule Caravan.Doctor.ReleaseTest do
  use ExUnit.Case, async: true

  alias Caravan.Test.DnsServer
  alias Caravan.Test.Eventually
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Release

  @query "_fleet._tcp.fleet.test"

  setup_all do
    {:ok, release: Release.build!()}
  end

  setup %{release: release} do
    names = [PeerNode.name("app"), PeerNode.name("app")]
    records = for name <- names, do: {0, 0, PeerNode.port(name), "localhost"}
    answers = [{@query, :srv, records}, {"localhost", :a, [{127, 0, 0, 1}]}]
    server = start_supervised!({DnsServer, answers: answers})

    env = [
      {"FLEET_QUERY", @query},
      {"FLEET_NAMESERVER", DnsServer.address(server)},
      {"FLEET_NODE_NAME", "{name}-{port}@127.0.0.1"},
      {"RELEASE_COOKIE", "fleet_cookie"}
    ]

    [a, b] = for name <- names, do: Release.node(release, name, env)
    {:ok, a: a, b: b}
  end

  defp doctor(node, command, code) do
    result = Release.run(node, [command, code])
    assert result.stderr == ""
    {result.status, result.stdout}
  end

  test "rpc and eval end with status 0 in a healthy cluster, and leave it as it is", %{a: a, b: b} do
    [a, b] = nodes = [Release.start!(a), Release.start!(b)]
    Release.await(a, "Node.list() == [:\"#{b.name}\"]")
    Release.await(b, "Node.list() == [:\"#{a.name}\"]")
    assert Release.rpc(a, ":code.get_mode()") == ":embedded"

    # In embedded mode, the first run loads no code. It creates only atoms, such as the name of the node of `bin/app rpc`.
    assert {0, _} = doctor(a, "rpc", "Caravan.doctor!()")

    state = fn ->
      for node <- nodes,
          do:
            {Release.rpc(node, ":erlang.nodes(:visible)"),
             String.to_integer(Release.rpc(node, "length(:erlang.ports())")), Release.log(node)}
    end

    before = state.()
    assert {0, printed} = doctor(a, "rpc", "Caravan.doctor!(nodes: 1)")
    assert printed =~ ~r/\A#{a.name}: \d+ ok, 0 warnings, 0 failed, 0 skipped\n\z/
    assert {0, printed} = doctor(a, "eval", "Caravan.doctor!()")
    assert printed =~ ~r/\A#{a.name}: \d+ ok, 0 warnings, 0 failed, \d skipped\n\z/
    assert same?(state, before)

    # Twenty at once. The first twenty take atoms for names of handshakes, of which there are 64.
    twenty = """
    counts = fn -> for key <- [:atom_count, :process_count, :port_count], do: :erlang.system_info(key) end

    run = fn ->
      1..20
      |> Task.async_stream(fn _ -> Caravan.Doctor.report(timeout: 60_000) end, max_concurrency: 20, timeout: :infinity)
      |> Enum.map(fn {:ok, report} -> report.counts end)
      |> Enum.uniq()
    end

    run.()
    [atoms, processes, ports] = counts.()
    reports = run.()

    same? = fn ->
      [now_atoms, now_processes, now_ports] = counts.()
      now_atoms <= atoms + 64 and now_processes <= processes and now_ports <= ports
    end

    {reports, Enum.any?(1..200, fn _ -> same?.() or Process.sleep(100) == nil end)}
    """

    assert {[counts], true} = a |> Release.rpc(twenty) |> Code.eval_string() |> elem(0)
    assert %{failed: 0, warning: 0, skipped: 0} = counts
    assert same?(state, before)

    # A failure and a wrong option end the command, and not the node.
    assert {1, printed} = doctor(a, "rpc", "Caravan.doctor!(nodes: 5)")
    assert printed =~ "failed   cluster.nodes  1 nodes are connected\n"
    assert {2, printed} = doctor(a, "rpc", "Caravan.doctor!(only: [:x])")
    assert printed =~ "expected :only to be a list of some of"
    assert same?(state, before)
  end

  # The socket of a handshake, or of the VM that ran the last command, is closed a moment later. So the first state may have
  # more ports.
  defp same?(state, before) do
    same = fn {{nodes, ports, log}, {nodes_before, ports_before, log_before}} ->
      {nodes, log} == {nodes_before, log_before} and ports <= ports_before
    end

    Eventually.true?(fn -> state.() |> Enum.zip(before) |> Enum.all?(same) end, 60_000)
  end

  test "eval looks at a node that does not boot", %{a: a, release: release} do
    assert {1, printed} = doctor(a, "eval", "Caravan.doctor!()")
    assert printed =~ "failed   peer.refused  fleet app-"
    assert {2, printed} = doctor(a, "eval", "Caravan.doctor!(unknown: 1)")
    assert printed =~ "unknown option :unknown"

    node = Release.node(release, "app-70000@127.0.0.1", a.env -- [{"RELEASE_NODE", a.name}])
    assert %{status: 1} = Release.run(node, ["start"])
    assert {1, printed} = doctor(node, "eval", "Caravan.doctor!()")
    assert printed =~ "failed   ports.rule  no distribution port for"

    # Without the two flags, OTP looks for an epmd daemon.
    empty = Path.join(node.dir, "vm.args")
    File.write!(empty, "")
    env = [{"RELEASE_VM_ARGS", empty} | a.env]
    assert {1, printed} = doctor(%{a | env: env}, "eval", "Caravan.doctor!()")
    assert printed =~ "failed   release.vm_args  #{empty}: the node runs without -epmd_module"
    assert printed =~ " 0 warnings, 1 failed, "
  end
end
