defmodule Caravan.DnsTest do
  # Not async: it counts the sockets of this VM.
  use ExUnit.Case

  alias Caravan.Dns
  alias Caravan.Dns.Answer
  alias Caravan.Dns.Error
  alias Caravan.Dns.Service
  alias Caravan.Test.DnsServer
  alias Caravan.Test.OsResources

  setup context do
    server = start_supervised!({DnsServer, Map.to_list(Map.take(context, [:ip]))})
    %{server: server, options: [nameservers: [DnsServer.address(server)]]}
  end

  defp service(port, target), do: %Service{priority: 0, weight: 0, port: port, target: target}

  describe "an answer" do
    test "of SRV records keeps their order, with the TTL and the nameserver",
         context do
      records = [{1, 2, 4001, "Node2.Test"}, {3, 4, 4002, "node1.test"}]
      DnsServer.put(context.server, "_app._tcp.test", :srv, {records, ttl: 17})
      assert {:ok, %Answer{} = answer} = Dns.lookup("_app._tcp.test", :srv, context.options)
      assert answer.time >= 0

      assert %{answer | time: 0} ==
               %Answer{
                 name: "_app._tcp.test",
                 type: :srv,
                 records: [
                   %Service{
                     priority: 1,
                     weight: 2,
                     port: 4001,
                     target: "node2.test",
                     addresses: []
                   },
                   %Service{
                     priority: 3,
                     weight: 4,
                     port: 4002,
                     target: "node1.test",
                     addresses: []
                   }
                 ],
                 ttl: 17,
                 nameserver: DnsServer.address(context.server),
                 transport: :udp,
                 time: 0,
                 dropped: 0,
                 secure: false
               }
    end

    test "of A and AAAA records has addresses in the form of :inet", context do
      DnsServer.put(context.server, "app.test", :a, [{127, 0, 0, 1}, {10, 1, 2, 3}])
      DnsServer.put(context.server, "app.test", :aaaa, [{0xFD00, 0, 0, 1, 2, 3, 4, 0xFFFF}])

      assert %{records: [{127, 0, 0, 1}, {10, 1, 2, 3}]} =
               Dns.lookup!("app.test", :a, context.options)

      assert %{records: [{0xFD00, 0, 0, 1, 2, 3, 4, 0xFFFF}]} =
               Dns.lookup!("app.test", :aaaa, context.options)
    end

    test "follows a CNAME record", context do
      DnsServer.put(context.server, "app.test", :a, {:cname, "real.test", [{127, 0, 0, 9}]})
      assert %{records: [{127, 0, 0, 9}]} = Dns.lookup!("app.test", :a, context.options)
    end

    test "that is too large for UDP comes complete over TCP", context do
      records = for n <- 1..1_000, do: {0, 0, n, "node#{n}.app.test"}
      DnsServer.put(context.server, "big.test", :srv, records)
      answer = Dns.lookup!("big.test", :srv, context.options)
      assert answer.records == for(n <- 1..1_000, do: service(n, "node#{n}.app.test"))

      assert [%{transport: :udp, edns: true}, %{transport: :tcp}] =
               DnsServer.queries(context.server)
    end

    test "of a record with the target . has no service (RFC 2782)", context do
      DnsServer.put(context.server, "none.test", :srv, [{0, 0, 0, "."}])
      assert reason("none.test", :srv, context.options) == :no_records
    end
  end

  describe "an error" do
    for {reply, reason} <- [
          nxdomain: :nxdomain,
          empty: :no_records,
          servfail: :servfail,
          refused: :refused,
          formerr: :formerr,
          notimp: :bad_response
        ] do
      test "for #{reply} is #{inspect(reason)}", context do
        DnsServer.put_default(context.server, unquote(reply))
        assert reason("app.test", :srv, context.options) == unquote(reason)
      end
    end

    test "for a missing response comes at the deadline", context do
      DnsServer.put_default(context.server, :silent)
      assert reason("app.test", :srv, Keyword.put(context.options, :timeout, 100)) == :timeout
    end

    test "for an invalid name comes before a query is sent", context do
      names = ["", ".", "a..b", "a\0b", "a@b", "ä", <<255>>, String.duplicate("a", 300)]

      for name <- names do
        assert {:bad_name, text} = reason(name, :srv, context.options)
        assert is_binary(text)
      end

      assert DnsServer.queries(context.server) == []
    end

    test "has a message with the reason" do
      error = %Error{name: "app.test", type: :srv, reason: :nxdomain}
      assert Exception.message(error) =~ ~s|"app.test" (SRV) failed: the name does not exist|
      error = %{error | nameserver: "10.0.0.1:53"}
      assert Exception.message(error) =~ ~s|(SRV) failed at 10.0.0.1:53: the name does not exist|
      assert_raise Error, fn -> Dns.lookup!("a@b", :srv) end
    end
  end

  describe "options" do
    test "that are invalid raise an error with the key, the expectation and the value" do
      for {options, message} <- [
            {[timeout: 0],
             ~r/expected :timeout to be an integer from 1 to 60_000 \(milliseconds\), got: 0/},
            {[timeout: "1"], ~r/expected :timeout .* got: "1"/},
            {[attempts: 11], ~r/expected :attempts .* got: 11/},
            {[nameservers: "127.0.0.1"], ~r/expected :nameservers .* got: "127.0.0.1"/},
            {[nameservers: ["ns.test"]], ~r/expected :nameservers .* got: \["ns.test"\]/},
            {[nameservers: ["127.0.0.1:0"]], ~r/expected :nameservers/},
            {[nameservers: List.duplicate("::1", 17)], ~r/up to 16/},
            {[nameservers: ["udp://127.0.0.1"]], ~r/expected :nameservers/},
            {[nameservers: ["tcp://127.0.0.1#dns.test"]], ~r/expected :nameservers/},
            {[nameservers: ["tls://dns.test"]], ~r/expected :nameservers/},
            {[nameservers: ["tls://127.0.0.1#dns test"]], ~r/expected :nameservers/},
            {[nameservers: ["https://127.0.0.1/a b"]], ~r/expected :nameservers/},
            {[addresses: 1], ~r/expected :addresses to be .* got: 1/},
            {[dnssec: "yes"], ~r/expected :dnssec to be .* got: "yes"/},
            {[randomize_case: nil], ~r/expected :randomize_case/},
            {[trust_anchors: "/etc/anchors"], ~r/expected :dnssec to be true if :trust_anchors/},
            {[nameservers: ["10.0.0.2" | "10.0.0.3"]], ~r/expected :nameservers/},
            {[allow: "10.0.0.0/8"], ~r/expected :allow/},
            {[allow: List.duplicate("10.0.0.0/8", 65)], ~r/expected :allow .* 64/},
            {[retries: 1], ~r/unknown option :retries .* expected one of: :nameservers/},
            {:none, ~r/expected options as a keyword list, got: :none/}
          ] do
        assert_raise ArgumentError, message, fn -> Dns.lookup("a.test", :a, options) end
      end
    end

    test "that need a cargo feature are refused by a library without it" do
      assert {:error, expected} = Dns.check_nameservers(["tls://127.0.0.1"], fn -> [:dnssec] end)

      assert expected =~
               "without tls:// and https://, because Caravan's library was built without :tls"

      assert {:ok, _servers} = Dns.check_nameservers(["tcp://127.0.0.1"], fn -> [] end)
      assert {:error, expected} = Dns.check_dnssec(true, fn -> [:tls] end)
      assert expected =~ "false, because Caravan's library was built without :dnssec"
      assert {:ok, false} = Dns.check_dnssec(false, fn -> [] end)
    end

    test "are checked, and so are the other arguments" do
      assert_raise ArgumentError, ~r/record type .* got: :mx/, fn -> Dns.lookup("a", :mx) end

      assert_raise ArgumentError, ~r/name to be a string, got: 'a'|got: ~c"a"/, fn ->
        Dns.lookup(~c"a", :a)
      end
    end
  end

  describe "lookup_async" do
    test "sends one message, with the reference that it returned", context do
      DnsServer.put(context.server, "app.test", :a, [{127, 0, 0, 1}])
      {:ok, ref} = Dns.lookup_async("app.test", :a, context.options)
      assert_receive {^ref, {:ok, %Answer{records: [{127, 0, 0, 1}]}}}, 5_000
      refute Dns.cancel(ref)
      refute_received {^ref, _}
    end

    test "cannot be cancelled by a reference that belongs to no lookup" do
      refute Dns.cancel(make_ref())
    end

    test "sends no message if it is cancelled in time", context do
      DnsServer.subscribe(context.server)
      DnsServer.put_default(context.server, {:fun, fn _query -> [{127, 0, 0, 1}] end})
      DnsServer.put(context.server, "slow.test", :a, :silent)
      {:ok, ref} = Dns.lookup_async("slow.test", :a, context.options)
      assert_receive {:dns_query, %{name: "slow.test"}}, 5_000
      assert Dns.cancel(ref)

      # Lookups send their messages in the order in which they end. A message of the first one would be here now.
      assert {:ok, _} = Dns.lookup("other.test", :a, context.options)
      refute_received {^ref, _}
    end

    test "ends when the calling process dies", context do
      DnsServer.subscribe(context.server)
      DnsServer.put_default(context.server, :silent)
      options = Keyword.put(context.options, :timeout, 60_000)
      OsResources.warm_up()
      before = OsResources.now()

      {pid, monitor} = spawn_monitor(fn -> Dns.lookup("app.test", :a, options) end)
      on_exit(fn -> Process.exit(pid, :kill) end)
      assert_receive {:dns_query, _}, 5_000
      assert %{lookups: 1} = held = OsResources.held()
      assert held.sockets > before.sockets
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, _, _, :killed}
      OsResources.await_no_more(Map.delete(before, :atoms))
    end
  end

  describe "lookup_changes" do
    defp changes(name, type, last, context) do
      assert {:ok, ref} = Dns.lookup_changes(name, type, context.options, last)
      assert_receive {^ref, result}, 5_000
      result
    end

    # Answers with more than 128 records are encoded on the thread of the library, others on the scheduler.
    for records <- [3, 200] do
      test "returns #{records} records only if they have changed", context do
        records = for n <- 1..unquote(records), do: {0, 0, n, "node#{n}.test"}
        DnsServer.put(context.server, "app.test", :srv, {records, ttl: 30})
        assert {:changed, answer, fingerprint} = changes("app.test", :srv, nil, context)
        assert %Answer{ttl: 30, type: :srv, records: [_ | _] = services} = answer
        assert length(services) == length(records)

        # Nameservers rotate records, and caches count TTLs down.
        DnsServer.put(context.server, "app.test", :srv, {Enum.reverse(records), ttl: 20})
        assert {:unchanged, answer} = changes("app.test", :srv, fingerprint, context)
        assert %Answer{ttl: 20, type: :srv, name: "app.test", records: []} = answer

        DnsServer.put(context.server, "app.test", :srv, tl(records))
        assert {:changed, answer, other} = changes("app.test", :srv, fingerprint, context)
        assert length(answer.records) == length(records) - 1
        assert other != fingerprint
      end
    end

    test "returns errors as lookup_async/3 does", context do
      DnsServer.put(context.server, "app.test", :a, :servfail)
      assert {:error, %Error{reason: :servfail}} = changes("app.test", :a, 0, context)
      assert {:error, %Error{reason: {:bad_name, _}}} = Dns.lookup_changes("a b", :a, [], nil)
    end
  end

  test "a thousand lookups at the same time are all answered", context do
    DnsServer.put(context.server, "app.test", :a, [{127, 0, 0, 1}])

    answers =
      1..1_000
      |> Enum.map(fn _ ->
        Dns.lookup_async("app.test", :a, [timeout: 30_000] ++ context.options)
      end)
      |> Enum.map(fn {:ok, ref} ->
        receive do
          {^ref, result} -> result
        after
          40_000 -> :lost
        end
      end)

    assert Enum.all?(answers, &match?({:ok, _}, &1))
  end

  test "an answer creates no atom", context do
    DnsServer.put(context.server, "app.test", :srv, [{0, 0, 1, "never-seen-before-as-atom.test"}])
    assert {:ok, _} = Dns.lookup("app.test", :srv, context.options)

    assert_raise ArgumentError, fn ->
      String.to_existing_atom("never-seen-before-as-" <> "atom.test")
    end
  end

  defp reason(name, type, options) do
    assert {:error, %Error{name: ^name, type: ^type, reason: reason}} =
             Dns.lookup(name, type, options)

    reason
  end
end
