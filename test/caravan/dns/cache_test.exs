defmodule Caravan.Dns.CacheTest do
  # Not async: it empties the cache.
  use ExUnit.Case

  alias Caravan.Dns
  alias Caravan.Test.DnsServer
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

  test "it is bounded: any number of names leaves it working", %{server: server, options: options} do
    DnsServer.put_default(server, {[@ip], ttl: 300})
    for n <- 1..5_000, do: Dns.lookup!("n#{n}.test", :a, options)
    put(server, 300)
    assert %{records: [@ip], cached: false} = ask(options)
    assert %{cached: true} = ask(options)
  end
end
