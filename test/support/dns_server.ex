defmodule Caravan.Test.DnsServer do
  @moduledoc """
  A scriptable DNS server on loopback, UDP and TCP on the same free port.

      server = start_supervised!(DnsServer)
      DnsServer.put(server, "_app._tcp.test", :srv, [{0, 0, 5101, "node1.test"}])
      DnsServer.put(server, "node1.test", :a, {:sequence, [:servfail, [{127, 0, 0, 1}]]})

  Options: `ip` (default `{127, 0, 0, 1}`), `port` (default 0: a free one) and `answers`, a list of
  `{name, type, reply}`. The bytes are made in `Caravan.Test.DnsServer.Message`.
  """

  use GenServer, restart: :temporary

  alias Caravan.Test.DnsServer.Message

  @type type :: :srv | :a | :aaaa
  @type record :: {0..65_535, 0..65_535, 0..65_535, String.t()} | :inet.ip_address()
  @type query :: %{
          name: String.t(),
          type: atom | 0..65_535,
          transport: :udp | :tcp,
          edns: boolean,
          id: 0..65_535
        }

  @typedoc """
  What is answered to one query.

    * a list of records: NOERROR, TTL 5 s. Over UDP an answer too big for the client comes as an
      empty truncated one, over TCP one too big for DNS is cut to the records that fit, with TC.
    * `:nxdomain` and `:empty` carry no SOA, unless a TTL is given
    * `:cut` ends in the middle of a record; `:wrong_id` and `:wrong_question` are fine otherwise
    * `:truncated` and `:close` close the connection when they are asked over TCP
    * `{:raw, fun}` sends what `fun` returns; the length that TCP wants before it is added
    * `{:sequence, replies}` gives one to each query, so a TCP retry gets the next; the last stays
  """
  @type reply ::
          [record]
          | {[record] | :nxdomain | :empty, ttl: non_neg_integer}
          | {:cname, String.t(), reply}
          | (:nxdomain | :servfail | :refused | :formerr | :notimp | :empty)
          | (:silent | :close | :truncated | :garbage | :cut | :wrong_id | :wrong_question)
          | {:raw, (binary, :udp | :tcp -> iodata | :silent)}
          | {:delay, non_neg_integer, reply}
          | {:sequence, [reply, ...]}
          | {:fun, (query -> reply)}

  defstruct [:ip, :port, :udp, :listener, answers: %{}, log: [], subscribers: []]

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, opts)

  @doc ~S(Where it listens, as nameservers are written: "127.0.0.1:5353", "[::1]:5353".)
  @spec address(GenServer.server()) :: String.t()
  def address(server), do: GenServer.call(server, :address)

  @spec port(GenServer.server()) :: :inet.port_number()
  def port(server), do: GenServer.call(server, :port)

  @doc "Sets what is answered from now on to a name (in any case) and type."
  @spec put(GenServer.server(), String.t(), type, reply) :: :ok
  def put(server, name, type, reply) when type in [:srv, :a, :aaaa],
    do: GenServer.call(server, {:put, {Message.normalize(name), type}, reply})

  @doc "Sets what is answered to everything that was not `put/4`: `:nxdomain` at first."
  @spec put_default(GenServer.server(), reply) :: :ok
  def put_default(server, reply), do: GenServer.call(server, {:put, :default, reply})

  @doc "The queries so far, oldest first."
  @spec queries(GenServer.server()) :: [query]
  def queries(server), do: GenServer.call(server, :queries)

  @doc "Sends `{:dns_query, query}` to the caller for each query, before it is answered."
  @spec subscribe(GenServer.server()) :: :ok
  def subscribe(server), do: GenServer.call(server, :subscribe)

  @doc "Forgets the queries so far; the answers stay."
  @spec reset(GenServer.server()) :: :ok
  def reset(server), do: GenServer.call(server, :reset)

  @impl true
  def init(opts) do
    # Without this there is no terminate/2, and the port stays taken for a moment after the stop.
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

  def handle_info({:EXIT, _acceptor, reason}, state), do: {:stop, reason, state}
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
    # A client that does not read its answers must not hold up the others for ever.
    timeout = [send_timeout: 1_000, send_timeout_close: true]

    {:ok, listener} = :gen_tcp.listen(port, tcp ++ timeout ++ common)
    {:ok, same_port} = :inet.port(listener)

    case :gen_udp.open(same_port, [active: true, recbuf: 1_048_576] ++ common) do
      {:ok, udp} ->
        {udp, listener}

      {:error, :eaddrinuse} when port == 0 and tries > 0 ->
        :gen_tcp.close(listener)
        open(ip, port, tries - 1)
    end
  end

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

  defp answer(message, peer, reply) do
    case Message.answer(message, reply) do
      :silent -> :ok
      :close -> :gen_tcp.close(peer)
      bytes -> transmit(peer, bytes)
    end
  end

  # The client may be gone: the result does not matter.
  defp transmit({socket, ip, port}, bytes), do: :gen_udp.send(socket, ip, port, bytes)
  defp transmit(socket, bytes), do: :gen_tcp.send(socket, bytes)
end

defmodule Caravan.Test.DnsServer.Message do
  @moduledoc false

  # Only make_* functions and accessors of :inet_dns: its records differ between OTP releases.

  @ttl 5
  @rcodes %{formerr: 1, servfail: 2, nxdomain: 3, notimp: 4, refused: 5}
  # What the server says it takes over UDP; RFC 1035's limit for clients without EDNS; then the
  # largest UDP payload over IPv4 and the largest DNS message.
  @own_udp 1232
  @plain_udp 512
  @max_udp 65_507
  @max_tcp 65_535

  @spec normalize(String.t() | charlist) :: String.t()
  def normalize(name),
    do: name |> to_string() |> String.downcase(:ascii) |> String.trim_trailing(".")

  @doc "Reads a query; `:error` for whatever cannot be answered."
  @spec parse(binary, :udp | :tcp) :: {:ok, map} | :error
  def parse(packet, transport) do
    {:ok, decoded} = :inet_dns.decode(packet)
    header = :inet_dns.msg(decoded, :header)
    false = :inet_dns.header(header, :qr)
    [question] = :inet_dns.msg(decoded, :qdlist)
    owner = :inet_dns.dns_query(question, :domain)
    opt = decoded |> :inet_dns.msg(:arlist) |> List.keyfind(:dns_rr_opt, 0)

    query = %{
      name: normalize(owner),
      type: :inet_dns.dns_query(question, :type),
      transport: transport,
      edns: opt != nil,
      id: :inet_dns.header(header, :id)
    }

    message = %{
      query: query,
      packet: packet,
      header: header,
      question: question,
      owner: owner,
      limit: limit(transport, opt)
    }

    # :inet_dns decodes names that it cannot encode: better known before an answer is due.
    _ = encode(message, {0, [], []})
    {:ok, message}
  rescue
    # Not only the matches above: decode/1 itself raises on some packets.
    _ -> :error
  end

  @doc "What is sent for a reply: the server has already dealt with its delay, sequence or function."
  @spec answer(map, Caravan.Test.DnsServer.reply()) :: iodata | :silent | :close
  def answer(message, {:raw, fun}), do: fun.(message.packet, message.query.transport)
  def answer(_message, :silent), do: :silent
  def answer(_message, :garbage), do: :rand.bytes(64)
  def answer(%{query: %{transport: :udp}}, :close), do: :silent
  def answer(%{query: %{transport: :udp}} = message, :truncated), do: truncated(message)
  def answer(_message, reply) when reply in [:close, :truncated], do: :close

  def answer(message, :cut) do
    records = [{0, 0, 4001, "cut1.test"}, {0, 0, 4002, "cut2.test"}]
    # An OPT record comes last and would be cut in place of the answer.
    message = put_in(message.query.edns, false)
    bytes = encode(message, sections(message.owner, records))
    binary_part(bytes, 0, byte_size(bytes) - 5)
  end

  def answer(message, :wrong_id) do
    id = rem(message.query.id + 1, 65_536)
    encode(message, sections(message.owner, sample(message.query.type)), id: id)
  end

  def answer(message, :wrong_question) do
    owner = ~c"wrong-question.test"
    question = :inet_dns.make_dns_query(message.question, domain: owner)
    encode(%{message | question: question}, sections(owner, sample(message.query.type)))
  end

  def answer(message, reply), do: fit(message, sections(message.owner, reply), [])

  defp fit(message, {rcode, answers, authority} = sections, flags) do
    bytes = encode(message, sections, flags)
    size = byte_size(bytes)

    cond do
      size <= message.limit ->
        bytes

      message.query.transport == :udp ->
        truncated(message)

      true ->
        fewer = Enum.take(answers, div(length(answers) * message.limit, size))
        fit(message, {rcode, fewer, authority}, tc: true)
    end
  end

  defp truncated(message), do: encode(message, {0, [], []}, tc: true)

  defp limit(:tcp, _opt), do: @max_tcp
  defp limit(:udp, nil), do: @plain_udp

  defp limit(:udp, opt),
    do: opt |> :inet_dns.rr(:udp_payload_size) |> max(@plain_udp) |> min(@max_udp)

  # {response code, answer records, authority records}
  defp sections(owner, {:cname, target, reply}) do
    target = charlist(target)
    {rcode, answers, authority} = sections(target, reply)
    {rcode, [rr(owner, :cname, @ttl, target) | answers], authority}
  end

  defp sections(owner, {records, ttl: ttl}) when is_list(records),
    do: {0, Enum.map(records, &record(owner, ttl, &1)), []}

  defp sections(owner, {negative, ttl: ttl}) do
    {rcode, [], []} = sections(owner, negative)
    zone = owner |> Enum.drop_while(&(&1 != ?.)) |> Enum.drop(1)
    # RFC 2308: how long the absence may be remembered is the SOA's last field and its TTL.
    {rcode, [], [rr(zone, :soa, ttl, {~c"ns.test", ~c"admin.test", 1, 3600, 600, 86_400, ttl})]}
  end

  defp sections(owner, records) when is_list(records), do: sections(owner, {records, ttl: @ttl})
  defp sections(_owner, :empty), do: {0, [], []}
  defp sections(_owner, code), do: {Map.fetch!(@rcodes, code), [], []}

  defp record(owner, ttl, {priority, weight, port, target}) when is_binary(target),
    do: rr(owner, :srv, ttl, {priority, weight, port, charlist(target)})

  defp record(owner, ttl, ip) when tuple_size(ip) == 4, do: rr(owner, :a, ttl, ip)
  defp record(owner, ttl, ip) when tuple_size(ip) == 8, do: rr(owner, :aaaa, ttl, ip)

  defp rr(owner, type, ttl, data),
    do: :inet_dns.make_rr(domain: owner, type: type, class: :in, ttl: ttl, data: data)

  defp sample(:srv), do: [{0, 0, 4001, "sample.test"}]
  defp sample(:a), do: [{127, 0, 0, 66}]
  defp sample(:aaaa), do: [{0, 0, 0, 0, 0, 0, 0, 1}]
  defp sample(_type), do: []

  defp charlist(name), do: name |> String.trim_trailing(".") |> String.to_charlist()

  defp encode(message, {rcode, answers, authority}, flags \\ []) do
    header = [qr: true, aa: true, ra: true, tc: false, rcode: rcode] ++ flags

    :inet_dns.encode(
      :inet_dns.make_msg(
        header: :inet_dns.make_header(message.header, header),
        qdlist: [message.question],
        anlist: answers,
        nslist: authority,
        arlist: opt(message.query.edns, rcode)
      )
    )
  end

  # FORMERR without OPT is what servers that do not know EDNS answer (RFC 6891, 7).
  defp opt(true, rcode) when rcode != 1,
    do: [:inet_dns.make_rr(type: :opt, domain: ~c".", udp_payload_size: @own_udp)]

  defp opt(_edns, _rcode), do: []
end
