defmodule Caravan.Dns.DnssecTest do
  use ExUnit.Case, async: true

  # The option :dnssec, with a zone that knotd signs, and with damaged copies of that zone.

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

  # A zone is provably unsigned if the signed root delegates it without a DS record.
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
    # The CDS record of a zone (RFC 7344) is the DS record that its parent needs.
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

  # A transfer begins and ends with the same SOA record.
  defp transferred(knot), do: knot |> Knot.dump("AXFR") |> Enum.drop(-1)

  # Returns options for a nameserver with the root, the unsigned zone, and the given copy of the signed zone.
  defp serving(context, zone) do
    more = [{".", context.root}, {"sec.test", zone}, {"plain.test", @plain}]
    knot = start_supervised!({Knot, zone: "beside.test", more: more}, id: make_ref())
    [nameservers: [Knot.address(knot)]] ++ context.options
  end

  # Returns options for a nameserver whose copy of the signed zone is changed by `change`.
  defp broken(context, change) do
    options = Keyword.delete(context.options, :nameservers)
    zone = Enum.flat_map(context.zone, &List.wrap(change.(&1)))
    serving(%{context | options: options}, zone)
  end

  test "answers from a signed zone are secure, also through a CNAME", %{options: options} do
    assert %{records: [%{target: "node1.sec.test"}], secure: true} =
             Dns.lookup!("_app._tcp.sec.test", :srv, options)

    assert %{records: [{127, 0, 0, 1}], secure: true} = Dns.lookup!("node1.sec.test", :a, options)
    assert %{records: [{127, 0, 0, 1}], secure: true} = Dns.lookup!("alias.sec.test", :a, options)
  end

  test "addresses of targets are validated too", %{options: options} do
    options = [addresses: true] ++ options

    assert %{records: [%{addresses: [{127, 0, 0, 1}]}], secure: true} =
             Dns.lookup!("_app._tcp.sec.test", :srv, options)
  end

  test "in a signed zone, a missing name or record is proved", %{options: options} do
    assert {:error, %Error{reason: :nxdomain}} = Dns.lookup("none.sec.test", :a, options)
    assert {:error, %Error{reason: :no_records}} = Dns.lookup("node1.sec.test", :srv, options)
  end

  test "answers from a provably unsigned zone are not secure", %{options: options} do
    assert %{records: [{127, 0, 0, 9}], secure: false} =
             Dns.lookup!("app.plain.test", :a, options)
  end

  test "a missing name or record in a provably unsigned zone needs no proof", %{options: options} do
    assert {:error, %Error{reason: :nxdomain}} = Dns.lookup("none.plain.test", :a, options)
    assert {:error, %Error{reason: :no_records}} = Dns.lookup("app.plain.test", :srv, options)
  end

  test "without the option, answers are not validated", %{options: options} do
    options = Keyword.drop(options, [:dnssec, :trust_anchors])

    assert %{records: [{127, 0, 0, 1}], secure: false} =
             Dns.lookup!("node1.sec.test", :a, options)
  end

  describe "a signature that expires" do
    test "does not prove an answer afterwards, even if the TTL of the answer is longer",
         context do
      policy = ~w(rrsig-lifetime:20 rrsig-refresh:6 rrsig-pre-refresh:0 propagation-delay:0)
      policy = Enum.map(["dnskey-ttl:5" | policy], &String.replace(&1, ":", ": "))
      signing = [records: ["node 5 A 127.0.0.1"], signed: true, policy: policy]
      zone = start_supervised!({Knot, [zone: "sec.test"] ++ signing}, id: :short)
      anchors = file(context.dir, "short", Knot.dump(zone, "DNSKEY"))
      # The records were signed with a TTL of 5 seconds. The copy raises it to 600.
      copy =
        for line <- transferred(zone), do: String.replace(line, ~r/^(\S+\s+)5\s/, "\\g{1}600\t")

      options = serving(%{context | options: []}, copy)
      options = [dnssec: true, trust_anchors: anchors] ++ options
      assert %{secure: true} = Dns.lookup!("node.sec.test", :a, options)
      Process.sleep(22_000)
      assert reason("node.sec.test", :a, options) == :bogus
    end
  end

  test "a second signature that cannot be checked does not invalidate the first", context do
    # A zone has two signatures while it changes its algorithm. 16 is Ed448.
    options =
      broken(context, fn line ->
        if line =~ ~r/\sRRSIG\s(A|SRV)\s/,
          do: [line, String.replace(line, ~r/(RRSIG\s\S+\s)13 /, "\\g{1}16 ")],
          else: line
      end)

    assert %{records: [{127, 0, 0, 1}], secure: true} = Dns.lookup!("node1.sec.test", :a, options)
    assert %{secure: true} = Dns.lookup!("_app._tcp.sec.test", :srv, options)
  end

  describe "bogus is" do
    test "a record that was changed after it was signed", context do
      options = broken(context, &String.replace(&1, ~r/\bA\t127\.0\.0\.1$/, "A\t127.0.0.66"))
      assert reason("node1.sec.test", :a, options) == :bogus
      assert %{secure: true} = Dns.lookup!("node2.sec.test", :a, options)
      # Without :dnssec, the changed record is accepted.
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

    # hickory itself requires no proof if all records of the authority section are provably unsigned.
    for {what, authority} <- [{"nothing", []}, {"an unsigned zone", ["plain", "test"]}] do
      test "NXDOMAIN or no record for a name that exists, with #{what} in the authority section",
           context do
        authority = authority(unquote(authority))

        for {flags, name} <- [{0x8183, "node1.sec.test"}, {0x8180, "node2.sec.test"}] do
          forged = &Wire.response(&1, flags: flags, authority: authority)
          assert reason(name, :a, forging(context, name, forged)) == :bogus
        end
      end

      test "the record of a wildcard for a name with a record, with #{what} in the authority section",
           context do
        authority = authority(unquote(authority))

        forged = fn query ->
          # The answer for a name of the same length, which only the wildcard matches.
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

    test "a zone that is signed with other keys", context do
      other =
        start_supervised!({Knot, zone: "sec.test", records: @records, signed: true}, id: :other)

      options = Keyword.delete(context.options, :nameservers)
      options = serving(%{context | options: options}, transferred(other))
      assert reason("node1.sec.test", :a, options) == :bogus
    end
  end

  test "the error of a bogus answer names the clock, because signatures are valid for a limited time" do
    error = %Error{name: "app.test", type: :a, reason: :bogus}
    assert Exception.message(error) =~ "clock"
  end

  describe "trust_anchors" do
    test "are by default the keys of the real root, which do not prove this zone",
         %{options: options} do
      assert reason("node1.sec.test", :a, Keyword.delete(options, :trust_anchors)) == :bogus
    end

    test "can be the keys of an island of security (RFC 4033, section 2)", context do
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

    test "that cannot be read or have no key are the error :bad_file", context do
      nonsense = file(context.dir, "nonsense", ["nonsense"])
      empty = file(context.dir, "empty", [])

      for bad <- [Path.join(context.dir, "missing"), context.dir, nonsense, empty] do
        options = Keyword.put(context.options, :trust_anchors, bad)
        assert reason("node1.sec.test", :a, options) == :bad_file
      end
    end

    test "may hold keys of algorithms that cannot be checked, beside one that can", context do
      # 16 is Ed448. A zone that changes its algorithm has keys of both algorithms for a while.
      other = "sec.test. 5 IN DNSKEY 257 3 16 " <> Base.encode64(:binary.copy(<<1>>, 57))

      both =
        file(context.dir, "both", [other | String.split(File.read!(context.zone_keys), "\n")])

      options = Keyword.put(context.options, :trust_anchors, both)
      assert %{secure: true} = Dns.lookup!("node1.sec.test", :a, options)
    end

    test "that were changed are used by the next lookup", context do
      path = Path.join(context.dir, "changing")
      options = Keyword.put(context.options, :trust_anchors, path)
      File.cp!(context.zone_keys, path)
      assert reason("app.plain.test", :a, options) == :bogus
      File.cp!(context.options[:trust_anchors], path)
      assert %{secure: false} = Dns.lookup!("app.plain.test", :a, options)
    end

    test "that are not a path raise an error that says what is expected", %{options: options} do
      assert_raise ArgumentError, ~r/expected :trust_anchors to be .* got: 1/, fn ->
        Dns.lookup("app.test", :a, Keyword.put(options, :trust_anchors, 1))
      end
    end
  end

  # Returns options for a nameserver that answers the A query for `name` with `forged`, and forwards all other queries to
  # the nameserver of the context.
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

  # The bytes of the first n records. The owner of each is a pointer to the question.
  defp records(_bytes, 0), do: ""

  defp records(<<0xC00C::16, _::64, size::16, data::binary-size(size), rest::binary>> = bytes, n),
    do: binary_part(bytes, 0, 12) <> data <> records(rest, n - 1)

  defp reason(name, type, options) do
    assert {:error, %Error{reason: reason}} = Dns.lookup(name, type, options)
    reason
  end

  defp rrsig?(line, owner, type), do: line =~ ~r/^#{Regex.escape(owner)}\s.*\sRRSIG\s#{type}\s/

  # Changes the first character of the signature, which is the last field, in base 64.
  defp damaged(line) do
    [signature | rest] = line |> String.split(" ") |> Enum.reverse()
    <<first, others::binary>> = signature
    [<<if(first == ?A, do: ?B, else: ?A)>> <> others | rest] |> Enum.reverse() |> Enum.join(" ")
  end
end
