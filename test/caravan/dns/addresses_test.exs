defmodule Caravan.Dns.AddressesTest do
  use ExUnit.Case, async: true

  # The options :addresses, :known_targets and :allow.

  alias Caravan.Dns
  alias Caravan.Dns.Error
  alias Caravan.Test.DnsServer
  alias Caravan.Test.DnsServer.Wire

  @ip {127, 0, 0, 1}
  @ip6 {0xFD00, 0, 0, 0, 0, 0, 0, 1}
  @name "_app._tcp.test"

  setup do
    server = start_supervised!(DnsServer)
    DnsServer.put(server, @name, :srv, [{0, 0, 4001, "Node1.Test"}, {0, 0, 4002, "node2.test"}])
    DnsServer.put_default(server, :empty)
    %{server: server, options: [nameservers: [DnsServer.address(server)]]}
  end

  defp addresses(options),
    do: for(service <- Dns.lookup!(@name, :srv, options).records, do: service.addresses)

  # The queries other than those for SRV records, sorted.
  defp queried(server) do
    Enum.sort(
      for %{type: type, name: name} <- DnsServer.queries(server), type != :srv, do: {name, type}
    )
  end

  # An answer with the given additional section.
  defp with_additional(records) do
    answers =
      for {port, node} <- [{4001, "node1"}, {4002, "node2"}],
          do: Wire.srv(:question, port, [node, "test"])

    {:raw, fn query, _ -> Wire.response(query, answers: answers, additional: records) end}
  end

  describe "addresses: true" do
    test "looks up both address families of each target", %{server: server, options: options} do
      DnsServer.put(server, "node1.test", :a, [@ip, {127, 0, 0, 9}])
      DnsServer.put(server, "node1.test", :aaaa, [@ip6])
      DnsServer.put(server, "node2.test", :a, {:cname, "other.test", [{127, 0, 0, 2}]})

      assert addresses([addresses: true] ++ options) == [
               [@ip, {127, 0, 0, 9}, @ip6],
               [{127, 0, 0, 2}]
             ]

      nodes = ["node1.test", "node2.test"]
      assert queried(server) == for(node <- nodes, type <- [:a, :aaaa], do: {node, type})
    end

    test "looks up all targets at the same time", %{server: server, options: options} do
      # The server must receive all queries before it sends the first address, five seconds after the first query.
      test = self()
      DnsServer.subscribe(server)
      targets = for n <- 1..20, do: {0, 0, n, "node#{n}.test"}
      DnsServer.put(server, @name, :srv, targets)

      answer = fn _query ->
        send(test, :answered)
        [@ip]
      end

      DnsServer.put_default(server, {:delay, 5_000, {:fun, answer}})
      options = [addresses: true, timeout: 60_000] ++ options
      spawn_link(fn -> send(test, {:found, addresses(options)}) end)
      for _ <- 1..41, do: assert_receive({:dns_query, _}, 10_000)
      refute_received :answered
      assert_receive {:found, found}, 20_000
      assert length(found) == 20
      assert Enum.all?(found, &(@ip in &1))
    end

    test "looks up a target of several records once", %{server: server, options: options} do
      DnsServer.put(server, @name, :srv, for(n <- 1..50, do: {0, 0, n, "node1.test"}))
      DnsServer.put(server, "node1.test", :a, [@ip])
      assert addresses([addresses: true] ++ options) == List.duplicate([@ip], 50)
      assert queried(server) == [{"node1.test", :a}, {"node1.test", :aaaa}]
    end

    test "uses the addresses in the additional section", %{server: server, options: options} do
      additional = [
        Wire.a(["NODE1", "test"], @ip),
        Wire.record(["node1", "test"], :aaaa, <<0xFD00::16, 0::96, 1::16>>),
        Wire.a(["node2", "test"], {127, 0, 0, 2})
      ]

      DnsServer.put(server, @name, :srv, with_additional(additional))
      assert addresses([addresses: true] ++ options) == [[@ip, @ip6], [{127, 0, 0, 2}]]
      # Only the family that the section lacks is looked up.
      assert queried(server) == [{"node2.test", :aaaa}]
    end

    test "looks up the targets that the additional section lacks, and ignores other names in it",
         context do
      additional = [Wire.a(["node1", "test"], @ip), Wire.a(["evil", "test"], {6, 6, 6, 6})]
      DnsServer.put(context.server, @name, :srv, with_additional(additional))
      DnsServer.put(context.server, "node2.test", :a, [{127, 0, 0, 2}])
      found = addresses([addresses: true] ++ context.options)
      assert found == [[@ip], [{127, 0, 0, 2}]]
      assert {"node2.test", :a} in queried(context.server)
      refute {"node1.test", :a} in queried(context.server)
    end

    test "returns at most 16 addresses of a target, each once", context do
      additional = for n <- 1..600, do: Wire.a(["node1", "test"], {10, 0, 0, rem(n, 20)})
      answers = for n <- 1..1_000, do: Wire.srv(:question, n, ["node1", "test"])

      many =
        {:raw, fn query, _ -> Wire.response(query, answers: answers, additional: additional) end}

      DnsServer.put(context.server, @name, :srv, many)
      options = [nameservers: ["tcp://" <> DnsServer.address(context.server)], addresses: true]
      first = for n <- 1..16, do: {10, 0, 0, n}
      assert addresses(options) == List.duplicate(first, 1_000)

      DnsServer.put(context.server, @name, :srv, [{0, 0, 1, "node2.test"}])

      DnsServer.put(
        context.server,
        "node2.test",
        :a,
        for(n <- 0..3_000, do: {10, 1, div(n, 250), rem(n, 250)})
      )

      assert [of_node2] = addresses(options)
      assert length(of_node2) == 16
    end

    test "returns no addresses for a target that has none", %{server: server, options: options} do
      DnsServer.put(server, "node1.test", :a, [@ip])
      DnsServer.put(server, "node2.test", :a, :nxdomain)
      DnsServer.put(server, "node2.test", :aaaa, :nxdomain)
      assert addresses([addresses: true] ++ options) == [[@ip], []]
    end

    test "includes the TTL of the addresses", %{server: server, options: options} do
      DnsServer.put(server, @name, :srv, {[{0, 0, 1, "node1.test"}], ttl: 300})
      DnsServer.put(server, "node1.test", :a, {[@ip], ttl: 7})
      assert %{ttl: 300} = Dns.lookup!(@name, :srv, options)
      assert %{ttl: 7} = Dns.lookup!(@name, :srv, [addresses: true] ++ options)
    end

    test "returns no addresses for a target whose lookup does not end in time", context do
      DnsServer.put_default(context.server, :silent)
      # The answer with the SRV records has to come within this time.
      options = [addresses: true, timeout: 3_000] ++ context.options
      refs = for _ <- 1..5, do: Dns.lookup_async(@name, :srv, options)

      for {:ok, ref} <- refs,
          do: assert_receive({^ref, {:ok, %{records: [%{addresses: []}, %{addresses: []}]}}})
    end
  end

  test "with :addresses of one family, only addresses of this family are looked up and returned",
       context do
    DnsServer.put(context.server, "node2.test", :aaaa, [@ip6])
    additional = [Wire.a(["node1", "test"], @ip), Wire.a(["node2", "test"], @ip)]
    DnsServer.put(context.server, @name, :srv, with_additional(additional))
    assert addresses([addresses: :inet] ++ context.options) == [[@ip], [@ip]]
    assert queried(context.server) == []

    options = [addresses: :inet6, allow: ["fd00::/8"]] ++ context.options
    answer = Dns.lookup!(@name, :srv, options)
    assert for(service <- answer.records, do: service.addresses) == [[], [@ip6]]
    assert answer.dropped == 0
    assert queried(context.server) == [{"node1.test", :aaaa}, {"node2.test", :aaaa}]
  end

  test "each record has the TTL of its addresses", %{server: server, options: options} do
    DnsServer.put(server, @name, :srv, {
      [{0, 0, 1, "node1.test"}, {0, 0, 2, "node2.test"}, {0, 0, 3, "none.test"}],
      ttl: 300
    })

    DnsServer.put(server, "node1.test", :a, {[@ip], ttl: 7})
    DnsServer.put(server, "node2.test", :a, {[@ip], ttl: 600})
    answer = Dns.lookup!(@name, :srv, [addresses: :inet] ++ options)
    assert for(service <- answer.records, do: service.addresses_ttl) == [7, 600, nil]
  end

  describe "known_targets:" do
    test "are not looked up", %{server: server, options: options} do
      DnsServer.put(server, "node2.test", :a, [@ip])
      options = [addresses: :inet, known_targets: ["node1.test", "other.test"]] ++ options
      assert addresses(options) == [[], [@ip]]
      assert queried(server) == [{"node2.test", :a}]
    end

    test "have the addresses that are in the answer", %{server: server, options: options} do
      additional = [Wire.a(["node1", "test"], @ip)]
      DnsServer.put(server, @name, :srv, with_additional(additional))
      known = ["node1.test", "node2.test"]
      assert addresses([addresses: :inet, known_targets: known] ++ options) == [[@ip], []]
      assert queried(server) == []
    end

    test "count as targets with an address that :allow accepts", context do
      DnsServer.put(context.server, "node1.test", :a, [{11, 0, 0, 1}])
      options = [addresses: :inet, allow: ["10.0.0.0/8"], known_targets: ["node2.test"]]
      assert %{dropped: 1} = Dns.lookup!(@name, :srv, options ++ context.options)
    end

    test "are a list of at most 16,384 strings", %{options: options} do
      for bad <- [["a" | "b"], [:a], "a", [<<255>>], List.duplicate("a", 16_385)] do
        assert_raise ArgumentError,
                     ~r/:known_targets to be a list of up to 16384 host names/,
                     fn ->
                       Dns.lookup(@name, :srv, [known_targets: bad] ++ options)
                     end
      end
    end
  end

  test "without :addresses, targets are not looked up", %{server: server, options: options} do
    assert addresses(options) == [[], []]
    assert queried(server) == []
  end

  describe "allow:" do
    test "drops other addresses and counts them", %{server: server, options: options} do
      inside = [{10, 0, 0, 1}, {10, 255, 255, 255}]
      outside = [{11, 0, 0, 0}, {9, 255, 255, 255}, {127, 0, 0, 1}]
      DnsServer.put(server, "app.test", :a, inside ++ outside)
      options = [allow: ["10.0.0.0/8"]] ++ options
      assert %{records: ^inside, dropped: 3} = Dns.lookup!("app.test", :a, options)
    end

    test "accepts networks of both address families", %{server: server, options: options} do
      outside = {0xFE00, 0, 0, 0, 0, 0, 0, 1}
      DnsServer.put(server, "app.test", :aaaa, [@ip6, outside])
      DnsServer.put(server, "app.test", :a, [{192, 0, 2, 7}, {192, 0, 2, 8}])
      options = [allow: ["10.0.0.0/8", "fd00::/8", "192.0.2.7/32", "2001:db8::1/128"]] ++ options
      assert %{records: [@ip6], dropped: 1} = Dns.lookup!("app.test", :aaaa, options)
      assert %{records: [{192, 0, 2, 7}], dropped: 1} = Dns.lookup!("app.test", :a, options)
    end

    test "that drops all addresses is the error :not_allowed", %{server: server, options: options} do
      DnsServer.put(server, "app.test", :a, [{192, 0, 2, 7}])
      options = [allow: ["10.0.0.0/8"]] ++ options
      assert {:error, %Error{reason: :not_allowed}} = Dns.lookup("app.test", :a, options)
    end

    test "applies to the addresses of targets", %{server: server, options: options} do
      DnsServer.put(server, "node1.test", :a, [{10, 0, 0, 1}, {11, 0, 0, 1}])
      DnsServer.put(server, "node2.test", :aaaa, [@ip6])
      options = [addresses: true, allow: ["10.0.0.0/8"]] ++ options
      assert %{records: [one, two], dropped: 2} = Dns.lookup!(@name, :srv, options)
      assert {one.addresses, two.addresses} == {[{10, 0, 0, 1}], []}
    end

    test "counts the dropped addresses of a target once for all its services", context do
      DnsServer.put(context.server, @name, :srv, for(n <- 1..3, do: {0, 0, n, "node1.test"}))
      DnsServer.put(context.server, "node1.test", :a, [{10, 0, 0, 1}, {11, 0, 0, 1}])
      options = [addresses: true, allow: ["10.0.0.0/8"]] ++ context.options
      assert %{records: [_, _, _], dropped: 1} = Dns.lookup!(@name, :srv, options)
    end

    test "that drops the addresses of all targets is the error :not_allowed", context do
      DnsServer.put(context.server, "node1.test", :a, [{11, 0, 0, 1}])
      options = [addresses: true, allow: ["10.0.0.0/8"]] ++ context.options
      assert {:error, %Error{reason: :not_allowed}} = Dns.lookup(@name, :srv, options)
      # Targets without any address are not an error.
      DnsServer.put(context.server, "node1.test", :a, :empty)
      assert %{dropped: 0} = Dns.lookup!(@name, :srv, options)
    end

    test "accepts addresses after any number of other ones", context do
      outside = for n <- 1..100, do: {11, 0, 0, n}
      DnsServer.put(context.server, "node1.test", :a, outside ++ [{10, 0, 0, 1}])
      options = [addresses: true, allow: ["10.0.0.0/8"]] ++ context.options
      assert %{records: [one, _two], dropped: 100} = Dns.lookup!(@name, :srv, options)
      assert one.addresses == [{10, 0, 0, 1}]
    end

    test "looks up a target if it drops the target's addresses in the additional section",
         context do
      additional = [Wire.a(["node1", "test"], {11, 0, 0, 1}), Wire.a(["node2", "test"], @ip)]
      DnsServer.put(context.server, @name, :srv, with_additional(additional))
      DnsServer.put(context.server, "node1.test", :a, [{10, 0, 0, 1}])
      DnsServer.put(context.server, "node2.test", :a, [{10, 0, 0, 2}])
      options = [addresses: true, allow: ["10.0.0.0/8"]] ++ context.options
      assert addresses(options) == [[{10, 0, 0, 1}], [{10, 0, 0, 2}]]
    end

    test "counts an address once if it drops it in the section and in the lookup", context do
      additional = [Wire.a(["node1", "test"], {11, 0, 0, 1}), Wire.a(["node2", "test"], @ip)]
      DnsServer.put(context.server, @name, :srv, with_additional(additional))
      DnsServer.put(context.server, "node1.test", :a, [{11, 0, 0, 1}])
      DnsServer.put(context.server, "node2.test", :a, [{10, 0, 0, 2}])
      options = [addresses: :inet, allow: ["10.0.0.0/8"]] ++ context.options
      assert %{dropped: 2} = Dns.lookup!(@name, :srv, options)
      assert addresses(options) == [[], [{10, 0, 0, 2}]]
    end

    test "is refused for SRV records without :addresses", %{options: options} do
      assert_raise ArgumentError,
                   ~r/expected :addresses to be true, :inet or :inet6 if :allow/,
                   fn ->
                     Dns.lookup(@name, :srv, [allow: ["10.0.0.0/8"]] ++ options)
                   end
    end

    test "drops an IPv4-mapped IPv6 address outside its networks", %{
      server: server,
      options: options
    } do
      mapped = {0, 0, 0, 0, 0, 0xFFFF, 0x0A00, 0x0001}
      DnsServer.put(server, "app.test", :aaaa, [mapped, @ip6])
      options = [allow: ["fd00::/8"]] ++ options
      assert %{records: [@ip6], dropped: 1} = Dns.lookup!("app.test", :aaaa, options)
    end

    test "that is invalid raises an error that says what is expected", %{options: options} do
      for bad <- [
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0/8",
            "x/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
            8
          ],
          bad <- [[bad], ["10.0.0.0/8" | bad]] do
        assert_raise ArgumentError, ~r/expected :allow to be .* got: /, fn ->
          Dns.lookup("app.test", :a, [allow: bad] ++ options)
        end
      end
    end
  end
end
