defmodule Caravan.Dns.CacheTest do
  # Not async: it empties the cache.
  use ExUnit.Case

  alias Caravan.Dns
  alias Caravan.Test.DnsServer
  alias Caravan.Test.DnsServer.Wire
  alias Caravan.Test.Host

  @ip {127, 0, 0, 1}
  @other {127, 0, 0, 2}

  setup do
    server = start_supervised!(DnsServer)
    %{server: server, options: [nameservers: [DnsServer.address(server)]]}
  end

  defp put(server, ttl) do
    DnsServer.put(server, "app.test", :a, {:sequence, [{[@ip], ttl: ttl}, {[@other], ttl: ttl}]})
  end

  defp ask(options), do: Dns.lookup!("app.test", :a, options)

  test "an answer is given again while its TTL lasts, and says so", %{
    server: server,
    options: options
  } do
    put(server, 300)
    asked = ask(options)
    assert %{records: [@ip], ttl: 300, cached: false} = asked

    assert %{records: [@ip], cached: true, nameserver: nameserver, transport: :udp} =
             kept = ask(options)

    assert nameserver == asked.nameserver
    assert kept.ttl in 295..300
    assert length(DnsServer.queries(server)) == 1
  end

  test "an answer is forgotten when its TTL is over", %{server: server, options: options} do
    put(server, 1)
    assert %{records: [@ip]} = ask(options)

    Host.await(
      fn -> match?(%{records: [@other], cached: false}, ask(options)) end,
      "the TTL to be over"
    )
  end

  test "a TTL of 0 is not kept", %{server: server, options: options} do
    put(server, 0)
    assert %{records: [@ip], ttl: 0} = ask(options)
    assert %{records: [@other], cached: false} = ask(options)
  end

  test "min_ttl keeps it longer", %{server: server, options: options} do
    put(server, 0)
    options = [min_ttl: 60] ++ options
    assert %{records: [@ip]} = ask(options)
    assert %{records: [@ip], cached: true} = ask(options)
  end

  test "max_ttl keeps it shorter", %{server: server, options: options} do
    put(server, 300)
    options = [max_ttl: 1] ++ options
    assert %{records: [@ip]} = ask(options)
    Host.await(fn -> match?(%{records: [@other]}, ask(options)) end, "the max_ttl to be over")
  end

  test "cache: false asks each time", %{server: server, options: options} do
    put(server, 300)
    assert %{records: [@ip]} = ask(options)
    assert %{records: [@other], cached: false} = ask([cache: false] ++ options)
  end

  test "flush/0 empties it", %{server: server, options: options} do
    put(server, 300)
    assert %{records: [@ip]} = ask(options)
    assert Dns.flush() == :ok
    assert %{records: [@other], cached: false} = ask(options)
  end

  test "a name, a type and a nameserver have an answer of their own", %{
    server: server,
    options: options
  } do
    put(server, 300)
    DnsServer.put(server, "app.test", :aaaa, {[{0, 0, 0, 0, 0, 0, 0, 1}], ttl: 300})
    assert %{records: [@ip]} = ask(options)
    assert %{cached: false} = Dns.lookup!("app.test", :aaaa, options)

    other = start_supervised!({DnsServer, []}, id: :other)
    DnsServer.put_default(other, {[@other], ttl: 300})
    assert %{records: [@other]} = ask(nameservers: [DnsServer.address(other)])
    assert %{records: [@ip], cached: true} = ask(options)
  end

  test "an address filter applies to what is kept", %{server: server, options: options} do
    DnsServer.put(server, "app.test", :a, {[@ip, @other], ttl: 300})
    assert %{records: [@ip, @other]} = ask(options)
    assert %{records: [@other], dropped: 1} = ask([allow: ["127.0.0.2/32"]] ++ options)
    assert %{records: [@ip, @other], dropped: 0} = ask(options)
  end

  test "an error is not kept", %{server: server, options: options} do
    for failure <- [:nxdomain, :empty, :servfail] do
      DnsServer.put(server, "#{failure}.test", :a, failure)
      assert {:error, _} = Dns.lookup("#{failure}.test", :a, options)
      DnsServer.put(server, "#{failure}.test", :a, [@ip])
      assert {:ok, %{records: [@ip]}} = Dns.lookup("#{failure}.test", :a, options)
    end
  end

  test "an answer that lacks the addresses of a silent target is not kept", context do
    DnsServer.put(context.server, "_app._tcp.test", :srv, {[{0, 0, 1, "node1.test"}], ttl: 300})
    options = [addresses: true] ++ context.options
    lookup = &Dns.lookup!("_app._tcp.test", :srv, &1 ++ options)
    for type <- [:a, :aaaa], do: DnsServer.put(context.server, "node1.test", type, :silent)
    assert %{records: [%{addresses: []}]} = lookup.(timeout: 300)
    DnsServer.put(context.server, "node1.test", :a, {[@ip], ttl: 300})
    # That there are none is an answer.
    DnsServer.put(context.server, "node1.test", :aaaa, :empty)
    assert %{records: [%{addresses: [@ip]}], cached: false} = lookup.(timeout: 301)
    assert %{records: [%{addresses: [@ip]}], cached: true} = lookup.(timeout: 301)
  end

  test "it outlives the sockets that its answers came over", %{server: server, options: options} do
    put(server, 300)
    assert %{records: [@ip]} = ask(options)
    # Those of 32 configurations are kept, and these are 40.
    address = DnsServer.address(server)

    for n <- 1..40 do
      nameservers =
        List.duplicate(address, 1 + div(n, 4)) ++ List.duplicate("127.0.0.1:1", rem(n, 4))

      assert {:ok, _} = Dns.lookup("app.test", :a, nameservers: nameservers, cache: false)
    end

    assert %{records: [@ip], cached: true} = ask(options)
  end

  test "it is bounded, by records and addresses of targets: one more empties it", context do
    %{server: server, options: options} = context
    put(server, 300)
    assert %{records: [@ip]} = ask(options)
    assert %{cached: true} = ask(options)
    # 900 records and 16 addresses of each.
    answers = for n <- 1..900, do: Wire.srv(:question, n, ["n", "test"])
    additional = for n <- 1..16, do: Wire.a(["n", "test"], {10, 0, 0, n})

    many =
      {:raw, fn query, _ -> Wire.response(query, answers: answers, additional: additional) end}

    DnsServer.put_default(server, many)

    options = [
      addresses: true,
      min_ttl: 300,
      nameservers: ["tcp://" <> DnsServer.address(server)]
    ]

    assert %{cached: false} = Dns.lookup!("_a.test", :srv, options)
    assert %{cached: false} = Dns.lookup!("_b.test", :srv, options)
    assert %{cached: true} = Dns.lookup!("_b.test", :srv, options)
    assert %{cached: false} = Dns.lookup!("_a.test", :srv, options)
    assert %{cached: false} = ask(context.options)
  end
end
