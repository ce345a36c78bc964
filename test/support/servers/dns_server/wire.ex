defmodule Caravan.Test.DnsServer.Wire do
  @moduledoc """
  DNS messages byte by byte (RFC 1035, 4.1), for messages that an encoder does not make.
  """

  @types %{a: 1, ns: 2, cname: 5, soa: 6, txt: 16, aaaa: 28, srv: 33}
  # A compression pointer to the name in the question, which follows the header.
  @question <<0xC00C::16>>

  @typedoc "A name: a pointer to the name of the question, a list of labels, or bytes as they are."
  @type name :: :question | [binary] | {:bytes, binary}

  @doc """
  Returns a response to a query with one question. Options: `:answers`, `:authority` and `:additional` (lists of
  records), `:id`, `:flags` (16 bits; by default a response with recursion available), `:question` (bytes) and
  `:counts`, which replaces the true numbers of records of the four sections in the header.
  """
  @spec response(binary, keyword) :: binary
  def response(query, opts) do
    <<id::16, _::binary>> = query
    sections = for name <- [:answers, :authority, :additional], do: Keyword.get(opts, name, [])
    counts = opts[:counts] || [1 | Enum.map(sections, &length/1)]
    header = for number <- [opts[:id] || id, opts[:flags] || 0x8180 | counts], do: <<number::16>>
    IO.iodata_to_binary([header, opts[:question] || question(query), sections])
  end

  @doc "Returns the bytes of the question of a query."
  @spec question(binary) :: binary
  def question(<<_header::binary-size(12), rest::binary>>),
    do: binary_part(rest, 0, name_size(rest) + 4)

  @doc "Returns the labels of the name in a query, in upper and lower case as the client wrote them."
  @spec labels(binary) :: [binary]
  def labels(<<_header::binary-size(12), rest::binary>>), do: split(rest)

  @doc "Returns whether a query has the DO bit (RFC 3225). Its OPT record must follow the question."
  @spec dnssec?(binary) :: boolean
  def dnssec?(<<_header::binary-size(12), rest::binary>>) do
    case binary_part(rest, name_size(rest) + 4, byte_size(rest) - name_size(rest) - 4) do
      <<0, 41::16, _payload::16, _code, _version, dnssec::1, _::bitstring>> -> dnssec == 1
      _ -> false
    end
  end

  @doc "Returns the bytes of a record with the given data."
  @spec record(name, atom, iodata, non_neg_integer) :: binary
  def record(owner, type, data, ttl \\ 5) do
    data = IO.iodata_to_binary(data)
    <<name(owner)::binary, @types[type]::16, 1::16, ttl::32, byte_size(data)::16, data::binary>>
  end

  @spec a(name, :inet.ip4_address()) :: binary
  def a(owner, {a, b, c, d}), do: record(owner, :a, <<a, b, c, d>>)

  @spec cname(name, name) :: binary
  def cname(owner, target), do: record(owner, :cname, name(target))

  @spec srv(name, :inet.port_number(), name) :: binary
  def srv(owner, port, target),
    do: record(owner, :srv, [<<0::16, 0::16, port::16>>, name(target)])

  @spec name(name) :: binary
  def name(:question), do: @question
  def name({:bytes, bytes}), do: bytes
  def name(labels), do: IO.iodata_to_binary([Enum.map(labels, &[byte_size(&1), &1]), 0])

  defp split(<<0, _::binary>>), do: []
  defp split(<<size, label::binary-size(size), rest::binary>>), do: [label | split(rest)]

  defp name_size(<<0, _::binary>>), do: 1
  defp name_size(<<size, _::binary-size(size), rest::binary>>), do: 1 + size + name_size(rest)
end
