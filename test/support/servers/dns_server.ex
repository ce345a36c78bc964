defmodule Caravan.Test.DnsServer do
  @moduledoc """
  A scriptable nameserver on loopback, with UDP and TCP on the same free port.

      server = start_supervised!(DnsServer)
      DnsServer.put(server, "_app._tcp.test", :srv, [{0, 0, 5101, "node1.test"}])
      DnsServer.put(server, "node1.test", :a, {:sequence, [:servfail, [{127, 0, 0, 1}]]})

  Options: `ip` (by default `{127, 0, 0, 1}`), `port` (by default a free one) and `answers`, a list of
  `{name, type, reply}`. `Caravan.Test.DnsServer.Message` encodes the responses.
  """

  use GenServer, restart: :temporary

  alias Caravan.Test.DnsServer.Message

  @type type :: :srv | :a | :aaaa
  @type dns_record :: {0..65_535, 0..65_535, 0..65_535, String.t()} | :inet.ip_address()
  @typedoc """
  One query. `name` is in lower case, and `asked` is the name as the client wrote it. `payload` is the
  UDP payload size that the client offers (EDNS; `nil` without it). `dnssec` is its DO bit. `ip` and `port` are the
  client's.
  """
  @type query :: %{
          name: String.t(),
          asked: String.t(),
          type: atom | 0..65_535,
          transport: :udp | :tcp,
          edns: boolean,
          payload: 0..65_535 | nil,
          dnssec: boolean,
          id: 0..65_535,
          ip: :inet.ip_address(),
          port: :inet.port_number()
        }

  @typedoc """
  The reply to one query.

    * A list of records is NOERROR with a TTL of 5 seconds. Over UDP, an answer too big for the client becomes
      an empty truncated answer. Over TCP, an answer too big for DNS has the records that fit, and TC.
    * With `:additional`, the answer has the addresses of these hosts in its additional section.
    * `:nxdomain` and `:empty` have an SOA record only if a TTL is given.
    * `:cut` ends in the middle of a record. `:wrong_id` and `:wrong_question` are valid otherwise.
    * `:truncated` and `:close` close the connection if the query came over TCP.
    * `{:raw, fun}` sends the bytes that `fun` returns. Over TCP, the length is added before them.
      `Caravan.Test.DnsServer.Wire` makes messages that `:inet_dns` cannot make.
    * `{:each, replies}` sends all of them.
    * `{:other_port, reply}` comes from another UDP port than the one that got the query.
    * `{:stream, fun}` sends over TCP what `fun` returns: a list of bytes, of milliseconds to wait and of `:close`.
      No length is added. Over UDP, it is `:truncated`.
    * `{:sequence, replies}` gives one reply to each query, so a retry over TCP gets the next one. The last reply
      stays. A sequence cannot be inside another reply.
  """
  @type reply ::
          [dns_record]
          | {[dns_record] | :nxdomain | :empty, ttl: non_neg_integer}
          | {[dns_record], ttl: non_neg_integer, additional: [{String.t(), :inet.ip_address()}]}
          | {:cname, String.t(), reply}
          | (:nxdomain | :servfail | :refused | :formerr | :notimp | :empty)
          | (:silent | :close | :truncated | :garbage | :cut | :wrong_id | :wrong_question)
          | {:raw, (binary, :udp | :tcp -> iodata | :silent)}
          | {:each, [reply]}
          | {:other_port, reply}
          | {:stream, (binary -> [iodata | non_neg_integer | :close])}
          | {:delay, non_neg_integer, reply}
          | {:sequence, [reply, ...]}
          | {:fun, (query -> reply)}

  defstruct [:ip, :port, :udp, :listener, answers: %{}, log: [], subscribers: []]

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, opts)

  @doc ~S(Returns the address and port in the form of the option `:nameservers`: "127.0.0.1:5353", "[::1]:5353".)
  @spec address(GenServer.server()) :: String.t()
  def address(server), do: GenServer.call(server, :address)

  @spec port(GenServer.server()) :: :inet.port_number()
  def port(server), do: GenServer.call(server, :port)

  @doc "Sets the reply to a name (in any case) and type."
  @spec put(GenServer.server(), String.t(), type, reply) :: :ok
  def put(server, name, type, reply) when type in [:srv, :a, :aaaa],
    do: GenServer.call(server, {:put, {Message.normalize(name), type}, reply})

  @doc "Sets the reply to all other queries. At first it is `:nxdomain`."
  @spec put_default(GenServer.server(), reply) :: :ok
  def put_default(server, reply), do: GenServer.call(server, {:put, :default, reply})

  @doc "Returns the queries so far, oldest first."
  @spec queries(GenServer.server()) :: [query]
  def queries(server), do: GenServer.call(server, :queries)

  @doc "Sends `{:dns_query, query}` to the caller for each query, before it is answered."
  @spec subscribe(GenServer.server()) :: :ok
  def subscribe(server), do: GenServer.call(server, :subscribe)

  @doc "Forgets the queries so far. The replies stay."
  @spec reset(GenServer.server()) :: :ok
  def reset(server), do: GenServer.call(server, :reset)

  @impl true
  def init(opts) do
    # Without trap_exit, terminate/2 is not called, and the port stays in use for a moment after the stop.
    Process.flag(:trap_exit, true)
    ip = Keyword.get(opts, :ip, {127, 0, 0, 1})
    {udp, listener} = open(ip, Keyword.get(opts, :port, 0), 20)
    {:ok, port} = :inet.port(listener)
    server = self()
    spawn_link(fn -> accept(listener, server) end)

    answers =
      for {name, type, reply} <- Keyword.get(opts, :answers, []),
          into: %{default: :nxdomain},
          do: {{Message.normalize(name), type}, reply}

    {:ok, %__MODULE__{ip: ip, port: port, udp: udp, listener: listener, answers: answers}}
  end

  @impl true
  def handle_call(:address, _from, state) do
    host = :inet.ntoa(state.ip)
    host = if tuple_size(state.ip) == 8, do: "[#{host}]", else: host
    {:reply, "#{host}:#{state.port}", state}
  end

  def handle_call(:port, _from, state), do: {:reply, state.port, state}
  def handle_call(:queries, _from, state), do: {:reply, Enum.reverse(state.log), state}
  def handle_call(:reset, _from, state), do: {:reply, :ok, %{state | log: []}}

  def handle_call({:put, key, reply}, _from, state),
    do: {:reply, :ok, %{state | answers: Map.put(state.answers, key, reply)}}

  def handle_call(:subscribe, {pid, _tag}, state),
    do: {:reply, :ok, %{state | subscribers: Enum.uniq([pid | state.subscribers])}}

  @impl true
  def handle_info({:udp, socket, ip, port, packet}, state),
    do: {:noreply, received(packet, :udp, {socket, ip, port}, state)}

  def handle_info({:tcp, socket, packet}, state),
    do: {:noreply, received(packet, :tcp, socket, state)}

  def handle_info({:accepted, socket}, state) do
    :inet.setopts(socket, active: true)
    {:noreply, state}
  end

  def handle_info({:delayed, message, peer, reply}, state) do
    answer(message, peer, reply)
    {:noreply, state}
  end

  def handle_info({:EXIT, pid, :normal}, state) when is_pid(pid), do: {:noreply, state}
  def handle_info({:EXIT, pid, reason}, state) when is_pid(pid), do: {:stop, reason, state}
  def handle_info({:EXIT, _socket, _reason}, state), do: {:noreply, state}
  def handle_info({:tcp_closed, _socket}, state), do: {:noreply, state}
  def handle_info({:tcp_error, _socket, _reason}, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    :gen_udp.close(state.udp)
    :gen_tcp.close(state.listener)
  end

  defp open(ip, port, tries) do
    family = if tuple_size(ip) == 8, do: [:inet6], else: [:inet]
    common = [:binary, ip: ip] ++ family
    tcp = [packet: 2, active: false, reuseaddr: true, backlog: 128, nodelay: true]
    # Without a timeout, a client that does not read its answers would block all others.
    timeout = [send_timeout: 1_000, send_timeout_close: true]

    {:ok, listener} = :gen_tcp.listen(port, tcp ++ timeout ++ common)
    {:ok, same_port} = :inet.port(listener)

    with true <- port != 0 or first_time?(same_port),
         {:ok, udp} <- :gen_udp.open(same_port, [active: true, recbuf: 1_048_576] ++ common) do
      {udp, listener}
    else
      taken when taken in [false, {:error, :eaddrinuse}] and port == 0 and tries > 0 ->
        :gen_tcp.close(listener)
        open(ip, port, tries - 1)
    end
  end

  # Returns whether no server of an earlier test has had this port. Caravan may still remember that a question to such a
  # server needs TCP.
  defp first_time?(port), do: :ets.insert_new(__MODULE__, {port})

  defp accept(listener, server) do
    case :gen_tcp.accept(listener) do
      {:ok, socket} ->
        with :ok <- :gen_tcp.controlling_process(socket, server),
             do: send(server, {:accepted, socket})

        accept(listener, server)

      {:error, :econnaborted} ->
        accept(listener, server)

      {:error, :closed} ->
        :ok
    end
  end

  defp received(packet, transport, peer, state) do
    case Message.parse(packet, transport) do
      {:ok, message} ->
        {ip, port} = client(peer)
        message = update_in(message.query, &Map.merge(&1, %{ip: ip, port: port}))
        for pid <- state.subscribers, do: send(pid, {:dns_query, message.query})
        {reply, state} = scripted(message.query, state)
        answer(message, peer, reply)
        %{state | log: [message.query | state.log]}

      :error ->
        state
    end
  end

  defp scripted(%{name: name, type: type}, %{answers: answers} = state) do
    key = if is_map_key(answers, {name, type}), do: {name, type}, else: :default
    {now, later} = step(Map.fetch!(answers, key))
    {now, %{state | answers: %{answers | key => later}}}
  end

  defp step({:sequence, [last]}), do: {last, last}
  defp step({:sequence, [now | later]}), do: {now, {:sequence, later}}
  defp step(reply), do: {reply, reply}

  defp answer(message, peer, {:delay, ms, reply}),
    do: Process.send_after(self(), {:delayed, message, peer, reply}, ms)

  defp answer(message, peer, {:fun, fun}), do: answer(message, peer, fun.(message.query))

  defp answer(message, peer, {:each, replies}), do: Enum.each(replies, &answer(message, peer, &1))

  defp answer(message, {_socket, ip, port}, {:other_port, reply}) do
    family = if tuple_size(ip) == 8, do: :inet6, else: :inet
    {:ok, other} = :gen_udp.open(0, [:binary, family, ip: ip])
    answer(message, {other, ip, port}, reply)
    :gen_udp.close(other)
  end

  defp answer(message, peer, {:stream, fun}) do
    cond do
      message.query.transport == :udp ->
        answer(message, peer, :truncated)

      # Only the first query of a connection gets a stream. A second stream would mix with the first.
      :inet.getopts(peer, [:packet]) == {:ok, packet: 2} ->
        steps = fun.(message.packet)
        :inet.setopts(peer, packet: :raw, active: false)
        # A separate process waits, so that the server can answer other clients.
        spawn_link(fn -> Enum.each(steps, &stream(peer, &1)) end)

      true ->
        :ok
    end
  end

  defp answer(message, peer, reply) do
    case Message.answer(message, reply) do
      :silent -> :ok
      :close -> :gen_tcp.close(peer)
      bytes -> transmit(peer, bytes)
    end
  end

  defp stream(_socket, wait) when is_integer(wait), do: Process.sleep(wait)
  defp stream(socket, :close), do: :gen_tcp.close(socket)
  defp stream(socket, bytes), do: :gen_tcp.send(socket, bytes)

  defp client({_socket, ip, port}), do: {ip, port}

  defp client(socket) do
    case :inet.peername(socket) do
      {:ok, client} -> client
      {:error, _gone} -> {nil, nil}
    end
  end

  # The result does not matter, because the client may have gone.
  defp transmit({socket, ip, port}, bytes), do: :gen_udp.send(socket, ip, port, bytes)
  defp transmit(socket, bytes), do: :gen_tcp.send(socket, bytes)
end
