defmodule Caravan.Dns.DnssecTest do
  use ExUnit.Case, async: true

  # dnssec: true against a zone that knotd signs, and against the same zone with something broken.

  alias Caravan.Dns
  alias Caravan.Dns.Error
  alias Caravan.Test.Knot

  @records [
    "_app._tcp 60 SRV 0 0 4001 node1",
    "node1 60 A 127.0.0.1",
    "node2 60 A 127.0.0.2",
    "alias 60 CNAME node1",
    "plain NS ns.plain",
    "ns.plain A 127.0.0.1"
  ]

  # Provably not signed: the signed zone delegates it and has no DS record of it.
  @plain {"plain.sec.test",
          ["@ 5 SOA a. b. 1 1 1 1 1", "@ 5 NS ns", "ns 5 A 127.0.0.1", "app 5 A 127.0.0.9"]}

  setup_all do
    dir = Path.join(System.tmp_dir!(), "dnssec-" <> Base.encode16(:rand.bytes(6), case: :lower))
    File.mkdir!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)

    good =
      start_supervised!({Knot, zone: "sec.test", records: @records, signed: true, more: [@plain]},
        id: :good
      )

    anchors = Path.join(dir, "anchors")

    File.write!(
      anchors,
      good |> Knot.dump("DNSKEY") |> Enum.filter(&(&1 =~ "DNSKEY 257")) |> Enum.map(&[&1, ?\n])
    )

    # The transfer ends with the SOA record that it began with.
    signed = good |> Knot.dump("AXFR") |> Enum.drop(-1)

    %{
      dir: dir,
      signed: signed,
      options: [
        nameservers: [Knot.address(good)],
        dnssec: true,
        trust_anchors: anchors,
        cache: false
      ]
    }
  end

  # A nameserver of the signed zone as `change` leaves it.
  defp broken(context, change) do
    lines = Enum.flat_map(context.signed, &List.wrap(change.(&1)))
    spec = {Knot, zone: "beside.test", more: [{"sec.test", lines}]}
    knot = start_supervised!(spec, id: make_ref())
    Keyword.put(context.options, :nameservers, [Knot.address(knot)])
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
             Dns.lookup!("app.plain.sec.test", :a, options)
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

    test "a zone signed by somebody else", context do
      other =
        start_supervised!({Knot, zone: "sec.test", records: @records, signed: true}, id: :other)

      options = Keyword.put(context.options, :nameservers, [Knot.address(other)])
      assert reason("node1.sec.test", :a, options) == :bogus
    end
  end

  describe "trust_anchors" do
    test "that are none say what was expected", context do
      nonsense = Path.join(context.dir, "nonsense")
      File.write!(nonsense, "nonsense")

      for bad <- [Path.join(context.dir, "missing"), nonsense, 1] do
        assert_raise ArgumentError, ~r/expected :trust_anchors to be .* got: /, fn ->
          Dns.lookup("app.test", :a, Keyword.put(context.options, :trust_anchors, bad))
        end
      end
    end
  end

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
