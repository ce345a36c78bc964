defmodule Caravan.Cluster.Distribution.HandshakeTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Distribution.Handshake
  alias Caravan.Test.Cluster
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Witness

  @loopback {127, 0, 0, 1}

  # A server that sends these bytes to the first client after its first message, and then does `then`: it closes the
  # connection, hangs, or does the same again with the next client.
  defp serve(bytes, then \\ :close) do
    {:ok, listener} = :gen_tcp.listen(0, [:binary, active: false, ip: @loopback])
    {:ok, port} = :inet.port(listener)

    start_supervised!(
      {Task,
       fn ->
         for _ <- if(then == :again, do: 1..2, else: [1]) do
           {:ok, socket} = :gen_tcp.accept(listener)
           {:ok, _name} = :gen_tcp.recv(socket, 0)
           _ = :gen_tcp.send(socket, bytes)
           if then == :hang, do: Process.sleep(:infinity)
           :gen_tcp.close(socket)
         end
       end},
      id: make_ref()
    )

    {:inet, @loopback, port}
  end

  defp ask(node, where, cookie \\ nil),
    do: patiently(fn -> ask_once(node, where, cookie) end)

  defp ask_once(node, where, cookie \\ nil),
    do: PeerNode.call(node, Handshake, :ask, [where, "127.0.0.1", cookie])

  # On a busy machine, a node may need longer for a reply than a handshake waits.
  defp patiently(ask, tries \\ 10) do
    case ask.() do
      {:error, :silent} when tries > 1 -> patiently(ask, tries - 1)
      other -> other
    end
  end

  defp where(node), do: {:inet, @loopback, PeerNode.port(node)}

  defp packet(message), do: <<byte_size(message)::16, message::binary>>

  describe "a node" do
    test "says its name, logs nothing, has no nodeup, and makes at most 64 atoms" do
      node = PeerNode.start!(name: PeerNode.name("app"))
      asker = PeerNode.start!(name: PeerNode.name("asker"))
      log = Cluster.log_of(node, :notice)
      :ok = PeerNode.call(node, Witness, :start, [])
      name = Atom.to_string(node.name)

      assert {:ok, %{name: ^name, missing_flags: 0, cookie: nil}} = ask(asker, where(node))
      atoms = fn -> PeerNode.call(node, :erlang, :system_info, [:atom_count]) end
      before = atoms.()
      for _ <- 1..300, do: {:ok, %{name: ^name}} = ask(asker, where(node))
      assert atoms.() - before <= 64
      assert log.() == ""
      assert PeerNode.call(node, :erlang, :nodes, [:connected]) == []
      assert PeerNode.call(node, Witness, :report, []).ups == []
    end

    test "can be asked by 40 processes at the same time, and while it is connected" do
      node = PeerNode.start!(name: PeerNode.name("app"))
      asker = PeerNode.start!(name: PeerNode.name("asker"))
      assert PeerNode.call(asker, :net_kernel, :connect_node, [node.name])

      code = """
      1..40
      |> Task.async_stream(fn _ -> Caravan.Cluster.Distribution.Handshake.ask(where, "127.0.0.1") end, max_concurrency: 40, timeout: :infinity)
      |> Enum.frequencies_by(fn {:ok, result} -> elem(result, 0) end)
      """

      assert PeerNode.eval(asker, code, where: where(node)) == %{ok: 40}
      assert PeerNode.call(asker, :erlang, :nodes, []) == [node.name]
    end

    test "accepts the right cookie without a line in its log, and refuses a wrong one" do
      node = PeerNode.start!(name: PeerNode.name("app"))
      asker = PeerNode.start!(name: PeerNode.name("asker"))
      log = Cluster.log_of(node, :notice)
      :ok = PeerNode.call(node, Witness, :start, [])
      name = Atom.to_string(node.name)

      assert {:ok, %{name: ^name, cookie: :accepted}} = ask(asker, where(node), "caravan_test")

      Host.await(
        fn -> PeerNode.call(node, :erlang, :nodes, [:hidden]) == [] end,
        "no hidden node"
      )

      assert log.() == ""
      # OTP's global and the application would get a nodeup of a visible node.
      assert PeerNode.call(node, Witness, :report, []).ups == []

      assert {:error, {:cookie, %{name: ^name}}} = ask(asker, where(node), "wrong")
      assert log.() =~ "rejected"
      assert PeerNode.call(asker, :erlang, :nodes, [:connected]) == []
    end

    test "over TLS is recognised" do
      node = PeerNode.start!(name: PeerNode.name("app"), args: PeerNode.tls_args())
      asker = PeerNode.start!(name: PeerNode.name("asker"))
      assert ask(asker, where(node)) == {:error, :tls}
    end

    test "says the same over TLS, logs nothing, and has no nodeup" do
      tls = PeerNode.tls_args()
      node = PeerNode.start!(name: PeerNode.name("app"), args: tls)
      asker = PeerNode.start!(name: PeerNode.name("asker"), args: tls)
      log = Cluster.log_of(node, :notice)
      :ok = PeerNode.call(node, Witness, :start, [])
      name = Atom.to_string(node.name)

      ask = fn peer_host, cookie ->
        arguments = [where(node), "127.0.0.1", peer_host, cookie]
        patiently(fn -> PeerNode.call(asker, Handshake, :ask_over_tls, arguments) end)
      end

      assert {:ok, %{name: ^name, missing_flags: 0, cookie: nil}} = ask.("127.0.0.1", nil)
      assert {:ok, %{name: ^name, cookie: :accepted}} = ask.("127.0.0.1", "caravan_test")
      Host.await(fn -> PeerNode.call(node, :erlang, :nodes, [:hidden]) == [] end, "no node")
      assert log.() == ""
      assert PeerNode.call(node, Witness, :report, []).ups == []

      assert {:error, {:cookie, %{name: ^name}}} = ask.("127.0.0.1", "wrong")
      assert log.() =~ "rejected"

      # The certificate is for 127.0.0.1.
      assert {:error, {:tls_alert, "TLS client: " <> _}} = ask.("other.test", nil)
      assert PeerNode.call(asker, :erlang, :nodes, [:connected]) == []
    end

    test "without TLS is recognised over TLS, and a port that nothing listens on too" do
      node = PeerNode.start!(name: PeerNode.name("app"))
      asker = PeerNode.start!(name: PeerNode.name("asker"), args: PeerNode.tls_args())
      ask = &PeerNode.call(asker, Handshake, :ask_over_tls, [&1, "127.0.0.1", "127.0.0.1", nil])
      assert ask.(where(node)) == {:error, :no_tls}
      closed = {:inet, @loopback, Host.free_port()}
      assert ask.(closed) == {:error, {:connect, :econnrefused}}

      assert {:error, {:other_protocol, "HTTP" <> _}} =
               ask.(serve("HTTP/1.1 400 Bad Request", :again))
    end

    test "that is stopped is silent" do
      node = PeerNode.start!(name: PeerNode.name("app"))
      asker = PeerNode.start!(name: PeerNode.name("asker"))
      Host.suspend(node.os_pid)
      assert ask_once(asker, where(node)) == {:error, :silent}
    end
  end

  describe "another program" do
    test "that refuses, closes or sends nothing is an error" do
      closed = {:inet, @loopback, Host.free_port()}
      assert Handshake.ask(closed, "h") == {:error, {:connect, :econnrefused}}
      assert Handshake.ask(serve(""), "h") == {:error, :closed}
      assert Handshake.ask(serve("", :hang), "h") == {:error, :silent}
    end

    test "that speaks another protocol is shown by its first bytes" do
      http = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
      first = binary_part(http, 0, 32)
      assert Handshake.ask(serve(http), "h") == {:error, {:other_protocol, first}}

      assert Handshake.ask(serve("SSH-2.0-x\n", :hang), "h") ==
               {:error, {:other_protocol, "SSH-2.0-x\n"}}

      assert Handshake.ask(serve(<<0>>), "h") == {:error, {:other_protocol, <<0>>}}

      assert {:error, {:other_protocol, bytes}} =
               Handshake.ask(serve(:rand.bytes(1_048_576)), "h")

      assert byte_size(bytes) == 32
    end

    test "that begins a handshake and does not end it is an error" do
      assert Handshake.ask(serve(packet("sok"), :hang), "h") == {:error, :silent}
      assert Handshake.ask(serve(packet("sok")), "h") == {:error, :closed}

      assert {:error, {:other_protocol, _}} =
               Handshake.ask(serve(packet("sok") <> packet("x")), "h")

      assert Handshake.ask(serve(packet("snot_allowed")), "h") ==
               {:error, {:status, "not_allowed"}}
    end

    test "whose challenge has a name of 64 KiB speaks another protocol" do
      name = :binary.copy("a", 65_000)
      challenge = <<?N, 0::64, 0::32, 0::32, byte_size(name)::16, name::binary>>
      where = serve(packet("sok") <> packet(challenge))
      assert {:error, {:other_protocol, _}} = Handshake.ask(where, "h")
    end
  end

  test "no input crashes the reader or makes an atom" do
    :rand.seed(:exsss, {1, 2, 3})
    challenge = packet(<<?N, 1::64, 2::32, 3::32, 5::16, "a@b.c">>)

    valid = [
      packet("sok"),
      challenge,
      packet(<<?n, 5::16, 1::32, 2::32, "a@b">>),
      packet(<<?a, 0::128>>)
    ]

    parsers = [&Handshake.parse_status/1, &Handshake.parse_challenge/1, &Handshake.parse_ack/1]
    for input <- valid, parse <- parsers, do: parse.(input)
    before = :erlang.system_info(:atom_count)

    for _ <- 1..1_000_000 do
      input = mutate(Enum.random(valid), :rand.uniform(4))

      for parse <- parsers do
        case parse.(input) do
          {:ok, _message, rest} -> assert is_binary(rest)
          other -> assert other in [:more, :other_protocol]
        end
      end
    end

    # Other tests in this VM may make some atoms meanwhile.
    assert :erlang.system_info(:atom_count) - before < 10_000
  end

  defp mutate(input, 1), do: :rand.bytes(:rand.uniform(40)) <> input
  defp mutate(input, 2), do: binary_part(input, 0, :rand.uniform(byte_size(input)))

  defp mutate(input, _count) do
    at = :rand.uniform(byte_size(input)) - 1
    tail = binary_part(input, at + 1, byte_size(input) - at - 1)
    binary_part(input, 0, at) <> :rand.bytes(1) <> tail
  end
end
