defmodule Caravan.Dns.TlsTest do
  # Not async: it counts the resources of this VM.
  use ExUnit.Case

  # tls:// (RFC 7858) and https:// (RFC 8484) with unbound. The knotd of Debian 12 supports neither.

  alias Caravan.Dns
  alias Caravan.Dns.Error
  alias Caravan.Test.Certificates
  alias Caravan.Test.Eventually
  alias Caravan.Test.Host
  alias Caravan.Test.OsResources
  alias Caravan.Test.Relay
  alias Caravan.Test.Requirements
  alias Caravan.Test.Unbound

  @moduletag Requirements.tag([:unbound, :openssl])

  @ip {127, 0, 0, 1}
  # Milliseconds. No lookup takes that long, but a TLS handshake on a busy machine takes seconds.
  @patience 60_000

  setup_all do
    OsResources.warm_up()
    dir = Path.join(System.tmp_dir!(), "tls-" <> Base.encode16(:rand.bytes(6), case: :lower))
    File.mkdir!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)

    good = Certificates.authority!(dir, "good")
    other = Certificates.authority!(dir, "other")
    named = Certificates.server!(dir, "good", "named", ["DNS:dns.test", "IP:127.0.0.1"])
    nameless = Certificates.server!(dir, "good", "nameless", ["DNS:dns.test"])
    expired = Certificates.server!(dir, "good", "expired", ["DNS:dns.test"], days: 0)

    records =
      ["app.test. 5 IN A 127.0.0.1"] ++
        for n <- 1..1_000, do: "many.test. 5 IN SRV 0 0 #{n} node#{n}.test."

    start = fn id, certificate ->
      start_supervised!({Unbound, records: records, certificate: certificate}, id: id)
    end

    %{
      servers: %{
        named: start.(:named, named),
        nameless: start.(:nameless, nameless),
        expired: start.(:expired, expired)
      },
      ca_file: good,
      other_ca: other,
      dir: dir
    }
  end

  for {scheme, transport, address} <- [
        {"tls", :tls, :tls_address},
        {"https", :https, :https_address}
      ] do
    describe "#{scheme}://" do
      @describetag transport: transport, address: address

      setup %{servers: servers, address: address} do
        addresses =
          Map.new(servers, fn {name, server} -> {name, apply(Unbound, address, [server])} end)

        %{addresses: addresses}
      end

      test "a certificate for the name is accepted",
           %{addresses: addresses, ca_file: ca_file} = context do
        options = [
          nameservers: [addresses.named <> "#dns.test"],
          ca_file: ca_file,
          timeout: @patience
        ]

        assert %{records: [@ip], transport: transport} = Dns.lookup!("app.test", :a, options)
        assert transport == context.transport
        assert {:error, %Error{reason: :nxdomain}} = Dns.lookup("none.test", :a, options)
        ports = for service <- Dns.lookup!("many.test", :srv, options).records, do: service.port
        assert Enum.sort(ports) == Enum.to_list(1..1_000)
      end

      test "a certificate for the address is accepted", %{addresses: addresses, ca_file: ca_file} do
        options = [nameservers: [addresses.named], ca_file: ca_file, timeout: @patience]
        assert %{records: [@ip]} = Dns.lookup!("app.test", :a, options)
      end

      test "a certificate for another name is refused", %{addresses: addresses, ca_file: ca_file} do
        for address <- [addresses.named <> "#other.test", addresses.nameless],
            do: assert(reason([address], ca_file: ca_file) == :tls)
      end

      test "a certificate of another authority is refused", %{
        addresses: addresses,
        other_ca: other_ca
      } do
        address = addresses.named <> "#dns.test"
        assert reason([address], ca_file: other_ca) == :tls
        # Without :ca_file, the authorities of Mozilla are trusted.
        assert reason([address], []) == :tls
      end

      test "an expired certificate is refused", %{addresses: addresses, ca_file: ca_file} do
        assert reason([addresses.expired <> "#dns.test"], ca_file: ca_file) == :tls
      end

      test "the next nameserver is queried after a failed handshake", %{
        addresses: addresses,
        ca_file: ca_file
      } do
        servers = [addresses.nameless <> "#other.test", addresses.named <> "#dns.test"]
        options = [nameservers: servers, ca_file: ca_file, timeout: @patience]
        assert %{records: [@ip]} = Dns.lookup!("app.test", :a, options)
      end

      test "many lookups share one connection", %{addresses: addresses, ca_file: ca_file} do
        options = [
          nameservers: [addresses.named <> "#dns.test"],
          ca_file: ca_file,
          timeout: @patience
        ]

        Dns.lookup!("app.test", :a, options)
        before = OsResources.now()
        refs = for n <- 1..100, do: Dns.lookup_async("n#{n}.test", :a, options)

        for {:ok, ref} <- refs,
            do: assert_receive({^ref, {:error, %Error{reason: :nxdomain}}}, 10_000)

        OsResources.await_no_more(Map.delete(before, :atoms))
      end

      test "large answers to simultaneous lookups come over one connection", context do
        address = context.addresses.named <> "#dns.test"
        options = [nameservers: [address], ca_file: context.ca_file, timeout: @patience]
        Dns.lookup!("app.test", :a, options)

        refs = for _ <- 1..20, do: Dns.lookup_async("many.test", :srv, options)

        for {:ok, ref} <- refs do
          assert_receive {^ref, result}, @patience
          assert {:ok, %{records: records}} = result
          assert length(records) == 1_000
        end
      end

      test "a response is received although the attempt that opened its connection has ended",
           context do
        # The first of two attempts ends after 500 ms: after the handshake, and before the response.
        delay = fn _since_connect -> 300 end
        options = relayed(context, delay) ++ [timeout: 1_000, attempts: 2]
        # The first lookups may end too early on a busy machine. The others use their connection.
        found? = fn -> match?({:ok, %{records: [@ip]}}, Dns.lookup("app.test", :a, options)) end
        assert Eventually.true?(found?, 20_000)
      end

      test "a handshake that takes longer than an attempt, or than a lookup, succeeds", context do
        delay = fn since_connect -> max(1_500 - since_connect, 0) end
        options = relayed(context, delay)

        # The handshake ends in the third attempt. After flush/0, each lookup opens a new connection.
        options_of_ten = options ++ [timeout: 6_000, attempts: 10]
        found? = fn options -> match?({:ok, _}, Dns.lookup("app.test", :a, options)) end
        alone? = fn -> Dns.flush() == :ok and found?.(options_of_ten) end
        assert Eventually.true?(alone?, 30_000)

        Dns.flush()
        short = options ++ [timeout: 1_000, attempts: 1]
        assert {:error, %Error{reason: :timeout}} = Dns.lookup("app.test", :a, short)

        # Without the connection of the first lookup, each of these would end before its handshake.
        short = options ++ [timeout: 1_400, attempts: 1]
        assert Eventually.true?(fn -> found?.(short) end, 30_000)
      end

      test "a silent server, one without TLS, and a closed port are errors",
           %{ca_file: ca_file} = context do
        scheme = hd(String.split(context.addresses.named, ":"))

        {:ok, silent} = :gen_tcp.listen(0, ip: @ip)
        {:ok, port} = :inet.port(silent)

        assert reason(["#{scheme}://127.0.0.1:#{port}#dns.test"], ca_file: ca_file, timeout: 300) ==
                 :timeout

        {:ok, plain} = :gen_tcp.listen(0, ip: @ip)
        {:ok, port} = :inet.port(plain)
        spawn_link(fn -> for _ <- Stream.cycle([:ok]), do: greet(plain) end)
        address = "#{scheme}://127.0.0.1:#{port}#dns.test"
        assert reason([address], ca_file: ca_file, timeout: 60_000) == :tls

        address = "#{scheme}://127.0.0.1:#{Host.free_port()}#dns.test"
        assert reason([address], ca_file: ca_file, timeout: 60_000) == :connection
      end

      test "a connection that no longer delivers responses is replaced", context do
        scheme = context.transport
        relay = start_supervised!({Relay, Unbound.ports(context.servers.named)[scheme]})
        path = URI.parse(context.addresses.named).path
        address = "#{scheme}://127.0.0.1:#{Relay.port(relay)}#{path}#dns.test"
        options = [nameservers: [address], ca_file: context.ca_file, timeout: 4_000]
        Dns.lookup!("app.test", :a, options)

        assert Relay.freeze(relay) == 1
        refs = for _ <- 1..20, do: Dns.lookup_async("app.test", :a, options)
        for {:ok, ref} <- refs, do: assert_receive({^ref, {:ok, %{records: [@ip]}}}, 20_000)

        assert Relay.freeze(relay) == 1
        options = [attempts: 1] ++ options
        assert {:error, %Error{reason: :timeout}} = Dns.lookup("app.test", :a, options)
        assert %{records: [@ip]} = Dns.lookup!("app.test", :a, options)
      end

      test "a connection that the server has closed is opened again", context do
        certificate = {Path.join(context.dir, "named.pem"), Path.join(context.dir, "named.key")}
        spec = {Unbound, records: ["app.test. 5 IN A 127.0.0.1"], certificate: certificate}
        unbound = start_supervised!(spec, id: :restarted)
        ports = Unbound.ports(unbound)
        address = apply(Unbound, context.address, [unbound]) <> "#dns.test"
        options = [nameservers: [address], ca_file: context.ca_file, timeout: @patience]
        assert %{records: [@ip]} = Dns.lookup!("app.test", :a, options)

        stop_supervised!(:restarted)
        assert {:error, %Error{reason: :connection}} = Dns.lookup("app.test", :a, options)
        start_supervised!({Unbound, [ports: ports] ++ elem(spec, 1)}, id: :restarted)
        assert %{records: [@ip]} = Dns.lookup!("app.test", :a, options)
      end
    end
  end

  test "https:// with a path that the server does not have is a bad response", context do
    address = Unbound.https_address(context.servers.named)
    path = URI.parse(address).path || ""
    address = String.replace_suffix(address, path, "/elsewhere") <> "#dns.test"
    assert reason([address], ca_file: context.ca_file) == :bad_response
  end

  describe "ca_file" do
    test "that cannot be read or has no certificate is the error :bad_file", context do
      nonsense = Path.join(context.dir, "nonsense.pem")
      File.write!(nonsense, "nonsense")
      address = Unbound.tls_address(context.servers.named) <> "#dns.test"

      for bad <- [Path.join(context.dir, "missing.pem"), context.dir, nonsense],
          do: assert(reason([address], ca_file: bad) == :bad_file)
    end

    test "that was changed is used by the next lookup", context do
      path = Path.join(context.dir, "changing.pem")
      address = Unbound.tls_address(context.servers.named) <> "#dns.test"
      File.cp!(context.other_ca, path)
      assert reason([address], ca_file: path) == :tls
      File.cp!(context.ca_file, path)
      options = [nameservers: [address], ca_file: path, timeout: @patience]
      assert %{records: [@ip]} = Dns.lookup!("app.test", :a, options)
      File.cp!(context.other_ca, path)
      assert reason([address], ca_file: path) == :tls
    end

    test "that is a pipe, which could block its reader, is the error :bad_file", context do
      path = Path.join(context.dir, "pipe")
      {_, 0} = System.cmd("mkfifo", [path])
      address = Unbound.tls_address(context.servers.named) <> "#dns.test"
      assert reason([address], ca_file: path) == :bad_file
      assert reason([address], dnssec: true, trust_anchors: path) == :bad_file
    end

    test "that is not a path raises an error that says what is expected" do
      assert_raise ArgumentError, ~r/expected :ca_file to be .* got: 1/, fn ->
        Dns.lookup("app.test", :a, ca_file: 1)
      end
    end
  end

  # Returns the options of lookups through a relay. It delays each message of the server by the number of milliseconds
  # that `delay` returns for the age of the connection.
  defp relayed(context, delay) do
    uri = URI.parse(context.addresses.named)
    {:ok, listener} = :gen_tcp.listen(0, [:binary, ip: @ip, active: true])
    {:ok, port} = :inet.port(listener)
    spawn_link(fn -> for _ <- Stream.cycle([:ok]), do: accept(listener, uri.port, delay) end)
    address = URI.to_string(%{uri | port: port, fragment: "dns.test"})
    [nameservers: [address], ca_file: context.ca_file]
  end

  defp accept(listener, port, delay) do
    {:ok, client} = :gen_tcp.accept(listener)

    relay =
      spawn_link(fn ->
        {:ok, server} = :gen_tcp.connect(@ip, port, [:binary, active: true])
        relay(client, server, delay, System.monotonic_time(:millisecond))
      end)

    :ok = :gen_tcp.controlling_process(client, relay)
  end

  defp relay(client, server, delay, start) do
    receive do
      {:tcp, ^client, bytes} ->
        _ = :gen_tcp.send(server, bytes)
        relay(client, server, delay, start)

      {:tcp, ^server, bytes} ->
        delay_now = delay.(System.monotonic_time(:millisecond) - start)
        _ = Process.send_after(self(), {:late, bytes}, delay_now)
        relay(client, server, delay, start)

      {:late, bytes} ->
        _ = :gen_tcp.send(client, bytes)
        relay(client, server, delay, start)

      {:tcp_closed, _socket} ->
        :ok
    end
  end

  # Sends a line without TLS to the next client.
  defp greet(listener) do
    {:ok, socket} = :gen_tcp.accept(listener)
    :ok = :gen_tcp.send(socket, "220 this is no TLS\r\n")
  end

  defp reason(nameservers, options) do
    options = [nameservers: nameservers] ++ options ++ [timeout: @patience]
    assert {:error, %Error{reason: reason}} = Dns.lookup("app.test", :a, options)
    reason
  end
end
