defmodule Caravan.Test.DnsServer.Message do
  @moduledoc false

  # Uses only the make_* functions and accessors of :inet_dns, and the tag :dns_rr_opt, because the fields of its records
  # differ between OTP releases.

  @ttl 5
  @rcodes %{formerr: 1, servfail: 2, nxdomain: 3, notimp: 4, refused: 5}
  # Octets: the UDP payload size that the server offers, the limit of RFC 1035 for clients without EDNS, the
  # largest UDP payload over IPv4, and the largest DNS message.
  @own_udp 1232
  @plain_udp 512
  @max_udp 65_507
  @max_tcp 65_535

  alias Caravan.Test.DnsServer.Wire

  @spec normalize(String.t() | charlist) :: String.t()
  def normalize(name),
    do: name |> to_string() |> String.downcase(:ascii) |> String.trim_trailing(".")

  @doc "Decodes a query. Returns `:error` if the packet is not a query that can be answered."
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
      asked: packet |> Wire.labels() |> Enum.join("."),
      payload: opt && :inet_dns.rr(opt, :udp_payload_size),
      dnssec: Wire.dnssec?(packet),
      id: :inet_dns.header(header, :id)
    }

    message = %{
      query: query,
      packet: packet,
      header: header,
      question: question,
      owner: owner,
      additional: [],
      limit: limit(transport, opt)
    }

    # :inet_dns decodes some names that it cannot encode. Such a name gives `:error` here, and answer/2
    # does not raise later.
    _ = encode(message, {0, [], []})
    {:ok, message}
  rescue
    # Besides the matches above, decode/1 itself raises on some packets.
    _ -> :error
  end

  @doc "Encodes a reply. The server has already resolved delays, sequences and functions."
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

  def answer(message, {records, ttl: ttl, additional: hosts}) do
    additional = for {name, ip} <- hosts, do: record(charlist(name), ttl, ip)
    answer(%{message | additional: additional}, {records, ttl: ttl})
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

  defp truncated(message), do: encode(%{message | additional: []}, {0, [], []}, tc: true)

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

    # RFC 2308: a negative answer is cached for the TTL of the SOA record or for its last field, whichever is shorter.
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
        arlist: message.additional ++ opt(message.query.edns, rcode)
      )
    )
  end

  # A server that does not know EDNS answers FORMERR without an OPT record (RFC 6891, 7).
  defp opt(true, rcode) when rcode != 1,
    do: [:inet_dns.make_rr(type: :opt, domain: ~c".", udp_payload_size: @own_udp)]

  defp opt(_edns, _rcode), do: []
end
