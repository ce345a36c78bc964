defmodule Caravan.EpmdTest do
  use ExUnit.Case, async: true

  alias Caravan.Epmd
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  doctest Caravan.Epmd

  @rule "A node name ends, before the @, in no digits (base port), in 0 to 1023 " <>
          "(base port + number) or in 1024 to 65535 (that port)"

  # Names without a port, as a command line, a peer or a caller may pass them.
  @without_port [
    "",
    "@127.0.0.1",
    "app-65536@127.0.0.1",
    "app-70000@127.0.0.1",
    "app-004001@127.0.0.1",
    "app-99999999999999999999@127.0.0.1"
  ]
  @temporary [
    "rpc-a671-app-5001@127.0.0.1",
    "rem-1f2e-app-5001@127.0.0.1",
    "remsh1f2e-app-5001@127.0.0.1",
    "maint1f2e-app-5001@127.0.0.1",
    "app-5001_maint_123@127.0.0.1"
  ]
  describe "dist_port/1" do
    test "returns the port of an atom, a charlist and a binary" do
      for name <- [:"app-4001@host", ~c"app-4001@host", "app-4001@host"],
          do: assert(Epmd.dist_port(name) == 4001)
    end

    test "needs no host" do
      assert Epmd.dist_port("app-4001") == 4001
    end

    test "adds a number under 1024 to the base port" do
      assert Epmd.dist_port("app@host") == 4370
      assert Epmd.dist_port("app0@host") == 4370
      assert Epmd.dist_port("worker2@host") == 4372
      assert Epmd.dist_port("worker-0002@host") == 4372
      assert Epmd.dist_port("app-1023@host") == 4370 + 1023
    end

    test "takes a number from 1024 to 65535 as the port" do
      assert Epmd.dist_port("app-1024@host") == 1024
      assert Epmd.dist_port("app-65535@host") == 65_535
    end

    test "uses only the digits at the end of the part before the @" do
      assert Epmd.dist_port("app@host-4001") == 4370
      assert Epmd.dist_port("4001-app@10.0.0.1") == 4370
      assert Epmd.dist_port("v2-app-4001@10.0.0.1") == 4001
    end

    test "accepts text that is not ASCII" do
      assert Epmd.dist_port("žluť-4001@host") == 4001
      assert Epmd.dist_port(~c"žluť-4001@host") == 4001
      # Only ASCII digits count.
      assert Epmd.dist_port("app-٤٠٠١@host") == 4370
    end

    test "recognises a temporary node by the whole pattern, not by its first letters" do
      for name <- ["theorem-4001", "rpc-gateway-4001", "remote-4001", "maintenance-4001"],
          do: assert(Epmd.dist_port(name) == 4001)
    end

    for {names, kind} <- [{@without_port, "an impossible"}, {@temporary, "a temporary"}] do
      test "raises an error with the port rule for #{kind} name" do
        for name <- unquote(names), name <- [name, String.to_atom(name), to_charlist(name)] do
          error = assert_raise ArgumentError, fn -> Epmd.dist_port(name) end
          assert error.message =~ @rule
          assert error.message =~ "no distribution port for "
        end
      end
    end

    test "raises an error with the name and the reason" do
      assert_raise ArgumentError, ~r/"app-70000@host"/, fn -> Epmd.dist_port("app-70000@host") end

      assert_raise ArgumentError, ~r/"app-70000@host"/, fn ->
        Epmd.dist_port(:"app-70000@host")
      end

      assert_raise ArgumentError, ~r/over 65535/, fn -> Epmd.dist_port("app-70000@host") end
      assert_raise ArgumentError, ~r/temporary/, fn -> Epmd.dist_port("rpc-1f2e-app@host") end
      assert_raise ArgumentError, ~r/before the @/, fn -> Epmd.dist_port("@host") end
    end

    test "raises ArgumentError with a readable message for a term that is not a name" do
      for name <- [1, 1.5, %{}, {"app"}, [?a | ?b], [:a], [0x110000], <<255, "-70000">>, self()] do
        error = assert_raise ArgumentError, fn -> Epmd.dist_port(name) end
        assert is_binary(error.message) and String.valid?(error.message)
      end
    end
  end

  describe "port_please/2 and /3" do
    test "return port and protocol version for a charlist and an atom" do
      for name <- [~c"app-4001", :"app-4001"], host <- [{127, 0, 0, 1}, ~c"localhost"] do
        assert Epmd.port_please(name, host) == {:port, 4001, 6}
        assert Epmd.port_please(name, host, 5_000) == {:port, 4001, 6}
        assert Epmd.port_please(name, host, :infinity) == {:port, 4001, 6}
      end
    end

    test "return :noport for a name without a port" do
      for name <- @without_port ++ @temporary,
          name <- [to_charlist(name), String.to_atom(name)] do
        assert Epmd.port_please(name, {127, 0, 0, 1}) == :noport
        assert Epmd.port_please(name, {127, 0, 0, 1}, 1_000) == :noport
      end
    end

    test "never raise" do
      for name <- rubbish(), host <- [{127, 0, 0, 1} | rubbish()] do
        answer = Epmd.port_please(name, host)
        assert answer == :noport or match?({:port, port, 6} when port in 1..65_535, answer)
      end
    end
  end

  describe "address_please/3" do
    test "returns address, port and protocol version in one call" do
      assert Epmd.address_please(~c"app-4001", ~c"127.0.0.1", :inet) ==
               {:ok, {127, 0, 0, 1}, 4001, 6}

      assert Epmd.address_please(~c"app-4001", ~c"::1", :inet6) ==
               {:ok, {0, 0, 0, 0, 0, 0, 0, 1}, 4001, 6}
    end

    test "resolves a host name in the address family of the call" do
      # Some machines have no IPv6 address for their name or for localhost.
      {:ok, hostname} = :inet.gethostname()

      for host <- [~c"localhost", hostname], family <- [:inet, :inet6] do
        expected = with {:ok, ip} <- :inet.getaddr(host, family), do: {:ok, ip, 4370, 6}

        assert Epmd.address_please(~c"app", host, family) == expected
      end
    end

    test "accepts an address as the host" do
      assert Epmd.address_please(~c"app-4001", {127, 0, 0, 1}, :inet) ==
               {:ok, {127, 0, 0, 1}, 4001, 6}
    end

    test "returns an error for a host that does not resolve" do
      assert {:error, reason} = Epmd.address_please(~c"app", ~c"nonexistent.invalid", :inet)
      assert is_atom(reason)
      assert {:error, _reason} = Epmd.address_please(~c"app", ~c"nonexistent.invalid", :inet6)
      # The first has a number over 255, the second is of the other family.
      assert {:error, _reason} = Epmd.address_please(~c"app", ~c"1.2.3.400", :inet)
      assert {:error, _reason} = Epmd.address_please(~c"app", ~c"::1", :inet)
    end

    test "returns an error for a name without a port" do
      for name <- @without_port ++ @temporary, family <- [:inet, :inet6] do
        assert {:error, _reason} = Epmd.address_please(to_charlist(name), ~c"127.0.0.1", family)
      end
    end

    test "never raises" do
      # An exception in net_kernel would end the distribution of a running node.
      hosts = [~c"127.0.0.1", ~c"::1" | rubbish()]

      for name <- [~c"app-4001" | rubbish()],
          host <- hosts,
          family <- [:inet, :inet6, :local, 7] do
        case Epmd.address_please(name, host, family) do
          {:ok, ip, port, 6} -> assert is_tuple(ip) and port in 1..65_535
          {:error, _reason} -> :ok
        end
      end
    end
  end

  describe "listen_port_please/2" do
    test "returns the port of the name" do
      port = Host.free_port()
      assert Epmd.listen_port_please(:"app-#{port}", ~c"127.0.0.1") == {:ok, port}
      assert Epmd.listen_port_please(~c"app-#{port}", ~c"127.0.0.1") == {:ok, port}
    end

    test "leaves that port free" do
      port = Host.free_port()
      assert {:ok, ^port} = Epmd.listen_port_please(:"app-#{port}", ~c"127.0.0.1")
      assert {:ok, socket} = :gen_tcp.listen(port, [])
      :gen_tcp.close(socket)
    end

    test "returns 0, for any free port, for a temporary node" do
      for name <- @temporary do
        name = name |> String.split("@") |> hd()
        assert Epmd.listen_port_please(String.to_atom(name), ~c"127.0.0.1") == {:ok, 0}
      end
    end

    test "raises in a running VM for a name without a port" do
      error = assert_raise ErlangError, fn -> Epmd.listen_port_please(:"app-70000", ~c"h") end
      assert {:caravan, "caravan: no distribution port for \"app-70000\"" <> _} = error.original
    end

    test "raises in a running VM for a port in use, with the port and the name" do
      port = Host.free_port()
      {:ok, socket} = :gen_tcp.listen(port, [])

      error = assert_raise ErlangError, fn -> Epmd.listen_port_please(:"app-#{port}", ~c"h") end
      assert {:caravan, line} = error.original
      assert line =~ "node \"app-#{port}\" cannot listen on port #{port}: "
      assert line =~ "another node"
      refute line =~ "\n"

      :gen_tcp.close(socket)
      assert {:ok, ^port} = Epmd.listen_port_please(:"app-#{port}", ~c"h")
    end
  end

  describe "in another VM" do
    setup do
      {:ok, node: PeerNode.start!()}
    end

    test "start_link/0 starts no process", %{node: node} do
      assert PeerNode.call(node, Epmd, :start_link, []) == :ignore
      assert PeerNode.call(node, Epmd, :start_link, []) == :ignore
    end

    test "register_node/2 and /3 leave the creation to the VM", %{node: node} do
      for {name, driver} <- [{:a, :inet}, {:b, :inet6}, {:c, :inet_tcp}, {:d, :inet6_tcp}] do
        assert PeerNode.call(node, Epmd, :register_node, [name, 4001, driver]) == {:ok, -1}
        assert PeerNode.call(node, Epmd, :register_node, [name, 4001]) == {:ok, -1}
      end
    end

    test "names/0 and /1 return for each way to name a host", %{node: node} do
      assert PeerNode.call(node, Epmd, :names, []) == {:ok, []}

      for host <- [~c"localhost", :localhost, {127, 0, 0, 1}, {0, 0, 0, 0, 0, 0, 0, 1}],
          do: assert(PeerNode.call(node, Epmd, :names, [host]) == {:ok, []})

      for host <- [~c"nonexistent.invalid", :"nonexistent.invalid", {192, 0, 2, 77}, ~c""],
          do: assert(PeerNode.call(node, Epmd, :names, [host]) == {:error, :address})
    end

    test "Caravan.Epmd exports every function that OTP may call", %{node: node} do
      for {function, arity} <- [
            start_link: 0,
            listen_port_please: 2,
            register_node: 2,
            register_node: 3,
            address_please: 3,
            port_please: 2,
            port_please: 3,
            names: 0,
            names: 1
          ] do
        PeerNode.call(node, :code, :ensure_loaded, [Epmd])
        assert PeerNode.call(node, :erlang, :function_exported, [Epmd, function, arity])
      end
    end
  end

  defp rubbish do
    [
      [],
      [382, 108, 117, 0x10FFFF],
      [0x110000],
      [0xD800],
      [-1],
      [?a | ?b],
      [:a],
      [[[]]],
      ~c"a\0b-70000",
      List.duplicate(?9, 10_000),
      nil,
      :"",
      <<255, 254>>,
      <<1::1>>,
      7,
      1.5,
      {:a, 1},
      %{},
      self(),
      make_ref()
    ]
  end
end
