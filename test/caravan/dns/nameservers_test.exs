defmodule Caravan.Dns.NameserversTest do
  use ExUnit.Case, async: true

  # Which nameserver is queried, when, and over which transport.

  alias Caravan.Dns
  alias Caravan.Dns.Error
  alias Caravan.Test.DnsServer
  alias Caravan.Test.DnsServer.Wire
  alias Caravan.Test.Host
  alias Caravan.Test.Relay

  @ip {127, 0, 0, 1}
  # Milliseconds. No test waits that long, because a failed attempt does not use up its time.
  @patience 60_000
  # Milliseconds. A silent nameserver uses up a part of this time.
  @short 4_000

  setup context do
    server = start_supervised!({DnsServer, Map.to_list(Map.take(context, [:ip]))})
    DnsServer.put(server, "app.test", :a, [@ip])
    %{server: server, address: DnsServer.address(server)}
  end

  defp start(name, reply) do
    server = start_supervised!({DnsServer, []}, id: name)
    DnsServer.put_default(server, reply)
    server
  end

  defp closed, do: "127.0.0.1:#{Host.free_port()}"

  # Waits for less time than the timeout of the lookup.
  defp lookup_soon(name, options) do
    {:ok, ref} = Dns.lookup_async(name, :a, options)
    assert_receive {^ref, result}, 10_000
    result
  end

  test "an answer has its nameserver, its transport and its duration in microseconds", %{
    address: address
  } do
    answer = Dns.lookup!("app.test", :a, nameservers: [address])
    assert %{nameserver: ^address, transport: :udp, secure: false} = answer
    assert answer.time in 1..5_000_000
  end

  test "tcp:// means TCP only", %{server: server, address: address} do
    answer = Dns.lookup!("app.test", :a, nameservers: ["tcp://" <> address])
    assert %{records: [@ip], nameserver: ^address, transport: :tcp} = answer
    assert [%{transport: :tcp}] = DnsServer.queries(server)
  end

  test "an answer that is truncated over UDP comes over TCP", %{server: server, address: address} do
    addresses = for n <- 1..1_000, do: {127, 0, div(n, 256), rem(n, 256)}
    DnsServer.put(server, "many.test", :a, addresses)
    answer = Dns.lookup!("many.test", :a, nameservers: [address])
    assert %{records: ^addresses, nameserver: ^address, transport: :tcp} = answer
  end

  @tag ip: {0, 0, 0, 0, 0, 0, 0, 1}
  test "a nameserver can have an IPv6 address", %{address: "[::1]:" <> _ = address} do
    assert %{nameserver: ^address} = Dns.lookup!("app.test", :a, nameservers: [address])
    assert %{transport: :tcp} = Dns.lookup!("app.test", :a, nameservers: ["tcp://" <> address])
  end

  describe "the second nameserver is queried" do
    test "if the first is silent, or its port is closed", %{address: address} do
      silent = start(:silent, :silent)

      for first <- [DnsServer.address(silent), closed(), "tcp://" <> closed()] do
        options = [nameservers: [first, address], timeout: @short]
        assert %{records: [@ip], nameserver: ^address} = Dns.lookup!("app.test", :a, options)
      end
    end

    test "at once if the port of the first is closed", %{address: address} do
      for first <- [closed(), "tcp://" <> closed()] do
        options = [nameservers: [first, address], timeout: @patience]
        assert {:ok, %{records: [@ip]}} = lookup_soon("app.test", options)
      end
    end

    for reply <- [:servfail, :refused, :formerr, :notimp, :cut, :truncated] do
      test "at once if the response of the first is #{reply}", %{server: server, address: address} do
        first = start(:first, unquote(reply))
        options = [nameservers: [DnsServer.address(first), address], timeout: @patience]
        assert {:ok, %{records: [@ip]}} = lookup_soon("app.test", options)
        assert [%{transport: :udp}] = DnsServer.queries(server)
      end
    end

    test "if the first closes its TCP connections", %{address: address} do
      first = DnsServer.address(start(:first, :close))
      options = [nameservers: ["tcp://" <> first, address], timeout: @patience]
      assert {:ok, %{nameserver: ^address}} = lookup_soon("app.test", options)
    end
  end

  test "the third nameserver is queried if the first fails and the second is silent", %{
    address: address
  } do
    first = start(:first, :servfail)
    second = start(:second, :silent)
    addresses = [DnsServer.address(first), DnsServer.address(second), address]
    answer = Dns.lookup!("app.test", :a, nameservers: addresses, timeout: 6_000)
    assert %{records: [@ip], nameserver: ^address} = answer
  end

  test "only the first nameserver is queried, even if the second is faster", context do
    second = start(:second, :nxdomain)
    DnsServer.put(context.server, "app.test", :a, {:delay, 50, [@ip]})
    addresses = [context.address, DnsServer.address(second)]

    assert %{records: [_]} =
             Dns.lookup!("app.test", :a, nameservers: addresses, timeout: @patience)

    assert DnsServer.queries(second) == []
  end

  test "no second nameserver is queried if the name does not exist, or has no records", context do
    second = start(:second, [@ip])
    addresses = [context.address, DnsServer.address(second)]
    options = [nameservers: addresses, timeout: @patience]
    assert {:error, %Error{reason: :nxdomain}} = Dns.lookup("none.test", :a, options)
    DnsServer.put(context.server, "none.test", :a, :empty)
    assert {:error, %Error{reason: :no_records}} = Dns.lookup("none.test", :a, options)
    assert DnsServer.queries(second) == []
  end

  test "a nameserver is queried :attempts times", %{server: server, address: address} do
    options = [nameservers: [address], timeout: @patience]
    DnsServer.put_default(server, :servfail)

    for attempts <- 1..3 do
      DnsServer.reset(server)
      options = [attempts: attempts] ++ options
      assert {:error, %Error{reason: :servfail}} = lookup_soon("app#{attempts}.test", options)
      assert length(DnsServer.queries(server)) == attempts
    end
  end

  test "the second attempt can have the answer", %{server: server, address: address} do
    for first <- [:servfail, :cut, :silent] do
      DnsServer.put(server, "app.test", :a, {:sequence, [first, [@ip]]})
      options = [nameservers: [address], timeout: @short]
      assert %{records: [@ip]} = Dns.lookup!("app.test", :a, options)
    end
  end

  test "a query over a closed TCP connection is repeated over a new one", %{
    server: server,
    address: address
  } do
    DnsServer.put(server, "app.test", :a, {:sequence, [:close, [@ip]]})
    options = [nameservers: ["tcp://" <> address], timeout: @patience]
    assert {:ok, %{records: [@ip], transport: :tcp}} = lookup_soon("app.test", options)
  end

  test "an error has the nameserver that it is about, and its message names it", context do
    %{server: server, address: address} = context

    error = fn nameservers, options ->
      {:error, error} = Dns.lookup("app.test", :a, [nameservers: nameservers] ++ options)
      error
    end

    for {reply, reason} <- [nxdomain: :nxdomain, servfail: :servfail, garbage: :timeout] do
      DnsServer.put(server, "app.test", :a, reply)

      # On a busy machine, the deadline of a lookup may pass before its nameserver is asked.
      errors = Stream.repeatedly(fn -> error.([address], timeout: @short) end)
      error = errors |> Stream.take(10) |> Enum.find(&(&1.nameserver != nil))
      assert %Error{nameserver: ^address, reason: ^reason, transport: :udp} = error

      assert Exception.message(error) =~
               ~r/"app.test" \(A\) failed at #{address}: the name|no valid/
    end

    DnsServer.put(server, "app.test", :a, :refused)
    silent = "silent" |> start(:silent) |> DnsServer.address()

    for nameservers <- [[address, silent], [silent, address]],
        do:
          assert(
            %Error{nameserver: ^address, reason: :refused} = error.(nameservers, timeout: @short)
          )

    # After timeouts, the error has the nameserver that was asked last.
    other = "other" |> start(:silent) |> DnsServer.address()
    options = [timeout: 1_000, attempts: 1]
    assert %Error{nameserver: ^other, reason: :timeout} = error.([silent, other], options)

    # An address that :allow drops.
    DnsServer.put(server, "app.test", :a, [@ip])
    options = [allow: ["10.0.0.0/8"]]
    assert %Error{nameserver: ^address, reason: :not_allowed} = error.([address], options)
    tcp = error.(["tcp://" <> address], options)
    assert %Error{nameserver: ^address, reason: :not_allowed, transport: :tcp} = tcp

    # No nameserver is asked.
    assert {:error, %Error{nameserver: nil, transport: nil}} = Dns.lookup("a..b", :a)
    assert %Error{nameserver: nil, reason: :bad_file} = error.([address], ca_file: "/none")
  end

  test "the error of one nameserver is reported, not the timeout of another", %{server: server} do
    DnsServer.put_default(server, :refused)
    silent = start(:silent, :silent)
    addresses = [DnsServer.address(server), DnsServer.address(silent)]

    for addresses <- [addresses, Enum.reverse(addresses)] do
      options = [nameservers: addresses, timeout: @short]
      assert {:error, %Error{reason: :refused}} = Dns.lookup("any.test", :a, options)
    end
  end

  describe "a nameserver that closes its connection after each answer" do
    setup %{server: server, address: address} do
      DnsServer.put_default(server, closing(&[Wire.a(:question, &1)]))
      %{options: [nameservers: ["tcp://" <> address], timeout: @patience]}
    end

    # The server does not answer queries that it has received before it closes the connection.
    defp closing(answers) do
      {:stream,
       fn query ->
         bytes = Wire.response(query, answers: answers.(@ip))
         [<<byte_size(bytes)::16, bytes::binary>>, 5, :close]
       end}
    end

    test "answers lookups in a row", %{options: options} do
      for n <- 1..5, do: assert(%{records: [@ip]} = Dns.lookup!("app#{n}.test", :a, options))
    end

    test "answers lookups that start at the same time", %{options: options} do
      refs = for n <- 1..20, do: Dns.lookup_async("app#{n}.test", :a, options)
      for {:ok, ref} <- refs, do: assert_receive({^ref, {:ok, %{records: [@ip]}}}, 20_000)
    end

    test "has the addresses of all targets", %{server: server, options: options} do
      services = for n <- 1..10, do: Wire.srv(:question, n, ["node#{n}", "test"])
      DnsServer.put(server, "_app._tcp.test", :srv, closing(fn _ -> services end))
      answer = Dns.lookup!("_app._tcp.test", :srv, [addresses: true] ++ options)
      assert for(service <- answer.records, do: service.addresses) == List.duplicate([@ip], 10)
    end
  end

  # The host of the nameserver has vanished, and another one has its address.
  describe "a TCP connection that no longer delivers responses" do
    setup %{server: server} do
      relay = start_supervised!({Relay, DnsServer.port(server)})
      options = [nameservers: ["tcp://127.0.0.1:#{Relay.port(relay)}"], timeout: @short]
      Dns.lookup!("app.test", :a, options)
      assert Relay.freeze(relay) == 1
      %{options: options}
    end

    test "is replaced within the lookup", %{options: options} do
      assert %{records: [@ip]} = Dns.lookup!("app.test", :a, options)
    end

    test "is replaced for all lookups that use it", %{options: options} do
      refs = for _ <- 1..50, do: Dns.lookup_async("app.test", :a, options)
      for {:ok, ref} <- refs, do: assert_receive({^ref, {:ok, %{records: [@ip]}}}, 20_000)
    end

    test "is replaced for the next lookup if the lookup has one attempt only", context do
      options = [attempts: 1] ++ context.options
      assert {:error, %Error{reason: :timeout}} = Dns.lookup("app.test", :a, options)
      assert %{records: [@ip]} = Dns.lookup!("app.test", :a, options)
    end
  end

  test "a TCP connection for truncated answers is replaced if it no longer delivers responses",
       %{server: server, address: address} do
    # The server reads only the first query of a connection.
    DnsServer.put_default(server, {:stream, &one_answer/1})
    options = [nameservers: [address], timeout: @short]

    for n <- 1..2,
        do: assert(%{transport: :tcp} = Dns.lookup!("many#{n}.test", :a, options))
  end

  defp one_answer(query) do
    bytes = Wire.response(query, answers: [Wire.a(:question, @ip)])
    [<<byte_size(bytes)::16, bytes::binary>>]
  end

  test "a closed port is the error :connection at once" do
    for address <- [closed(), "tcp://" <> closed()] do
      options = [nameservers: [address], timeout: @patience]
      assert {:error, %Error{reason: :connection}} = lookup_soon("app.test", options)
    end
  end
end
