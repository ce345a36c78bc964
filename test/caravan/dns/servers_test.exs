defmodule Caravan.Dns.ServersTest do
  use ExUnit.Case, async: true

  # Lookups with real nameservers: knotd, which has the zone, and unbound, which forwards to knotd.

  alias Caravan.Dns
  alias Caravan.Dns.Error
  alias Caravan.Dns.Service
  alias Caravan.Test.Knot
  alias Caravan.Test.Requirements
  alias Caravan.Test.Unbound

  @moduletag Requirements.tag([:knotd, :unbound])

  @zone "knot.test"

  setup_all do
    many = for n <- 1..1_000, do: "many 60 SRV 0 0 #{n} node#{n}"

    records = [
      "_app._tcp 60 SRV 10 20 4001 Node1",
      "_app._tcp 60 SRV 20 10 4002 node2",
      "node1 60 A 127.0.0.1",
      "node1 30 A 127.0.0.2",
      "node1 60 AAAA ::1",
      "node2 60 A 127.0.0.3",
      "none 60 SRV 0 0 0 .",
      "alias 60 CNAME alias2",
      "alias2 9 CNAME node1",
      "dangling 60 CNAME nowhere",
      "circle 60 CNAME circle2",
      "circle2 60 CNAME circle",
      ~S(strange 60 SRV 0 0 4001 a\.b\000\195\\.test.)
    ]

    knot = start_supervised!({Knot, zone: @zone, records: records ++ many})
    unbound = start_supervised!({Unbound, forward: {@zone, Knot.address(knot)}})
    %{servers: %{knot: Knot.address(knot), unbound: Unbound.address(unbound)}}
  end

  for server <- [:knot, :unbound], scheme <- ["", "tcp://"] do
    describe "#{scheme}#{server}" do
      @describetag server: server, scheme: scheme

      setup %{servers: servers, server: server, scheme: scheme} do
        %{options: [nameservers: [scheme <> servers[server]]], scheme: scheme}
      end

      test "SRV records are returned", %{options: options} do
        answer = Dns.lookup!("_app._tcp.knot.test", :srv, options)

        assert Enum.sort_by(answer.records, & &1.port) == [
                 %Service{
                   priority: 10,
                   weight: 20,
                   port: 4001,
                   target: "node1.knot.test",
                   addresses: []
                 },
                 %Service{
                   priority: 20,
                   weight: 10,
                   port: 4002,
                   target: "node2.knot.test",
                   addresses: []
                 }
               ]

        # In the last second of the TTL, unbound returns 0.
        assert answer.ttl in 0..60
      end

      test "SRV records with addresses are returned", %{options: options} do
        answer = Dns.lookup!("_app._tcp.knot.test", :srv, [addresses: true] ++ options)
        [one, two] = Enum.sort_by(answer.records, & &1.port)

        assert Enum.sort(one.addresses) == [
                 {127, 0, 0, 1},
                 {127, 0, 0, 2},
                 {0, 0, 0, 0, 0, 0, 0, 1}
               ]

        assert two.addresses == [{127, 0, 0, 3}]
      end

      test "A and AAAA records are returned, also through CNAMEs", %{options: options} do
        for name <- ["node1.knot.test", "alias.knot.test"] do
          assert Enum.sort(Dns.lookup!(name, :a, options).records) == [
                   {127, 0, 0, 1},
                   {127, 0, 0, 2}
                 ]

          assert Dns.lookup!(name, :aaaa, options).records == [{0, 0, 0, 0, 0, 0, 0, 1}]
        end

        assert Dns.lookup!("alias.knot.test", :a, options).ttl in 0..9
      end

      test "1,000 records are all returned", %{options: options, scheme: scheme} do
        answer = Dns.lookup!("many.knot.test", :srv, options)
        assert answer.transport == :tcp or scheme == ""

        assert Enum.sort(for service <- answer.records, do: service.port) ==
                 Enum.to_list(1..1_000)
      end

      test "a name in random case is answered", %{options: options} do
        options = [randomize_case: true] ++ options

        for _ <- 1..8,
            do: assert(length(Dns.lookup!("_app._tcp.knot.test", :srv, options).records) == 2)
      end

      test "a missing name or record is an error", %{options: options} do
        for {name, type, reason} <- [
              {"nowhere.knot.test", :srv, :nxdomain},
              {"dangling.knot.test", :a, :nxdomain},
              {"node2.knot.test", :aaaa, :no_records},
              {"none.knot.test", :srv, :no_records}
            ] do
          assert {:error, %Error{reason: ^reason}} = Dns.lookup(name, type, options)
        end
      end

      test "a circle of CNAMEs is an error", %{options: options, server: server} do
        # knotd returns the circle itself. unbound may return SERVFAIL in its place.
        expected = %{knot: :bad_response, unbound: :servfail}[server]
        assert {:error, %Error{reason: reason}} = Dns.lookup("circle.knot.test", :a, options)
        assert reason in [expected, :bad_response]
      end

      test "octets of a target that are not valid in a host name are escaped", %{options: options} do
        assert %{records: [%{target: target}]} = Dns.lookup!("strange.knot.test", :srv, options)
        assert target == ~S(a\.b\000\195\\.test)
      end

      test "names in any case, absolute or not, are answered", %{options: options} do
        for name <- ["NODE2.Knot.TEST", "node2.knot.test."] do
          assert %{name: ^name, records: [{127, 0, 0, 3}]} = Dns.lookup!(name, :a, options)
        end
      end
    end
  end

  test "knotd refuses names outside its zone", %{servers: %{knot: knot}} do
    assert {:error, %Error{reason: :refused}} =
             Dns.lookup("app.elsewhere", :a, nameservers: [knot])
  end
end
