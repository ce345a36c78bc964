defmodule Caravan.Dns.DnssecTest do
  use ExUnit.Case, async: true

  # dnssec: true against a zone that knotd signs, and against the same zone with something broken.

  alias Caravan.Dns
  alias Caravan.Dns.Error
  alias Caravan.Test.DnsServer
  alias Caravan.Test.DnsServer.Wire
  alias Caravan.Test.Knot
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag([:knotd, :kdig])

  @records [
    "_app._tcp 60 SRV 0 0 4001 node1",
    "node1 60 A 127.0.0.1",
    "node2 60 A 127.0.0.2",
    "alias 60 CNAME node1",
    "*.pool 60 A 127.0.0.99",
    "one.pool 60 A 127.0.0.10"
  ]

  # A zone that the signed root delegates without a DS record is provably not signed.
  @plain ["@ 5 SOA a. b. 1 1 1 1 1", "@ 5 NS ns", "ns 5 A 127.0.0.1", "app 5 A 127.0.0.9"]
  @delegations [
    "sec.test. NS ns.sec.test.",
    "ns.sec.test. A 127.0.0.1",
    "plain.test. NS ns.plain.test.",
    "ns.plain.test. A 127.0.0.1"
  ]

  setup_all do
    dir = Path.join(System.tmp_dir!(), "dnssec-" <> Base.encode16(:rand.bytes(6), case: :lower))
    File.mkdir!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)

    zone = start_supervised!({Knot, zone: "sec.test", records: @records, signed: true}, id: :zone)
    # A zone says in its CDS record (RFC 7344) which DS record its parent is to have.
    ds = for line <- Knot.dump(zone, "CDS"), do: String.replace(line, ~r/\tCDS\t/, "\tDS\t")

    root =
      start_supervised!({Knot, zone: ".", records: @delegations ++ ds, signed: true}, id: :root)

    anchors =
      file(dir, "anchors", for(key <- Knot.dump(root, "DNSKEY"), key =~ "DNSKEY\t257", do: key))

    context = %{
      dir: dir,
      zone: transferred(zone),
      zone_keys: file(dir, "zone_keys", Knot.dump(zone, "DNSKEY")),
      root: transferred(root),
      options: [dnssec: true, trust_anchors: anchors]
    }

    Map.put(context, :options, serving(context, context.zone))
  end

  defp file(dir, name, lines) do
    path = Path.join(dir, name)
    File.write!(path, Enum.map(lines, &[&1, ?\n]))
    path
  end

  # It ends with the SOA record that it began with.
  defp transferred(knot), do: knot |> Knot.dump("AXFR") |> Enum.drop(-1)

  # Options for a nameserver that has the root, the unsigned zone and, as given, the signed one.
  defp serving(context, zone) do
    more = [{".", context.root}, {"sec.test", zone}, {"plain.test", @plain}]
    knot = start_supervised!({Knot, zone: "beside.test", more: more}, id: make_ref())
    [nameservers: [Knot.address(knot)]] ++ context.options
  end

  # The signed zone as `change` leaves it.
  defp broken(context, change) do
    options = Keyword.delete(context.options, :nameservers)
    zone = Enum.flat_map(context.zone, &List.wrap(change.(&1)))
    serving(%{context | options: options}, zone)
  end

  test "a signed zone is proved, CNAMEs too", %{options: options} do
    assert %{records: [%{target: "node1.sec.test"}], secure: true} =
             Dns.lookup!("_app._tcp.sec.test", :srv, options)

    assert %{records: [{127, 0, 0, 1}], secure: true} = Dns.lookup!("node1.sec.test", :a, options)
    assert %{records: [{127, 0, 0, 1}], secure: true} = Dns.lookup!("alias.sec.test", :a, options)
  end

  test "addresses of targets are proved too", %{options: options} do
    options = [addresses: true] ++ options

    assert %{records: [%{addresses: [{127, 0, 0, 1}]}], secure: true} =
             Dns.lookup!("_app._tcp.sec.test", :srv, options)
  end

  test "so is that there is nothing", %{options: options} do
    assert {:error, %Error{reason: :nxdomain}} = Dns.lookup("none.sec.test", :a, options)
    assert {:error, %Error{reason: :no_records}} = Dns.lookup("node1.sec.test", :srv, options)
  end

  test "a zone that provably is not signed has an answer that is not secure", %{options: options} do
    assert %{records: [{127, 0, 0, 9}], secure: false} =
             Dns.lookup!("app.plain.test", :a, options)
  end

  test "such a zone has no proof to give of what it does not have", %{options: options} do
    assert {:error, %Error{reason: :nxdomain}} = Dns.lookup("none.plain.test", :a, options)
    assert {:error, %Error{reason: :no_records}} = Dns.lookup("app.plain.test", :srv, options)
  end

  test "without the option nothing is proved", %{options: options} do
    options = Keyword.drop(options, [:dnssec, :trust_anchors])

    assert %{records: [{127, 0, 0, 1}], secure: false} =
             Dns.lookup!("node1.sec.test", :a, options)
  end

  describe "bogus is" do
    test "a record that was changed after it was signed", context do
      options = broken(context, &String.replace(&1, ~r/\bA\t127\.0\.0\.1$/, "A\t127.0.0.66"))
      assert reason("node1.sec.test", :a, options) == :bogus
      assert %{secure: true} = Dns.lookup!("node2.sec.test", :a, options)
      # Without dnssec, it is taken as it is.
      assert %{records: [{127, 0, 0, 66}]} =
               Dns.lookup!("node1.sec.test", :a, Keyword.drop(options, [:dnssec, :trust_anchors]))
    end

    test "a signature that was changed", context do
      options =
        broken(context, fn line ->
          if rrsig?(line, "node1.sec.test.", "A"), do: damaged(line), else: line
        end)

      assert reason("node1.sec.test", :a, options) == :bogus
    end

    test "a record whose signature is missing", context do
      options =
        broken(context, fn line ->
          if rrsig?(line, "_app._tcp.sec.test.", "SRV"), do: [], else: line
        end)

      assert reason("_app._tcp.sec.test", :srv, options) == :bogus
    end

    test "a zone without any signature or key", context do
      options =
        broken(context, fn line ->
          if line =~ ~r/\t(RRSIG|NSEC|DNSKEY|CDS|CDNSKEY)\t/, do: [], else: line
        end)

      assert reason("node1.sec.test", :a, options) == :bogus
    end

    test "an address of a target that was changed", context do
      options = broken(context, &String.replace(&1, ~r/\bA\t127\.0\.0\.1$/, "A\t127.0.0.66"))
      assert %{secure: true} = Dns.lookup!("_app._tcp.sec.test", :srv, options)
      assert reason("_app._tcp.sec.test", :srv, [addresses: true] ++ options) == :bogus
    end

    # hickory looks for no proof where all of the authority section is provably unsigned.
    for {what, authority} <- [{"nothing", []}, {"an unsigned zone", ["plain", "test"]}] do
      test "a name that is said not to exist, by #{what} in the authority section", context do
        authority = authority(unquote(authority))

        for {flags, name} <- [{0x8183, "node1.sec.test"}, {0x8180, "node2.sec.test"}] do
          forged = &Wire.response(&1, flags: flags, authority: authority)
          assert reason(name, :a, forging(context, name, forged)) == :bogus
        end
      end

      test "a wildcard's record in place of a name's own, beside #{what}", context do
        authority = authority(unquote(authority))

        forged = fn query ->
          # Of another name of as many octets.
          response = forward(context, String.replace(query, <<3, "one">>, <<3, "two">>))
          <<_::48, count::16, _::32, sections::binary>> = response
          question = byte_size(Wire.question(query))
          rest = binary_part(sections, question, byte_size(sections) - question)

          Wire.response(query,
            answers: [records(rest, count)],
            counts: [1, count, length(authority), 0],
            authority: authority
          )
        end

        assert reason("one.pool.sec.test", :a, forging(context, "one.pool.sec.test", forged)) ==
                 :bogus
      end
    end

    test "a zone signed by somebody else", context do
      other =
        start_supervised!({Knot, zone: "sec.test", records: @records, signed: true}, id: :other)

      options = Keyword.delete(context.options, :nameservers)
      options = serving(%{context | options: options}, transferred(other))
      assert reason("node1.sec.test", :a, options) == :bogus
    end
  end

  describe "trust_anchors" do
    test "nil are the root's own, under which nothing of this is proved", %{options: options} do
      assert reason("node1.sec.test", :a, Keyword.delete(options, :trust_anchors)) == :bogus
    end

    test "can be the keys of a zone that the root does not lead to", context do
      options = Keyword.delete(context.options, :nameservers)

      knot =
        start_supervised!({Knot, zone: "beside.test", more: [{"sec.test", context.zone}]},
          id: :island
        )

      options =
        [nameservers: [Knot.address(knot)]] ++
          Keyword.put(options, :trust_anchors, context.zone_keys)

      assert %{secure: true} = Dns.lookup!("_app._tcp.sec.test", :srv, options)
    end

    test "that cannot be read or hold no key are a bad file", context do
      nonsense = file(context.dir, "nonsense", ["nonsense"])
      empty = file(context.dir, "empty", [])

      for bad <- [Path.join(context.dir, "missing"), context.dir, nonsense, empty] do
        options = Keyword.put(context.options, :trust_anchors, bad)
        assert reason("node1.sec.test", :a, options) == :bad_file
      end
    end

    test "that were changed count from the next lookup on", context do
      path = Path.join(context.dir, "changing")
      options = Keyword.put(context.options, :trust_anchors, path)
      File.cp!(context.zone_keys, path)
      assert reason("app.plain.test", :a, options) == :bogus
      File.cp!(context.options[:trust_anchors], path)
      assert %{secure: false} = Dns.lookup!("app.plain.test", :a, options)
    end

    test "that are no path say what was expected", %{options: options} do
      assert_raise ArgumentError, ~r/expected :trust_anchors to be .* got: 1/, fn ->
        Dns.lookup("app.test", :a, Keyword.put(options, :trust_anchors, 1))
      end
    end
  end

  # Options for a nameserver that says the same as the one of all tests, but for the address of `name`.
  defp forging(context, name, forged) do
    server = start_supervised!({DnsServer, []}, id: make_ref())

    DnsServer.put_default(server, {:raw, fn query, _ -> forward(context, query) end})
    DnsServer.put(server, name, :a, {:raw, fn query, _ -> forged.(query) end})
    Keyword.put(context.options, :nameservers, [DnsServer.address(server)])
  end

  defp forward(%{options: options}, query) do
    [ip, port] = options[:nameservers] |> hd() |> String.split(":")
    address = [String.to_charlist(ip), String.to_integer(port)]
    {:ok, socket} = apply(:gen_tcp, :connect, address ++ [[:binary, packet: 2, active: false]])
    :ok = :gen_tcp.send(socket, query)
    {:ok, response} = :gen_tcp.recv(socket, 0, 5_000)
    :gen_tcp.close(socket)
    response
  end

  defp authority([]), do: []
  defp authority(zone), do: [Wire.record(zone, :ns, Wire.name(["ns" | zone]))]

  # The bytes of so many records, whose owner is the name in the question.
  defp records(_bytes, 0), do: ""

  defp records(<<0xC00C::16, _::64, size::16, data::binary-size(size), rest::binary>> = bytes, n),
    do: binary_part(bytes, 0, 12) <> data <> records(rest, n - 1)

  defp reason(name, type, options) do
    assert {:error, %Error{reason: reason}} = Dns.lookup(name, type, options)
    reason
  end

  defp rrsig?(line, owner, type), do: line =~ ~r/^#{Regex.escape(owner)}\s.*\sRRSIG\s#{type}\s/

  # Another first character of the signature in base 64, which comes last.
  defp damaged(line) do
    [signature | rest] = line |> String.split(" ") |> Enum.reverse()
    <<first, others::binary>> = signature
    [<<if(first == ?A, do: ?B, else: ?A)>> <> others | rest] |> Enum.reverse() |> Enum.join(" ")
  end
end
