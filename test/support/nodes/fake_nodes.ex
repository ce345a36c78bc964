defmodule Caravan.Test.FakeNodes do
  @moduledoc """
  Thousands of nodes that cost nothing: one listening socket answers the distribution handshakes for all addresses of
  the loopback network.

      fake = FakeNodes.start!("cookie")
      true = PeerNode.call(node, :net_kernel, :connect_node, [FakeNodes.name(fake, 1)])

  The connection is real for the node that dials: it sees a nodeup, sends ticks, and gets ticks. A fake node dials no
  other node. It drops every message, so a call of one of its processes has no reply.

  The handshake is version 6 of the protocol (OTP 23 and later). Its messages are in the Erlang documentation, ERTS
  User's Guide, "Distribution Protocol".
  """

  @enforce_keys [:pid, :port]
  defstruct @enforce_keys

  @type t :: %__MODULE__{pid: pid, port: :inet.port_number()}

  # Milliseconds that the dialling node may take for its next message of the handshake.
  @handshake_timeout 10_000

  # Connects that wait to be accepted. Linux allows no more by default (net.core.somaxconn).
  @backlog 4_096

  @doc "Starts the fake nodes. They end with the calling process. By default, their port is a free one."
  @spec start!(cookie :: String.t(), :inet.port_number()) :: t
  def start!(cookie, port \\ 0) do
    test = self()
    pid = spawn_link(fn -> listen(test, cookie, port) end)

    receive do
      {^pid, port} -> %__MODULE__{pid: pid, port: port}
    end
  end

  @doc "Returns the address of the fake node with this number, from 127.1.0.0 on."
  @spec address(non_neg_integer) :: :inet.ip4_address()
  def address(number) when number in 0..0xFFFF, do: {127, 1, div(number, 256), rem(number, 256)}

  @doc "Returns the name of the fake node with this number. The name contains the port, so `Caravan.Epmd` finds it."
  @spec name(t, non_neg_integer) :: node
  def name(%__MODULE__{port: port}, number), do: :"#{name_at(address(number), port)}"

  defp name_at(address, port), do: "app-#{port}@#{:inet.ntoa(address)}"

  defp listen(test, cookie, port) do
    options = [:binary, packet: 2, active: false, reuseaddr: true, nodelay: true]
    {:ok, listener} = :gen_tcp.listen(port, [backlog: @backlog] ++ options)
    {:ok, port} = :inet.port(listener)
    send(test, {self(), port})
    accept(listener, cookie)
  end

  defp accept(listener, cookie) do
    {:ok, socket} = :gen_tcp.accept(listener)
    pid = spawn_link(fn -> receive(do: (:start -> serve(socket, cookie))) end)
    # An error means that the dialling node has closed the connection already.
    _ = :gen_tcp.controlling_process(socket, pid)
    send(pid, :start)
    accept(listener, cookie)
  end

  defp serve(socket, cookie) do
    with :ok <- handshake(socket, cookie),
         :ok <- :inet.setopts(socket, packet: 4, active: true),
         do: swallow(socket)
  end

  # The fake node sends back the flags of the dialling node. So the dialling node never refuses it for a missing flag.
  defp handshake(socket, cookie) do
    with {:ok, <<?N, flags::64, _creation::32, _name_and_length::binary>>} <-
           receive_from(socket),
         {:ok, {address, port}} <- :inet.sockname(socket),
         name = name_at(address, port),
         challenge = :rand.uniform(0xFFFF_FFFF),
         :ok <- :gen_tcp.send(socket, "sok"),
         :ok <-
           :gen_tcp.send(
             socket,
             <<?N, flags::64, challenge::32, 1::32, byte_size(name)::16, name::binary>>
           ),
         {:ok, <<?r, their_challenge::32, digest::binary-16>>} <- receive_from(socket),
         ^digest <- digest(cookie, challenge),
         do: :gen_tcp.send(socket, [?a, digest(cookie, their_challenge)])
  end

  defp receive_from(socket), do: :gen_tcp.recv(socket, 0, @handshake_timeout)

  defp digest(cookie, challenge), do: :erlang.md5([cookie, Integer.to_string(challenge)])

  # An empty packet is a tick.
  defp swallow(socket) do
    receive do
      {:tcp, ^socket, ""} ->
        _ = :gen_tcp.send(socket, "")
        swallow(socket)

      {:tcp, ^socket, _message} ->
        swallow(socket)

      {:tcp_closed, ^socket} ->
        :ok

      {:tcp_error, ^socket, _reason} ->
        :ok
    end
  end
end
