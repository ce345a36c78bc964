defmodule Caravan.DoctorTest do
  use ExUnit.Case, async: true

  import Caravan.Test.Doctor
  import ExUnit.CaptureIO

  alias Caravan.Doctor
  alias Caravan.Test.Cluster
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  describe "report/1" do
    test "returns a map of strings, numbers, booleans, lists and nil" do
      node = PeerNode.start!(name: PeerNode.name("app"))
      report = report(node)
      assert plain?(report)
      assert report.ok
      assert [{"warning", "cluster.topology", _seen}] = findings(report)
      assert Enum.all?(report.checks, &(is_integer(&1.time_us) and &1.time_us < 10_000_000))
    end

    test "leaves the node as it is" do
      node = PeerNode.start!(name: PeerNode.name("app"))
      report(node)

      state = fn ->
        counts =
          for key <- [:atom_count, :port_count, :process_count],
              do: PeerNode.call(node, :erlang, :system_info, [key])

        {counts, PeerNode.call(node, :erlang, :nodes, [:connected]),
         PeerNode.call(node, :os, :env, [])}
      end

      before = state.()
      for _ <- 1..5, do: report(node)
      {[atoms_before, ports_before, processes_before], nodes, env} = before

      # Handshakes create up to 64 atoms, caravan-probe-0 to -63. Their processes and sockets end a moment after a
      # report: so the counts before may be too high, and those after it are compared until they fit.
      same = fn {[atoms, ports, processes], now_nodes, now_env} ->
        {now_nodes, now_env} == {nodes, env} and atoms - atoms_before <= 64 and
          ports <= ports_before and processes <= processes_before
      end

      assert Caravan.Test.Eventually.true?(fn -> same.(state.()) end, 20_000)
    end

    test "runs 20 times at once, each with the same result" do
      [name, other, stranger] = for _ <- 1..3, do: PeerNode.name("app")
      PeerNode.start!(name: other)
      PeerNode.start!(name: stranger, args: ~w(-setcookie other -kernel logger_level none))
      node = PeerNode.start!(name: name)

      records = for name <- [name, other, stranger], do: {0, 0, PeerNode.port(name), "host.test"}
      answers = [{"app.test", :srv, records}, {"host.test", :a, [{127, 0, 0, 1}]}]
      server = start_supervised!({Caravan.Test.DnsServer, answers: answers})

      strategy = [
        query: "app.test",
        node_sname: "app",
        node_name: "{name}-{port}@127.0.0.1",
        nameservers: [Caravan.Test.DnsServer.address(server)]
      ]

      options = [strategy: strategy, timeout: 25_000]

      code = """
      1..20
      |> Task.async_stream(fn _ -> Caravan.Doctor.report(options) end, max_concurrency: 20, timeout: :infinity)
      |> Enum.map(fn {:ok, report} -> report end)
      """

      reports = PeerNode.eval(node, code, options: options)
      assert length(reports) == 20

      for report <- reports do
        assert [{"failed", "peer.cookie", _}, {"failed", "peer.connected", _}] = findings(report)

        assert ["release.rel_missing"] =
                 for(%{status: "skipped", id: id} <- report.checks, do: id)
      end
    end

    test "has no finding in a healthy cluster of three" do
      names = for _ <- 1..3, do: PeerNode.name("app")
      server = start_server(Enum.map(names, &PeerNode.port/1))

      nodes =
        for name <- names do
          node = Cluster.start_alone(name: name)
          :ok = PeerNode.call(node, Cluster, :run_strategy, [strategy(server)])
          node
        end

      Cluster.await_mesh(nodes)

      for node <- nodes do
        report = report(node, nodes: 2, strict: true)
        assert findings(report) == []
        assert report.ok
      end
    end

    # Each of these mistakes also makes later checks impossible, or their results wrong.
    test "has one failure for one mistake of a node" do
      name = PeerNode.name("app")
      port = PeerNode.port(name)
      strategy = strategy(start_server([port]))

      for {id, options} <- [
            {"node.alive", []},
            {"node.epmd_module", [name: name, epmd: false, args: ~w(-dist_listen false)]},
            {"node.longnames", [name: "app-#{port}"]},
            {"ports.rule", [name: "app-#{port}x70000@127.0.0.1", args: ~w(-dist_listen false)]},
            {"ports.listen", [name: name, args: ~w(-dist_listen false)]},
            {"ports.advertised", [name: name, args: ~w(-caravan listen_port #{Host.free_port()})]}
          ] do
        node = PeerNode.start!(options)
        assert_one_failure(id, report(node, strategy: strategy))
        PeerNode.stop!(node)
      end
    end

    test "has one failure for one mistake of a node that does not run" do
      name = PeerNode.name("app")
      port = PeerNode.port(name)
      strategy = strategy(start_server([port]))
      {:ok, listener} = :gen_tcp.listen(0, [])
      {:ok, taken} = :inet.port(listener)

      for {id, name, env, options} <- [
            {"node.alive", name, [{"RELEASE_DISTRIBUTION", "none"}], []},
            {"node.epmd_module", name, [], [epmd: false]},
            {"node.longnames", name, [{"RELEASE_DISTRIBUTION", "sname"}], []},
            {"node.host", "app-#{port}@0.0.0.0", [], []},
            {"ports.rule", "app-70000@127.0.0.1", [], []},
            {"ports.rule", name, [{"CARAVAN_BASE_PORT", "abc"}], []},
            {"ports.listen", name, [{"CARAVAN_LISTEN_PORT", "#{taken}"}], []}
          ] do
        node = PeerNode.start!([env: eval_env(name, env)] ++ options)
        [_name, host] = String.split(name, "@")
        strategy = Keyword.put(strategy, :node_name, "{name}-{port}@#{host}")
        assert_one_failure(id, report(node, strategy: strategy))
        PeerNode.stop!(node)
      end
    end

    defp assert_one_failure(id, report) do
      assert [^id] = for(%{status: "failed", id: id} <- report.checks, do: id)
      assert check(report, id).fix =~ ~r/\S/
    end

    test "takes the topologies from libcluster's configuration" do
      config = [query: "app.test", type: :a]

      topologies = [
        app: [strategy: Caravan.Cluster.DnsStrategy, config: config],
        other: [strategy: Other]
      ]

      node = PeerNode.start!(env: eval_env("app@node1", [{"RELEASE_DISTRIBUTION", "sname"}]))
      PeerNode.call(node, Application, :put_env, [:libcluster, :topologies, topologies])

      for options <- [[only: :node], [only: :node, topology: :app]] do
        assert [{"failed", "node.longnames", seen}] = findings(report(node, options))
        assert seen =~ "the topology :app has nodes of the other kind"
      end

      assert_raise_text(
        node,
        [topology: :other],
        "expected :topology to be a topology that this VM knows (one of: :app), got: :other"
      )
    end

    test "takes the topologies that run, also if their strategy hangs" do
      node = PeerNode.start!(name: PeerNode.name("app", "LocalHost.localdomain"))
      {:ok, _} = PeerNode.call(node, :application, :ensure_all_started, [:logger])

      options = [
        query: "app.test",
        node_sname: "app",
        topology: :plain,
        nameservers: ["127.0.0.1:9"]
      ]

      {:ok, pid} =
        PeerNode.call(node, GenServer, :start, [
          Caravan.Cluster.DnsStrategy,
          Caravan.Cluster.Config.new!(options)
        ])

      assert [{"failed", "node.host", "the host LocalHost.localdomain has capital letters" <> _}] =
               findings(report(node, only: [:node]))

      :ok = PeerNode.call(node, :sys, :suspend, [pid])

      assert [{"failed", "node.host", _seen}] =
               findings(report(node, only: [:node], topology: :plain))
    end

    test "ends within its timeout although net_kernel hangs, says which checks had no time, and is not ok" do
      node = PeerNode.start!(name: PeerNode.name("app"))
      :ok = PeerNode.call(node, :sys, :suspend, [:net_kernel])
      {time, report} = :timer.tc(fn -> report(node, timeout: 300) end)
      assert time < 10_000_000
      assert "no time" in Enum.map(report.checks, & &1.seen)
      assert report.counts.failed == 0
      refute report.ok

      code = """
      {:ok, io} = StringIO.open("")
      Process.group_leader(self(), io)

      status =
        try do
          Caravan.doctor!(timeout: 300)
        catch
          :exit, {:shutdown, status} -> status
        end

      {status, Caravan.doctor(timeout: 300), io |> StringIO.contents() |> elem(1)}
      """

      assert {2, {:error, []}, printed} = PeerNode.eval(node, code)
      assert printed =~ ~r/\. Not finished within :timeout: .*ports\.advertised/
    end

    test "ends within its timeout although all of 300 queries are silent" do
      {:ok, socket} = :gen_udp.open(0, ip: {127, 0, 0, 1})
      {:ok, port} = :inet.port(socket)
      queries = for n <- 1..300, do: "app#{n}.test"
      strategy = [query: queries, nameservers: ["127.0.0.1:#{port}"], lookup_timeout: 60_000]
      {time, report} = :timer.tc(fn -> Doctor.report(timeout: 1_000, strategy: strategy) end)

      # The lookups would take a minute. A busy machine needs some seconds for the 1,800 checks.
      assert time < 30_000_000

      # On a busy machine, the time is over before the last check has looked at its result.
      lookups = for %{id: "dns.lookup"} = check <- report.checks, do: check
      assert length(lookups) == 300
      assert Enum.all?(lookups, &(&1.status == "failed" or &1.seen == "no time"))
      assert Enum.any?(lookups, &(&1.status == "failed"))
      :gen_udp.close(socket)
    end

    test "is not ok if all checks were skipped, and with :wait is repeated until one can run" do
      node = Caravan.Test.Cluster.start_alone()
      report = report(node, only: [:dns])
      refute report.ok

      assert [%{id: "dns.lookup", status: "skipped", seen: "no topology is known" <> _}] =
               report.checks

      task = Task.async(fn -> report(node, only: [:dns], wait: 20_000) end)
      refute Task.yield(task, 500)

      [base, port] =
        node.name |> Atom.to_string() |> String.split("@") |> hd() |> String.split("-")

      answers = [{"app.test", :srv, [{0, 0, String.to_integer(port), "n.test"}]}]
      server = start_supervised!({Caravan.Test.DnsServer, answers: answers})

      :ok =
        PeerNode.call(node, Caravan.Test.Cluster, :run_strategy, [
          [
            query: "app.test",
            node_name: "#{base}-{port}@127.0.0.1",
            nameservers: [Caravan.Test.DnsServer.address(server)]
          ]
        ])

      assert Task.await(task, 20_000).ok
    end

    test "runs only the groups that are asked for" do
      node = PeerNode.start!(name: PeerNode.name("app"))
      assert ["ports.rule" | _] = ids = Enum.map(report(node, only: [:ports]).checks, & &1.id)
      assert Enum.all?(ids, &String.starts_with?(&1, "ports."))
    end

    test "repeats the checks until none fails" do
      name = PeerNode.name("app")
      port = PeerNode.port(name)
      {:ok, listener} = :gen_tcp.listen(port, [])
      eval = PeerNode.start!(env: eval_env(name))
      assert [{"failed", "ports.listen", _}] = findings(report(eval, only: [:ports], wait: 0))

      task = Task.async(fn -> report(eval, only: [:ports], wait: 20_000) end)
      refute Task.yield(task, 500)
      :gen_tcp.close(listener)
      assert Task.await(task, 20_000).ok
    end
  end

  describe "a wrong option" do
    for {options, text} <- [
          {[only: [:x]],
           "expected :only to be a list of some of [:release, :node, :ports, :dns, :peers], got: [:x]"},
          {[timeout: 0],
           "expected :timeout to be an integer from 100 to 600_000 (milliseconds), got: 0"},
          {[unknown: 1], "unknown option :unknown (given 1), expected one of: :topology, :only"},
          {[strategy: 1], "expected :strategy to be the options of Caravan.Cluster.DnsStrategy"},
          {[strategy: [query: 1]],
           "Caravan.Cluster.DnsStrategy: expected :query to be a DNS name"},
          {[topology: :nope],
           "expected :topology to be a topology that this VM knows (there is none), got: :nope. Give the options"},
          {1, "expected options as a keyword list, got: 1"}
        ] do
      test "raises for #{inspect(options)}, and ends a command with status 2" do
        options = unquote(Macro.escape(options))
        text = unquote(text)
        assert_raise ArgumentError, ~r/#{Regex.escape(text)}/, fn -> Doctor.report(options) end
        assert_raise ArgumentError, fn -> Caravan.doctor(options) end

        assert capture_io(fn ->
                 assert catch_exit(Caravan.doctor!(options)) == {:shutdown, 2}
               end) =~ text
      end
    end
  end

  describe "doctor/1 and doctor!/1" do
    test "print the findings and return or exit with the result" do
      # This VM is not alive.
      printed =
        capture_io(fn ->
          assert Caravan.doctor() == {:error, ["node.alive"]}
        end)

      assert printed =~ "failed   node.alive  this VM runs without a node name\n"
      assert printed =~ ~r/: 1 ok, 0 warnings, 1 failed, \d+ skipped\n\z/

      assert capture_io(fn ->
               assert catch_exit(Caravan.doctor!()) == {:shutdown, 1}
             end) == printed
    end

    test "also look up in a VM that is not alive, and ask no member" do
      answers = [{"app.test", :a, [{127, 0, 0, 9}]}]
      server = start_supervised!({Caravan.Test.DnsServer, answers: answers})

      strategy = [
        query: "app.test",
        type: :a,
        nameservers: [Caravan.Test.DnsServer.address(server)]
      ]

      report = Doctor.report(strategy: strategy)
      assert [{"failed", "node.alive", _seen}] = findings(report)
      assert check(report, "dns.lookup").status == "ok"
      assert check(report, "peer.connected").seen == "node.alive has failed"
    end

    test "print why all checks were skipped, and return no id or exit with status 2" do
      for {only, reason} <- [
            {:dns, "dns.lookup  no topology is known that looks something up"},
            {:release, "release.rel_missing  this VM is not of a release (no RELEASE_ROOT"}
          ] do
        printed = capture_io(fn -> assert Caravan.doctor(only: only) == {:error, []} end)
        assert printed =~ ~r/\Askipped  #{Regex.escape(reason)}/
        assert printed =~ "1 skipped. No check could run\n"

        assert capture_io(fn ->
                 assert catch_exit(Caravan.doctor!(only: only)) == {:shutdown, 2}
               end) == printed
      end
    end

    test "return :ok if nothing has failed" do
      node = PeerNode.start!(name: PeerNode.name("app"))

      code = """
      {:ok, io} = StringIO.open("")
      Process.group_leader(self(), io)
      {Caravan.doctor!(verbose: true), Caravan.doctor(), io |> StringIO.contents() |> elem(1)}
      """

      assert {:ok, :ok, printed} = PeerNode.eval(node, code)
      assert printed =~ "ok       node.alive  #{node.name}\n"
    end
  end

  defp assert_raise_text(node, options, text) do
    code = """
    try do
      Caravan.Doctor.report(options)
    rescue
      error in ArgumentError -> Exception.message(error)
    end
    """

    assert PeerNode.eval(node, code, options: options) =~ text
  end

  defp plain?(term) when is_map(term),
    do: Enum.all?(term, fn {key, value} -> is_atom(key) and plain?(value) end)

  defp plain?(term) when is_list(term), do: Enum.all?(term, &plain?/1)
  defp plain?(term), do: is_binary(term) or is_number(term) or is_boolean(term) or term == nil
end
