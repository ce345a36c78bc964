defmodule Caravan.Doctor.Checks.DnsTest do
  use ExUnit.Case, async: true

  import Caravan.Test.Doctor, except: [report: 2]

  alias Caravan.Doctor
  alias Caravan.Test.DnsServer
  alias Caravan.Test.Host
  alias Caravan.Test.Knot
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements
  alias Caravan.Test.SystemFiles
  alias Caravan.Test.Unbound

  @query "_app._tcp.test"

  defp report(server, strategy) do
    default = [query: @query, node_sname: "app", nameservers: [DnsServer.address(server)]]
    Doctor.report(only: [:dns], strategy: Keyword.merge(default, strategy))
  end

  defp server(answers), do: start_supervised!({DnsServer, answers: answers})

  test "a lookup with records has no finding" do
    server = server([{@query, :srv, [{0, 0, 4001, "a.test"}]}, {"a.test", :a, [{10, 0, 0, 1}]}])
    report = report(server, topology: :fleet)
    assert findings(report) == []

    assert %{topology: "fleet", subject: "_app._tcp.test SRV"} =
             check = check(report, "dns.lookup")

    assert check.seen =~
             ~r/\A1 record from #{DnsServer.address(server)} \(udp\) in \d+ µs, TTL 5 s\z/

    assert check(report, "dns.names").seen == "the records name 1 nodes: app-4001@a.test"
  end

  describe "dns.lookup" do
    test "fails with the error, the nameserver, the time, the transport and the advice" do
      server = server([{@query, :srv, :servfail}])
      report = report(server, [])
      assert [{"failed", "dns.lookup", seen}] = findings(report)
      at = DnsServer.address(server)

      assert seen =~
               ~r/\(SRV\) failed at #{at}: the nameserver failed \(:servfail\) after \d+ µs over UDP\z/

      assert check(report, "dns.lookup").fix =~ "look at the logs of the nameserver"
    end

    test "fails within the timeout if the nameserver is silent" do
      server = server([{@query, :srv, :silent}])
      address = DnsServer.address(server)
      strategy = [query: @query, nameservers: [address], lookup_timeout: 60_000]
      {time, report} = :timer.tc(fn -> Doctor.report(timeout: 1_000, strategy: strategy) end)
      assert time < 30_000_000
      assert {"failed", "dns.lookup", seen} = List.keyfind(findings(report), "dns.lookup", 1)
      assert seen =~ "no valid answer came in time (:timeout)"
    end

    test "fails if nothing listens at the nameserver" do
      strategy = [
        query: @query,
        node_sname: "app",
        nameservers: ["127.0.0.1:#{Host.free_port()}"]
      ]

      report = Doctor.report(only: [:dns], strategy: strategy)
      assert [{"failed", "dns.lookup", _seen}] = findings(report)
    end

    test "names the transport over which the nameserver was queried last" do
      at = "127.0.0.1:#{Host.free_port()}"

      for {nameserver, transport} <- [
            {at, "UDP"},
            {"tcp://#{at}", "TCP"},
            {"tls://#{at}#ns.test", "TLS"},
            {"https://#{at}/dns-query#ns.test", "HTTPS"}
          ] do
        strategy = [query: @query, node_sname: "app", nameservers: [nameserver]]
        report = Doctor.report(only: [:dns], strategy: strategy)
        assert [{"failed", "dns.lookup", seen}] = findings(report)
        assert seen =~ ~r/failed at #{at}: .* after \d+ µs over #{transport}\z/
      end

      # A firewall that drops TCP.
      cut = {:fun, &if(&1.transport == :tcp, do: :silent, else: :truncated)}
      report = report(server([{@query, :srv, cut}]), lookup_timeout: 1_000)
      assert [{"failed", "dns.lookup", seen}] = findings(report)
      assert seen =~ ~r/no complete answer came over TCP \(:truncated\) after \d+ µs over TCP\z/
    end

    test "names no transport if no nameserver was asked" do
      strategy = [query: @query, node_sname: "app", dnssec: true, trust_anchors: "/none"]
      report = Doctor.report(only: [:dns], strategy: [nameservers: ["127.0.0.1:9"]] ++ strategy)
      assert [{"failed", "dns.lookup", seen}] = findings(report)
      assert seen =~ ~r/\(SRV\) failed: .* after \d+ µs\z/
    end

    test "is ok if the nameserver answers that there are no records, and names nameserver, time and transport" do
      server = server([{@query, :srv, :nxdomain}])

      assert check(report(server, []), "dns.lookup").seen =~
               ~r/\A#{DnsServer.address(server)} answered after \d+ µs over UDP\z/
    end

    defmodule Client do
      @behaviour Caravan.DnsClient
      @impl true
      def get_nodes(_query), do: []
    end

    test "is skipped for a topology with a :dns_client" do
      report = report(server([]), dns_client: Client)
      assert findings(report) == []
      assert check(report, "dns.lookup").status == "skipped"
    end
  end

  describe "dns.empty" do
    test "fails for a name that does not exist" do
      server = server([{@query, :srv, :nxdomain}])
      report = report(server, [])
      assert [{"failed", "dns.empty", seen}] = findings(report)
      assert seen =~ "the name does not exist (:nxdomain)"
      assert check(report, "dns.empty").fix =~ "publishNotReadyAddresses: true"

      # The fix: Kubernetes then has a record for each pod.
      DnsServer.put(server, @query, :srv, [{0, 0, 4001, "a.test"}])
      DnsServer.put(server, "a.test", :a, [{10, 0, 0, 1}])
      assert findings(report(server, [])) == []
    end

    test "fails if the records have another type or name, and the fix has that type or name" do
      ip = {10, 0, 0, 1}

      srv = [{@query, :srv, [{0, 0, 4001, "a.test"}]}, {"a.test", :a, [ip]}]

      for {wrong, answers, query, type} <- [
            {@query, [{@query, :srv, :empty}, {@query, :a, [ip]}], @query, :a},
            {@query, [{@query, :srv, :nxdomain}, {"test", :a, [ip]}], "test", :a},
            {"app._tcp.test", srv, @query, :srv},
            {"_app.tcp.test", srv, @query, :srv},
            {"app.tcp.test", srv, @query, :srv}
          ] do
        server =
          server(
            [{wrong, :srv, :nxdomain} | answers]
            |> Enum.uniq_by(&{elem(&1, 0), elem(&1, 1)})
          )

        report = report(server, query: wrong)
        assert [{"failed", "dns.empty", _seen}] = findings(report)
        fix = check(report, "dns.empty").fix

        assert fix ==
                 ~s(query: "#{query}", type: :#{type}\nThis name has 1 of these records.)

        # The fix.
        {options, _} = Code.eval_string("[" <> hd(String.split(fix, "\n")) <> "]")
        assert findings(report(server, options)) == []
        stop_supervised!(DnsServer)
      end
    end

    test "warns if another record type has records" do
      answers = [{@query, :a, [{10, 0, 0, 1}]}, {@query, :aaaa, :empty}]
      report = report(server(answers), type: [:a, :aaaa])
      assert [{"warning", "dns.empty", seen}] = findings(report)
      assert seen =~ "(:no_records), but another lookup names nodes"
    end

    test "fails if :allow accepts no address" do
      answers = [{@query, :a, [{10, 0, 0, 1}]}]
      report = report(server(answers), type: :a, allow: ["192.0.2.0/24"])
      assert [{"failed", "dns.empty", seen}] = findings(report)
      assert seen =~ ":not_allowed"
    end
  end

  describe "dns.names" do
    test "fails if no record makes a node, and warns if some do not" do
      bad = {0, 0, 4001, "bad host.test"}
      report = report(server([{@query, :srv, [bad]}]), [])
      assert [{"failed", "dns.names", seen}] = findings(report)

      assert seen =~
               ~r/\A1 records make no node: "app-4001@bad.+host.test" is not a valid node name\z/

      fix = "correct the records, or the options :node_name and :allow"
      assert check(report, "dns.names").fix == fix

      stop_supervised!(DnsServer)
      report = report(server([{@query, :srv, [bad, {0, 0, 4001, "a.test"}]}]), [])
      assert [{"warning", "dns.names", _seen}] = findings(report)
      assert check(report, "dns.names").fix == fix
    end

    test "warns if several records make one node name, or if there are more than :max_nodes nodes" do
      records = [{0, 0, 4001, "a.test"}, {0, 0, 4002, "a.test"}]
      server = server([{@query, :srv, records}])
      report = report(server, ports: :srv)
      assert [{"warning", "dns.names", seen}] = findings(report)
      assert seen == "2 records have the names of 1 nodes only"

      # The fix.
      "node_name: " <> template = check(report, "dns.names").fix
      {template, _} = Code.eval_string(template)
      assert findings(report(server, ports: :srv, node_name: template)) == []

      report = report(server, max_nodes: 1)
      assert [{"warning", "dns.names", "the records name 2 nodes"}] = findings(report)
      assert check(report, "dns.names").fix == "max_nodes: 2"
    end
  end

  describe "dns.nameserver" do
    test "warns if the first nameserver gives no answer" do
      server = server([{@query, :srv, [{0, 0, 4001, "a.test"}]}])
      [address, closed] = [DnsServer.address(server), "127.0.0.1:#{Host.free_port()}"]

      report = report(server, nameservers: [closed, address])
      assert [{"warning", "dns.nameserver", seen}] = findings(report)
      assert seen == "the first nameserver, #{closed}, gave no answer, and #{address} did"

      assert check(report, "dns.nameserver").fix ==
               "the nameserver that answers first in :nameservers, or repair #{closed}"

      for nameservers <- [[address, closed], [address], ["tcp://#{address}", closed]],
          do: assert(findings(report(server, nameservers: nameservers)) == [])
    end
  end

  describe "dns.drift" do
    test "warns if three lookups name different nodes, and says that it is harmless" do
      record = fn port -> {0, 0, port, "a.test"} end
      replies = [[record.(4001), record.(4002)], [record.(4003)], [record.(4001)]]
      server = server([{@query, :srv, {:sequence, replies}}, {"a.test", :a, [{10, 0, 0, 1}]}])

      report = report(server, [])
      assert [{"warning", "dns.drift", seen}] = findings(report)

      assert seen ==
               "3 lookups name different nodes. Not all of them name app-4001@a.test, app-4002@a.test, app-4003@a.test"

      assert check(report, "dns.drift").fix =~ "for 300000 ms (:keep)"
      # The server repeats its last reply, so the lookups are equal now.
      assert findings(report(server, [])) == []
    end

    test "warns with another fix if :prune disconnects nodes that an answer lacks" do
      replies = [[{0, 0, 4001, "a.test"}], [{0, 0, 4002, "a.test"}]]
      server = server([{@query, :srv, {:sequence, replies}}, {"a.test", :a, [{10, 0, 0, 1}]}])

      assert check(report(server, prune: [after: 3]), "dns.drift").fix =~
               "remove the option :prune"
    end

    test "is ok if the order of the records changes, or a further lookup fails" do
      records = for port <- 4001..4003, do: {0, 0, port, "a.test"}
      replies = [records, Enum.reverse(records), :servfail]
      server = server([{@query, :srv, {:sequence, replies}}, {"a.test", :a, [{10, 0, 0, 1}]}])
      report = report(server, lookup_attempts: 1)
      assert findings(report) == []
      assert check(report, "dns.drift").seen == "2 lookups name the same nodes"
    end
  end

  describe "dns.search" do
    @describetag Requirements.tag(:system_files)

    defp search(resolv_conf, query, before \\ "", id \\ "dns.search") do
      resolv_conf = before <> "nameserver 127.0.0.1\n" <> resolv_conf
      system = SystemFiles.start!(resolv_conf: resolv_conf, hosts: "")
      answers = for name <- ["app.test", "app.test.a.test"], do: {name, :a, [{10, 0, 0, 1}]}
      SystemFiles.nameserver!(system, :first, ip: {127, 0, 0, 1}, answers: answers)
      options = [only: [:dns], strategy: [query: query, type: :a]]
      report = PeerNode.call(system.node, Doctor, :report, [options])
      {findings(report), check(report, id)}
    end

    test "warns if the first nameserver of resolv.conf gives no answer, but not with rotate" do
      silent = "nameserver 127.0.0.9\n"

      assert {[{"warning", "dns.nameserver", seen}], _check} =
               search("options timeout:1\n", "app.test", silent)

      assert seen == "the first nameserver, 127.0.0.9, gave no answer, and 127.0.0.1:53 did"
      assert {[], _check} = search("options timeout:1 rotate\n", "app.test", silent)
      assert {[], _check} = search(silent, "app.test")
    end

    test "a name that a dot at its end keeps out of the search domains is found without the dot" do
      {findings, check} = search("search test\noptions timeout:1\n", "app.", "", "dns.empty")
      assert [{"failed", "dns.empty", _seen}] = findings
      assert check.fix == ~s(query: "app", type: :a\nThis name has 1 of these records.)
    end

    test "warns if a name without a dot at its end has fewer dots than ndots" do
      search = "search a.test b.test\noptions ndots:5 timeout:1\n"
      assert {[{"warning", "dns.search", seen}], check} = search(search, "app.test")

      assert seen ==
               "each lookup first tries the search domains of /etc/resolv.conf: a.test, b.test (ndots:5)"

      assert check.fix == ~s(query: "app.test.")

      # The fix, and configurations that do not multiply the lookups.
      assert {[], _check} = search(search, "app.test.")
      assert {[], _check} = search("search a.test\n", "app.test")
      assert {[], _check} = search("options ndots:5\n", "app.test")
    end
  end

  describe "dns.self" do
    # Starts a node whose topology has one SRV record. The record has this port, and this template makes a name from it.
    # Returns the findings and the check dns.self.
    defp own_name(name, port, node_name, options \\ []) do
      server =
        start_supervised!({DnsServer, answers: [{@query, :srv, [{0, 0, port, "host.test"}]}]},
          id: make_ref()
        )

      node = PeerNode.start!(options ++ [name: name])

      strategy = [
        query: @query,
        node_sname: "app",
        node_name: node_name,
        nameservers: [DnsServer.address(server)]
      ]

      report = PeerNode.call(node, Doctor, :report, [[only: [:dns, :peers], strategy: strategy]])
      PeerNode.stop!(node)
      {findings(report), check(report, "dns.self")}
    end

    test "is ok if DNS names this node" do
      name = PeerNode.name("app")

      assert {[], %{seen: "DNS names this node"}} =
               own_name(name, PeerNode.port(name), "{name}-{port}@127.0.0.1")
    end

    test "fails if DNS gives this node another basename, and is the only failure" do
      name = PeerNode.name("myapp")
      port = PeerNode.port(name)
      seen = "DNS calls this node app-#{port}@127.0.0.1 (another basename)"

      assert {[{"failed", "dns.self", ^seen}], check} =
               own_name(name, port, "{name}-{port}@127.0.0.1")

      assert check.expected == name

      assert check.fix ==
               ~s(Set RELEASE_NODE=app-#{port}@127.0.0.1, or node_sname: "myapp" on all nodes)

      # The fix.
      name = "app-#{port}@127.0.0.1"
      assert {[], _check} = own_name(name, port, "{name}-{port}@127.0.0.1")
    end

    test "warns if DNS has another port on this host, or no record for this node" do
      name = PeerNode.name("app")
      other = Host.free_port()
      assert {findings, _check} = own_name(name, other, "{name}-{port}@127.0.0.1")
      assert {"warning", "dns.self", seen} = List.keyfind(findings, "dns.self", 1)

      assert seen ==
               "DNS does not name this node. On this host it names app-#{other}@127.0.0.1 (another port)"

      assert {findings, _check} = own_name(PeerNode.name("app"), other, "{name}-{port}@192.0.2.7")

      assert {"warning", "dns.self", "DNS does not name this node, so" <> _} =
               List.keyfind(findings, "dns.self", 1)
    end

    test "is ok in eval without a record, which may appear later" do
      server = server([{@query, :srv, [{0, 0, 4001, "host.test"}]}])

      strategy = [
        query: @query,
        node_sname: "app",
        node_name: "{name}-{port}@192.0.2.7",
        nameservers: [DnsServer.address(server)]
      ]

      eval = PeerNode.start!(env: eval_env(PeerNode.name("app")))
      report = PeerNode.call(eval, Doctor, :report, [[only: [:dns], strategy: strategy]])
      assert findings(report) == []
      assert check(report, "dns.self").status == "ok"
    end
  end

  describe "with a real nameserver," do
    # Returns the findings and the report of a query.
    defp ask(nameserver, options) do
      default = [query: @query, node_sname: "app", nameservers: [nameserver]]
      report = Doctor.report(only: [:dns], strategy: Keyword.merge(default, options))
      {findings(report), report}
    end

    @tag Requirements.tag(:knotd)
    test "knot, a missing name and a zone that it does not serve are one failure each" do
      knot = start_supervised!({Knot, zone: "test", records: []})
      address = Knot.address(knot)
      assert {[{"failed", "dns.empty", seen}], report} = ask(address, [])
      assert seen =~ "(:nxdomain)"
      assert check(report, "dns.empty").fix =~ "publishNotReadyAddresses: true"

      assert {[{"failed", "dns.lookup", seen}], report} = ask(address, query: "app.example.com")
      assert seen =~ "(:refused)"
      assert check(report, "dns.lookup").fix =~ ~r/\S/

      # The fix.
      :ok = Knot.put_records(knot, ["_app._tcp 5 SRV 0 0 4001 a.test.", "a 5 A 10.0.0.1"])
      assert {[], _report} = ask(address, [])
    end

    @tag Requirements.tag(:unbound)
    test "unbound, a missing underscore is one failure, and the fix mends it" do
      records = ["_app._tcp.test. 5 IN SRV 0 0 4001 a.test.", "a.test. 5 IN A 10.0.0.1"]
      address = Unbound.address(start_supervised!({Unbound, records: records}))
      assert {[{"failed", "dns.empty", _seen}], report} = ask(address, query: "app._tcp.test")
      [line | _] = String.split(check(report, "dns.empty").fix, "\n")

      # The fix.
      {options, _} = Code.eval_string("[" <> line <> "]")
      assert {[], _report} = ask(address, options)
    end
  end

  test "names from DNS become no atoms" do
    records = for n <- 1..200, do: {0, 0, 4001, "host#{n}.test"}
    server = server([{@query, :srv, records}])
    report(server, [])

    for n <- [1, 100, 200] do
      name = "app-4001@host#{n}.test"
      assert_raise ArgumentError, fn -> String.to_existing_atom(name) end
    end
  end
end
