defmodule Caravan.Test.HttpsServer do
  @moduledoc """
  A scriptable HTTPS server (RFC 8484) on loopback, for responses that unbound does not send. It speaks as much HTTP/2
  (RFC 9113) as Caravan's queries need.

      server = start_supervised!({HttpsServer, certificate: {certificate, key}})
      HttpsServer.put(server, fn _query -> {301, [{"location", "/elsewhere"}], ""} end)

  `certificate` and `key` are the paths of PEM files.
  """
  use GenServer, restart: :temporary

  import Bitwise, only: [&&&: 2, |||: 2]

  @ip {127, 0, 0, 1}
  @preface "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

  # Types of frames, and flags.
  @data 0
  @headers 1
  @settings 4
  @end_stream 0x1
  @ack 0x1
  @end_headers 0x4

  @typedoc "With `nil` as the body, the header ends the response."
  @type response :: {status :: 100..599, [{String.t(), String.t()}], body :: binary | nil}

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(options), do: GenServer.start_link(__MODULE__, options)

  @spec port(GenServer.server()) :: :inet.port_number()
  def port(server), do: GenServer.call(server, :port)

  @doc "Sets the function that returns the response to a query, which is a DNS message."
  @spec put(GenServer.server(), (binary -> response)) :: :ok
  def put(server, respond), do: GenServer.call(server, {:put, respond})

  @impl true
  def init(options) do
    # Mix of Elixir 1.15 and later hides the applications of OTP that Caravan does not depend on.
    _ =
      if function_exported?(Mix, :ensure_application!, 1),
        do: apply(Mix, :ensure_application!, [:ssl])

    {:ok, _} = Application.ensure_all_started(:ssl)
    {certificate, key} = Keyword.fetch!(options, :certificate)

    {:ok, listener} =
      ssl().listen(0,
        mode: :binary,
        active: false,
        ip: @ip,
        certfile: certificate,
        keyfile: key,
        alpn_preferred_protocols: ["h2"]
      )

    server = self()
    spawn_link(fn -> accept(listener, server) end)
    {:ok, %{listener: listener, respond: fn _query -> {404, [], nil} end}}
  end

  @impl true
  def handle_call(:port, _from, state) do
    {:ok, {_ip, port}} = ssl().sockname(state.listener)
    {:reply, port, state}
  end

  def handle_call({:put, respond}, _from, state), do: {:reply, :ok, %{state | respond: respond}}
  def handle_call({:respond, query}, _from, state), do: {:reply, state.respond.(query), state}

  # Caravan does not depend on :ssl. So the compilers of Elixir warn of calls if they know the module.
  defp ssl, do: String.to_atom("ssl")

  defp accept(listener, server) do
    {:ok, socket} = ssl().transport_accept(listener)
    # The process is linked, so that it ends with the server.
    pid = spawn_link(fn -> receive(do: (:go -> serve(socket, server))) end)
    # An error means that the client has closed the connection already.
    _ = ssl().controlling_process(socket, pid)
    send(pid, :go)
    accept(listener, server)
  end

  defp serve(socket, server) do
    with {:ok, socket} <- ssl().handshake(socket),
         {:ok, @preface} <- ssl().recv(socket, byte_size(@preface)),
         :ok <- send_frame(socket, @settings, 0, 0, ""),
         do: frames(socket, server)
  end

  defp frames(socket, server) do
    with {:ok, <<size::24, type, flags, stream::32>>} <- ssl().recv(socket, 9),
         {:ok, payload} <- if(size == 0, do: {:ok, ""}, else: ssl().recv(socket, size)),
         :ok <- received(socket, server, type, flags, stream, payload),
         do: frames(socket, server)
  end

  defp received(socket, _server, @settings, flags, _stream, _payload) when (flags &&& @ack) == 0,
    do: send_frame(socket, @settings, @ack, 0, "")

  # The query is so short that it comes in one frame.
  defp received(socket, server, @data, flags, stream, query) when (flags &&& @end_stream) != 0 do
    {status, headers, body} = GenServer.call(server, {:respond, query})
    fields = for {name, value} <- [{":status", "#{status}"} | headers], do: field(name, value)
    last = if body, do: 0, else: @end_stream

    with :ok <- send_frame(socket, @headers, @end_headers ||| last, stream, fields),
         do: if(body, do: send_frame(socket, @data, @end_stream, stream, body), else: :ok)
  end

  defp received(_socket, _server, _type, _flags, _stream, _payload), do: :ok

  # A literal field without indexing and with a new name (RFC 7541, 6.2.2). The length of both is below 127.
  defp field(name, value), do: [0, byte_size(name), name, byte_size(value), value]

  defp send_frame(socket, type, flags, stream, payload) do
    ssl().send(socket, [<<IO.iodata_length(payload)::24, type, flags, stream::32>>, payload])
  end
end
