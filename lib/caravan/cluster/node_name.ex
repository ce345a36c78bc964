defmodule Caravan.Cluster.NodeName do
  # Pure. Makes the name of a node from a DNS record, by a template. The name is a string. It is checked here, because
  # other modules may make an atom of it.
  @moduledoc false

  alias Caravan.Dns
  alias Caravan.Dns.Service

  @typedoc "Literal texts and placeholders, in order."
  @type template :: [String.t() | placeholder]
  @type placeholder :: :name | :port | :host | :host_label | :ip

  @type dns_record :: Service.t() | :inet.ip_address()

  # Characters. The maximum length of an atom, and so of a node name (MAX_ATOM_CHARACTERS in ERTS).
  @max_length 255

  @placeholders %{
    srv: [name: "{name}", port: "{port}", host: "{host}", host_label: "{host_label}"],
    a: [name: "{name}", ip: "{ip}"],
    aaaa: [name: "{name}", ip: "{ip}"]
  }

  @doc "Returns the template that is used if the options have none."
  @spec default_template(Dns.type(), ports :: :name | :srv) :: String.t()
  def default_template(:srv, :name), do: "{name}-{port}@{host}"
  def default_template(:srv, :srv), do: "{name}@{host}"
  def default_template(type, _ports) when type in [:a, :aaaa], do: "{name}@{ip}"

  @doc "Returns whether the host of the name comes from the record. The addresses of the record are then the node's."
  @spec host_from_record?(template) :: boolean
  def host_from_record?(template), do: Enum.any?(template, &(&1 in [:host, :host_label, :ip]))

  @doc "Returns whether the host of the names begins with the first label of the target of the record."
  @spec host_begins_with_target?(template) :: boolean
  def host_begins_with_target?(template) do
    [template, tl(template)]
    |> Enum.zip()
    |> Enum.any?(fn {before, part} ->
      part in [:host, :host_label] and is_binary(before) and String.ends_with?(before, "@")
    end)
  end

  @doc "Returns a template, or what was expected of `text`."
  @spec parse_template(String.t(), Dns.type()) ::
          {:ok, template} | {:error, expected :: String.t()}
  def parse_template(text, type) do
    known = Map.new(@placeholders[type], fn {placeholder, text} -> {text, placeholder} end)

    template =
      ~r/\{\w*\}/
      |> Regex.split(text, include_captures: true, trim: true)
      |> Enum.map(&Map.get(known, &1, &1))

    literal = template |> Enum.filter(&is_binary/1) |> Enum.join()

    if literal =~ ~r/\A[0-9A-Za-z_\-]*@[0-9A-Za-z_.:\-]*\z/,
      do: {:ok, template},
      else:
        {:error,
         "a template of ASCII letters, digits, - _ . : and one @, and for #{type |> to_string() |> String.upcase()} records, " <>
           "only the placeholders #{known |> Map.keys() |> Enum.join(", ")}"}
  end

  @doc "Returns whether this can be the part of a node name before the `@`."
  @spec basename?(String.t()) :: boolean
  def basename?(name), do: name =~ ~r/\A[0-9A-Za-z_\-]+\z/ and byte_size(name) < @max_length

  @doc "Returns the host of a node's name."
  @spec host(name :: String.t()) :: String.t()
  def host(name) do
    [_left, host] = :binary.split(name, "@")
    host
  end

  @doc """
  Returns whether the host of this name has a dot or a colon.

  OTP starts such a node with a long name only (kernel/src/net_kernel.erl). Any other node has a short name, unless it
  was started with `-name` and a host without a dot, such as `-name app@localhost`.
  """
  @spec long?(name :: String.t()) :: boolean
  def long?(name), do: host(name) =~ ~r/[.:]/

  @doc """
  Returns the value of `{name}` with which the template can make the name of this node. This is the part before the `@`.
  If the template has `{port}`, the digits of the port and a `-` before them are left out.
  """
  @spec own_basename(self :: String.t(), template) :: String.t()
  def own_basename(self, template) do
    basename = self |> String.split("@") |> hd()
    if :port in template, do: String.replace(basename, ~r/-?[0-9]+\z/, ""), else: basename
  end

  @doc """
  Returns the names that DNS may give the node of this name: the name, and the name with its host in lower case.

  DNS does not distinguish case (RFC 4343), and `Caravan.Dns` returns hosts in lower case.
  """
  @spec aliases(String.t()) :: [String.t()]
  def aliases(name) do
    case String.split(name, "@") do
      [left, host] -> Enum.uniq([name, left <> "@" <> String.downcase(host)])
      _ -> [name]
    end
  end

  @doc "Returns the name of the node of a record, or why it has none."
  @spec build(template, String.t() | nil, dns_record) :: {:ok, String.t()} | {:error, String.t()}
  def build(template, basename, record) do
    name = Enum.map_join(template, &fill(&1, basename, record))

    cond do
      byte_size(name) > @max_length ->
        {:error, "the node name would be longer than #{@max_length} bytes"}

      not valid?(name) ->
        {:error, "#{inspect(name)} is not a valid node name"}

      true ->
        {:ok, name}
    end
  end

  # Before the @, the characters that net_kernel accepts (create_name in kernel/src/net_kernel.erl). After the @, those
  # of host names, and of addresses of both families.
  defp valid?(name), do: name =~ ~r/\A[0-9A-Za-z_\-]+@[0-9A-Za-z_.:\-]+\z/

  defp fill(text, _basename, _record) when is_binary(text), do: text
  defp fill(:name, basename, _record), do: basename
  defp fill(:port, _basename, %Service{port: port}), do: Integer.to_string(port)
  defp fill(:host, _basename, %Service{target: target}), do: target

  defp fill(:host_label, _basename, %Service{target: target}),
    do: target |> String.split(".", parts: 2) |> hd()

  defp fill(:ip, _basename, ip), do: ip |> :inet.ntoa() |> List.to_string()
end
