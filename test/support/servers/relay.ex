defmodule Caravan.Test.Relay do
  @moduledoc """
  Relays TCP connections to a port on loopback.

      relay = start_supervised!({Relay, Unbound.ports(unbound).tls})
      Relay.port(relay)
      Relay.freeze(relay)

  After `freeze/1`, a client sees the same as after the host of the server has vanished: the connections stay open, and
  nothing comes over them any more. Later connections work.
  """
  use GenServer, restart: :temporary

  @ip {127, 0, 0, 1}
  @options [:binary, active: false, nodelay: true]

  defstruct [:listener, :target, other: %{}, frozen: []]

  @spec start_link(:inet.port_number()) :: GenServer.on_start()
  def start_link(target), do: GenServer.start_link(__MODULE__, target)

  @spec port(GenServer.server()) :: :inet.port_number()
  def port(relay), do: GenServer.call(relay, :port)

  @doc "Relays nothing more over the present connections, and leaves them open. Returns the number of these connections."
  @spec freeze(GenServer.server()) :: non_neg_integer
  def freeze(relay), do: GenServer.call(relay, :freeze)

  @impl true
  def init(target) do
    {:ok, listener} = :gen_tcp.listen(0, [ip: @ip, backlog: 128] ++ @options)
    relay = self()
    spawn_link(fn -> accept(listener, relay) end)
    {:ok, %__MODULE__{listener: listener, target: target}}
  end

  @impl true
  def handle_call(:port, _from, state) do
    {:ok, port} = :inet.port(state.listener)
    {:reply, port, state}
  end

  def handle_call(:freeze, _from, state) do
    sockets = Map.keys(state.other)
    Enum.each(sockets, &:inet.setopts(&1, active: false))
    {:reply, div(length(sockets), 2), %{state | other: %{}, frozen: sockets ++ state.frozen}}
  end

  @impl true
  def handle_info({:accepted, client}, state) do
    {:ok, server} = :gen_tcp.connect(@ip, state.target, @options)
    for socket <- [client, server], do: :inet.setopts(socket, active: true)
    other = Map.merge(state.other, %{client => server, server => client})
    {:noreply, %{state | other: other}}
  end

  def handle_info({:tcp, socket, bytes}, state) do
    with {:ok, other} <- Map.fetch(state.other, socket), do: :gen_tcp.send(other, bytes)
    {:noreply, state}
  end

  def handle_info({:tcp_closed, socket}, state) do
    {other, rest} = Map.pop(state.other, socket)
    if other, do: :gen_tcp.close(other)
    {:noreply, %{state | other: Map.delete(rest, other)}}
  end

  def handle_info({:tcp_error, _socket, _reason}, state), do: {:noreply, state}

  defp accept(listener, relay) do
    {:ok, socket} = :gen_tcp.accept(listener)
    :ok = :gen_tcp.controlling_process(socket, relay)
    send(relay, {:accepted, socket})
    accept(listener, relay)
  end
end
