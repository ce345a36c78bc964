defmodule Caravan.Doctor.Checks.PeersTest do
  use ExUnit.Case, async: true

  import Caravan.Test.Doctor

  alias Caravan.Test.Cluster
  alias Caravan.Test.DnsServer
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  @loopback {127, 0, 0, 1}

  defp peers(node, strategy, options \\ []),
    do: report(node, [only: [:peers], strategy: strategy] ++ options)

  # Returns the only finding, and asserts that no other check of any group has one.
  defp finding(node, strategy, tries \\ 5) do
    report = report(node, strategy: strategy)
    late? = &(&1.seen =~ "then says nothing for 2 seconds")

    # On a busy machine, a node may need longer for a reply.
    if tries > 1 and Enum.any?(report.checks, late?) do
      finding(node, strategy, tries - 1)
    else
      assert [{"failed", id, seen}] = findings(report)
      [check] = Enum.filter(report.checks, &(&1.status == "failed"))
      {id, check.subject, seen, check.fix}
    end
  end

  defp name(port), do: "app-#{port}@127.0.0.1"
  defp where(port), do: "127.0.0.1:#{port}"

  defp serve(answer, then) do
    {:ok, listener} = :gen_tcp.listen(0, [:binary, active: false, ip: @loopback])
    {:ok, port} = :inet.port(listener)

    start_supervised!(
      {Task, fn -> accept(listener, answer, then) end},
      id: make_ref()
    )

    port
  end

  defp accept(listener, answer, then) do
    {:ok, socket} = :gen_tcp.accept(listener)
    {:ok, _name} = :gen_tcp.recv(socket, 0)
    _ = :gen_tcp.send(socket, answer)
    if then == :close, do: :gen_tcp.close(socket)
    accept(listener, answer, then)
  end

  test "a member that is connected has no finding" do
    other = PeerNode.start!(name: PeerNode.name("app"))
    {node, strategy} = node_with_members([PeerNode.port(other)])
    assert PeerNode.call(node, :net_kernel, :connect_node, [other.name])
    report = report(node, strategy: strategy, nodes: 1)
    assert findings(report) == []
    assert check(report, "peer.connected").seen == "1 of 1 members are connected"
    assert check(report, "cluster.nodes").seen == "1 nodes are connected"
    assert check(report, "cluster.topology").seen == "caravan"
  end

  test "in eval, a member that accepts the cookie has no finding, and one that refuses it has" do
    other = PeerNode.start!(name: PeerNode.name("app"))
    {node, strategy} = node_with_members([PeerNode.port(other)])
    name = Atom.to_string(node.name)

    eval = PeerNode.start!(env: eval_env(name, [{"RELEASE_COOKIE", "other"}]))
    assert {"peer.cookie", _subject, _seen, fix} = finding(eval, strategy)
    assert fix == "the same RELEASE_COOKIE in the environment of both nodes"

    # The fix.
    eval = PeerNode.start!(env: eval_env(name, [{"RELEASE_COOKIE", "caravan_test"}]))
    assert findings(report(eval, strategy: strategy)) == []
  end

  describe "a member that is not connected" do
    test "fails with peer.connected if all is right" do
      other = PeerNode.start!(name: PeerNode.name("app"))
      port = PeerNode.port(other)
      {node, strategy} = node_with_members([port])
      assert {"peer.connected", subject, seen, fix} = finding(node, strategy)
      assert subject == name(port)
      assert seen == "the node accepts the cookie of this node, and is not connected"
      assert fix =~ "wait for the next attempt of the strategy"
      assert PeerNode.call(node, :erlang, :nodes, [:connected]) == []
    end

    test "fails with peer.refused if nothing listens" do
      port = Host.free_port()
      {node, strategy} = node_with_members([port])
      assert {"peer.refused", subject, seen, fix} = finding(node, strategy)
      assert subject == name(port)
      assert seen == "nothing listens on #{where(port)}"
      assert fix == "start the node, or correct its port in its name or record"
      # Its name is no atom.
      code = "try do String.to_existing_atom(name) rescue ArgumentError -> :none end"
      assert PeerNode.eval(node, code, name: "app-#{port}@127." <> "0.0.1") == :none
    end

    test "fails with peer.silent if its host drops packets" do
      # Linux drops the packets of new connections while the queue of the listener is full.
      {:ok, listener} = :gen_tcp.listen(0, backlog: 0, ip: @loopback)
      {:ok, port} = :inet.port(listener)
      fill = fn -> :gen_tcp.connect(@loopback, port, [], 1_000) end
      assert Enum.any?(1..10, fn _ -> fill.() == {:error, :timeout} end)

      {node, strategy} = node_with_members([port])
      assert {"peer.silent", _subject, seen, fix} = finding(node, strategy)
      assert seen == "#{where(port)} does not reply within 2 seconds"
      assert fix == "start the host, or open the port in the firewall between the nodes"
    end

    test "fails with peer.network if the network does not reach its address" do
      # From a loopback address, Linux reaches no other host, with or without a route to it.
      args = ~w(-kernel inet_dist_connect_options [{ip,{127,0,0,1}}])
      node = PeerNode.start!(name: PeerNode.name("app", "host.test"), args: args)
      port = Host.free_port()

      answers = [
        {"app.test", :srv, [{0, 0, PeerNode.port(node), "host.test"}, {0, 0, port, "far.test"}]},
        {"host.test", :a, [@loopback]},
        {"far.test", :a, [{192, 0, 2, 7}]}
      ]

      server = start_supervised!({DnsServer, answers: answers})
      strategy = [query: "app.test", node_sname: "app", nameservers: [DnsServer.address(server)]]
      assert {"peer.network", subject, seen, fix} = finding(node, strategy)
      assert subject == "app-#{port}@far.test"
      assert seen =~ ~r/\A192.0.2.7:#{port}: (invalid argument|network is unreachable)\z/
      assert fix == "a route to the address, or another address in the record"
    end

    test "fails with peer.resolve if its host does not resolve, and with ports.rule if its name has no port" do
      # The resolver is not queried for such a name.
      host = String.duplicate("a", 64) <> ".test"
      node = PeerNode.start!(name: PeerNode.name("app"))
      strategy = strategy(start_server([4001]))

      report = report(node, strategy: [node_name: "{name}-{port}@#{host}"] ++ strategy)
      assert [{"warning", "dns.self", _}, {"failed", "peer.resolve", seen}] = findings(report)
      assert seen =~ "its host #{host} does not resolve"
      assert check(report, "peer.resolve").fix =~ "getent ahosts #{host}"

      report = report(node, strategy: [node_name: "app-70000@127.0.0.1"] ++ strategy)
      assert {"failed", "ports.rule", seen} = List.keyfind(findings(report), "failed", 0)
      assert seen =~ "no distribution port for \"app-70000@127.0.0.1\""
      assert [fix] = for(%{status: "failed", fix: fix} <- report.checks, do: fix)
      assert fix =~ "give app-70000@127.0.0.1 another name"
    end

    test "fails with peer.protocol if another program listens" do
      random = :rand.bytes(1_048_576)
      size = 65_000
      long_name = <<?N, 0::128, size::16, :binary.copy("a", size)::binary>>
      challenge = <<byte_size(long_name)::16, long_name::binary>>
      first = fn bytes -> "sends #{inspect(binary_part(bytes, 0, 32))}" end

      for {answer, then, text} <- [
            {"", :close, "then closes the connection"},
            {"", :hang, "then says nothing for 2 seconds"},
            {"HTTP/1.1 400 Bad Request\r\n\r\n", :close,
             ~S(sends "HTTP/1.1 400 Bad Request\r\n\r\n")},
            {<<0, 3, "sok">>, :close, "then closes the connection"},
            {random, :close, first.(random)},
            {[<<0, 3, "sok">>, challenge], :close, first.(challenge)}
          ] do
        port = serve(answer, then)
        {node, strategy} = node_with_members([port])
        tries = if text =~ "nothing", do: 1, else: 5
        assert {"peer.protocol", _subject, seen, fix} = finding(node, strategy, tries)
        assert seen == "#{where(port)} accepts, and #{text}"
        assert fix =~ "what listens on #{where(port)}"
      end
    end

    test "fails with peer.protocol if the node hangs" do
      other = PeerNode.start!(name: PeerNode.name("app"))
      where = where(PeerNode.port(other))
      {node, strategy} = node_with_members([PeerNode.port(other)])
      Cluster.signal(other, "STOP")
      assert {"peer.protocol", subject, seen, fix} = finding(node, strategy, 1)
      assert subject == Atom.to_string(other.name)
      assert seen == "#{where} accepts, and then says nothing for 2 seconds"

      assert fix ==
               "find out what listens on #{where}. If it is the node, it has no free file descriptor (raise ulimit -n), " <>
                 "or it hangs (restart it)"

      # The fix.
      Cluster.signal(other, "CONT")
      assert PeerNode.call(node, :net_kernel, :connect_node, [other.name])
      assert findings(report(node, strategy: strategy)) == []
    end

    test "fails with peer.name if the node has another name" do
      other = PeerNode.start!(name: PeerNode.name("other"))
      port = PeerNode.port(other)
      {node, strategy} = node_with_members([port])
      assert {"peer.name", subject, seen, fix} = finding(node, strategy)
      assert subject == name(port)
      assert seen == "the node at #{where(port)} has the name #{other.name}"
      assert fix =~ "RELEASE_NODE=#{name(port)} there"
    end

    test "fails with peer.cookie if its cookie differs" do
      name = PeerNode.name("app")
      # Its log has a line, which would mix with the results of the tests.
      args = ~w(-setcookie other -kernel logger_level none)
      PeerNode.start!(name: name, args: args)
      {node, strategy} = node_with_members([PeerNode.port(name)])
      assert {"peer.cookie", ^name, seen, fix} = finding(node, strategy)
      assert seen == "the node refuses the cookie of this node"
      assert fix =~ "RELEASE_COOKIE"
    end

    test "fails with peer.cookie if this node has a cookie for it alone" do
      other = PeerNode.start!(name: PeerNode.name("app"))
      {node, strategy} = node_with_members([PeerNode.port(other)])
      true = PeerNode.call(node, :erlang, :set_cookie, [other.name, :wrong])
      assert {"peer.cookie", _subject, seen, fix} = finding(node, strategy)
      assert seen =~ "this node has a cookie for that node alone (Node.set_cookie/2)"

      # The fix.
      assert "in this node: Node.set_cookie" <> _ = fix
      [code, _text] = String.split(fix, ", with the cookie")

      code =
        code |> String.trim_leading("in this node: ") |> String.replace("COOKIE", ":caravan_test")

      assert PeerNode.eval(node, code, []) == true
      assert PeerNode.call(node, :net_kernel, :connect_node, [other.name])
      assert findings(report(node, strategy: strategy)) == []
    end

    test "fails with peer.version if the node does not allow this one, or lacks flags" do
      other = PeerNode.start!(name: PeerNode.name("app"), args: ~w(-kernel logger_level none))
      :ok = PeerNode.call(other, :net_kernel, :allow, [[:"only@127.0.0.1"]])
      {node, strategy} = node_with_members([PeerNode.port(other)])
      assert {"peer.version", _subject, seen, fix} = finding(node, strategy)
      assert seen == "#{where(PeerNode.port(other))} allows no connection of this node"
      assert fix =~ "releases of OTP on both nodes that are two apart at most"

      port = Host.free_port()
      old = name(port)
      challenge = <<?N, 0::64, 1::32, 1::32, byte_size(old)::16, old::binary>>

      {:ok, listener} =
        :gen_tcp.listen(port, [:binary, active: false, reuseaddr: true, ip: @loopback])

      answer = <<0, 3, "sok", byte_size(challenge)::16, challenge::binary>>
      start_supervised!({Task, fn -> accept(listener, answer, :hang) end}, id: make_ref())
      {node, strategy} = node_with_members([port])
      assert {"peer.version", ^old, seen, _fix} = finding(node, strategy)
      assert seen == "#{where(port)} allows no connection of this node"
    end

    test "fails with peer.tls if only one of the nodes uses TLS" do
      # A node over TLS logs a connection without TLS.
      tls = PeerNode.tls_args() ++ ~w(-kernel logger_level none)
      other = PeerNode.start!(name: PeerNode.name("app"), args: tls)
      {node, strategy} = node_with_members([PeerNode.port(other)])
      assert {"peer.tls", _subject, seen, fix} = finding(node, strategy)
      assert seen == "#{where(PeerNode.port(other))} speaks TLS, and this node does not"
      assert fix =~ "\n-proto_dist inet_tls\nThis is for this node."

      other = PeerNode.start!(name: PeerNode.name("app"))
      {node, strategy} = node_with_members([PeerNode.port(other)], args: tls)
      assert {"peer.tls", _subject, seen, fix} = finding(node, strategy)
      assert seen == "#{where(PeerNode.port(other))} does not speak TLS, and this node does"
      assert fix =~ "\n-proto_dist inet_tls\nThis is for the other node."
    end

    test "fails with peer.tls over IPv6 too, with the argument for IPv6" do
      # The certificate is not examined.
      tls = Enum.map(PeerNode.tls_args(), &String.replace(&1, "inet_tls", "inet6_tls"))
      name = PeerNode.name("app", "::1")
      PeerNode.start!(name: name, args: tls ++ ~w(-kernel logger_level none))

      node = PeerNode.start!(name: PeerNode.name("app", "::1"), args: ~w(-proto_dist inet6_tcp))
      strategy = [node_name: "{name}-{port}@::1"] ++ strategy(start_server([PeerNode.port(name)]))
      report = peers(node, strategy)
      assert [{"failed", "peer.tls", _seen}] = findings(report)
      assert check(report, "peer.tls").fix =~ "\n-proto_dist inet6_tls\n"
    end

    test "over TLS, fails with the step that fails, as without TLS" do
      quiet = ~w(-kernel logger_level none)
      tls = PeerNode.tls_args() ++ quiet

      find = fn other_name, other_args, args ->
        other = PeerNode.start!(name: PeerNode.name(other_name), args: other_args)
        {node, strategy} = node_with_members([PeerNode.port(other)], args: args)
        {id, _subject, seen, fix} = finding(node, strategy)
        {id, String.replace(seen, where(PeerNode.port(other)), "WHERE"), fix}
      end

      assert {"peer.connected", "the node accepts the cookie of this node, and is not connected",
              _} = find.("app", tls, tls)

      assert {"peer.cookie", "the node refuses the cookie of this node", _} =
               find.("app", tls ++ ~w(-setcookie other), tls)

      assert {"peer.name", "the node at WHERE has the name other-" <> _, _} =
               find.("other", tls, tls)

      assert {"peer.tls", "the TLS handshake with WHERE fails: TLS client: " <> _, fix} =
               find.("app", PeerNode.tls_args() ++ quiet, tls)

      assert fix =~ "-ssl_dist_optfile"

      # The value is the default, so only the way in which the option is set differs.
      assert {"peer.connected", "WHERE speaks TLS, and the node is not connected", fix} =
               find.("app", tls, tls ++ ~w(-ssl_dist_opt client_depth 10))

      assert fix =~ "put the options of TLS into a file (-ssl_dist_optfile)"
    end

    test "fails with peer.drained if this node or the member is drained" do
      names = [PeerNode.name("app"), PeerNode.name("app")]
      server = start_server(Enum.map(names, &PeerNode.port/1))

      [a, b] =
        nodes =
        for name <- names do
          node = Cluster.start_alone(name: name, args: ~w(-kernel logger_level none))
          :ok = PeerNode.call(node, Cluster, :run_strategy, [strategy(server)])
          node
        end

      Cluster.await_mesh(nodes)
      for node <- nodes, do: assert(findings(report(node)) == [])

      assert PeerNode.call(a, Caravan.Cluster, :drain, [:caravan]) == :ok
      Host.await(fn -> Cluster.peers(b) == [] end, "the drain")

      assert [{"failed", "peer.drained", "this node is drained"}] = findings(report(a))

      assert [{"failed", "peer.drained", "that node accepts the cookie of this node, and" <> _}] =
               findings(report(b))

      # After a restart, node b no longer knows that node a is drained. The diagnosis of its failed connects finds it out.
      PeerNode.stop!(b)
      b = Cluster.start_alone(name: Atom.to_string(b.name), args: ~w(-kernel logger_level none))
      :ok = PeerNode.call(b, Cluster, :run_strategy, [strategy(server)])
      nodes = [a, b]

      failed? = fn ->
        {:ok, status} = PeerNode.call(b, Caravan.Cluster, :status, [:caravan])
        match?([%{id: "peer.drained"}], status.missing)
      end

      Host.await(failed?, "the diagnosis")
      report = report(b)

      assert [{"failed", "peer.drained", "that node accepts the cookie of this node, and" <> _}] =
               findings(report)

      assert check(report, "peer.drained").fix ==
               "Caravan.Cluster.resume(:caravan) in that node"

      # The fix.
      assert PeerNode.call(a, Caravan.Cluster, :resume, [:caravan]) == :ok
      Cluster.await_mesh(nodes)
      for node <- nodes, do: assert(findings(report(node)) == [])
    end
  end

  test "a member that accepts has no finding with a limited number of :links, and is not asked with another :connect" do
    other = PeerNode.start!(name: PeerNode.name("app"))
    {node, strategy} = node_with_members([PeerNode.port(other)])
    report = report(node, strategy: [links: 1] ++ strategy)
    assert findings(report) == []

    assert check(report, "peer.connected").seen ==
             "#{where(PeerNode.port(other))} accepts this node, which connects to 1 other nodes (:links)"

    report = report(node, strategy: [connect: {Other, :connect, []}] ++ strategy)
    assert findings(report) == []
    assert check(report, "peer.connected").status == "skipped"
  end

  # A node with 200 members. Nothing listens on the ports of 100, and the other 100 are silent.
  defp node_with_silent_members(options \\ []) do
    # Without an accept, the kernel accepts the connection, and nothing comes.
    silent =
      for _ <- 1..100 do
        {:ok, listener} = :gen_tcp.listen(0, ip: @loopback)
        {:ok, port} = :inet.port(listener)
        port
      end

    {node, strategy} = node_with_members(silent ++ Enum.to_list(1..100), options)
    # Loads the code.
    _ = report(node, strategy: strategy, timeout: 100)
    {node, strategy, silent}
  end

  test "200 members, 100 of them silent, take no longer than the timeout and less than 64 MiB" do
    {node, strategy, silent} = node_with_silent_members()

    # Returns the largest growth of the memory while the report is made.
    code = """
    total = fn -> :erlang.memory(:total) end
    caller = self()
    start = total.()

    sampler =
      spawn_link(fn ->
        Stream.repeatedly(fn ->
          receive do
            :stop -> :stop
          after
            5 -> total.()
          end
        end)
        |> Enum.reduce_while(0, fn
          :stop, most -> {:halt, send(caller, {:most, most})}
          now, most -> {:cont, max(now, most)}
        end)
      end)

    {time, report} = :timer.tc(fn -> Caravan.Doctor.report(strategy: strategy, timeout: 20_000) end)
    send(sampler, :stop)
    receive do: ({:most, most} -> {time, report, most - start})
    """

    {time, report, memory} = PeerNode.eval(node, code, strategy: strategy)
    assert time < 22_000_000
    assert memory < 64 * 1_048_576
    peers = for %{id: "peer." <> _} = check <- report.checks, do: check
    assert length(peers) == 200
    hanging = Enum.filter(peers, &(&1.seen =~ "accepts, and then says nothing for 2 seconds"))
    assert Enum.sort(Enum.map(hanging, & &1.subject)) == Enum.sort(Enum.map(silent, &name/1))

    assert [%{id: "peer.protocol"}] =
             Enum.uniq_by(hanging, & &1.id) |> Enum.map(&Map.take(&1, [:id]))
  end

  @tag timeout: 300_000
  test "200 members, 100 of them silent, hold no scheduler over 1 ms" do
    # The clock of the monitor also runs while the machine interrupts the VM, which a high priority makes rare.
    {node, strategy, _silent} = node_with_silent_members(wrapper: ~w(nice -n -20), args: ~w(+S 1))

    code = """
    # The process that gets the messages is not monitored.
    :erlang.system_monitor(self(), [{:long_schedule, 1}])
    report = Task.async(fn -> Caravan.Doctor.report(strategy: strategy, timeout: 60_000) end)
    %{counts: %{failed: 200}} = Task.await(report, :infinity)
    :erlang.system_monitor(:undefined)
    receive do: ({:monitor, _pid, :long_schedule, info} -> info), after: (0 -> :none)
    """

    # What holds a scheduler does so in each run.
    runs = Stream.map(1..40, fn _ -> PeerNode.eval(node, code, strategy: strategy) end)
    assert Enum.member?(runs, :none)
  end

  test "members whose time is over are skipped" do
    silent = serve("", :hang)
    {node, strategy} = node_with_members([silent | Enum.to_list(10_001..10_199)])
    # All members are the same silent program, each under another name.
    strategy = Keyword.put(strategy, :node_name, "{name}x{port}-#{silent}@127.0.0.1")
    {time, report} = :timer.tc(fn -> report(node, strategy: strategy, timeout: 1_000) end)
    assert time < 5_000_000
    seen = for %{id: "peer." <> _, seen: seen} <- report.checks, do: seen
    # The name of this node is not among them.
    assert length(seen) == 201
    assert "no time" in seen
  end
end
