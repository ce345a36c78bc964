defmodule Caravan.Cluster.OwnName do
  # Pure. Compares the name of this node with the names that DNS gives.
  @moduledoc false

  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.NodeName

  @typedoc """
  This node.

    * `:name`: its name;
    * `:port`: the port that its peers connect to, or `nil` if it is unknown;
    * `:addresses`: the addresses on which it listens.
  """
  @type own :: %{
          name: String.t(),
          port: :inet.port_number() | nil,
          addresses: [:inet.ip_address()]
        }

  @type endpoints :: %{String.t() => Endpoint.t()}

  @typedoc "Returns the port of a name, or `nil` if it has none."
  @type port_of :: (String.t() -> :inet.port_number() | nil)

  @type difference :: :basename | :port | :host | :case | :trailing_dot

  @typedoc """
    * `:named`: DNS has the name of this node, and no other name for it;
    * `{:also_called, name}`: DNS has the name of this node, and another name for it, too;
    * `{:called, name}`: DNS has only another name for this node. The record of this name has the port of this node, and
      its host or one of its addresses;
    * `{:perhaps, name}`: DNS names another port on this host, and not this node. It may be the port of another node;
    * `:not_named`: DNS does not name this node.
  """
  @type finding ::
          :named
          | {:also_called, String.t()}
          | {:called, String.t()}
          | {:perhaps, String.t()}
          | :not_named

  @doc "Compares this node with the endpoints of the answers. Returns `:not_named` if there are no endpoints."
  @spec compare(own, endpoints, port_of) :: finding
  def compare(own, endpoints, port_of) do
    named? = Enum.any?(NodeName.aliases(own.name), &is_map_key(endpoints, &1))

    case {named?, others(own, endpoints, port_of)} do
      {true, []} -> :named
      {true, [name | _]} -> {:also_called, name}
      {false, [name | _]} -> {:called, name}
      {false, []} -> elsewhere(own, endpoints)
    end
  end

  @doc """
  Returns the other names that lead to this node: a connect to one of them would reach the port of this node.

  The name of this node in lower case is not among them, because it is a name of this node, too.
  """
  @spec others(own, endpoints, port_of) :: [String.t()]
  def others(%{port: nil}, _endpoints, _port_of), do: []

  # Many nodes may be on one host. So ports, which are fast to compare, leave few names to sort by similarity.
  def others(own, endpoints, port_of) do
    names =
      for {name, endpoint} <- neighbours(own, endpoints),
          own.port in ports(name, endpoint, port_of),
          do: name

    by_similarity(names, own)
  end

  defp elsewhere(own, endpoints) do
    case own |> neighbours(endpoints) |> Map.keys() |> by_similarity(own) do
      [name | _] -> {:perhaps, name}
      [] -> :not_named
    end
  end

  # Returns the endpoints on this host that have another name.
  defp neighbours(own, endpoints),
    do: own |> on_this_host(endpoints) |> Map.drop(NodeName.aliases(own.name))

  # Sorts names, the most similar one to that of this node first.
  defp by_similarity(names, own),
    do: Enum.sort_by(names, &{length(differences(own.name, &1)), &1})

  @doc """
  Returns the endpoints that have the host of this node, or one of its addresses.

  `compare/3` and `others/3` return the same for these endpoints as for all endpoints.
  """
  @spec on_this_host(own, endpoints) :: endpoints
  def on_this_host(own, endpoints) do
    host = NodeName.host(own.name)
    hosts = Enum.uniq([host, normal(host)])
    addresses = Map.new(own.addresses, &{&1, []})

    # There may be thousands of endpoints.
    :maps.filter(
      fn name, endpoint ->
        same_host?(hosts, NodeName.host(name)) or
          Enum.any?(endpoint.addresses, &is_map_key(addresses, &1))
      end,
      endpoints
    )
  end

  # A short name and a long one may have the same host. Hosts from DNS are in lower case.
  defp same_host?(hosts, other),
    do: other in hosts or Enum.any?(hosts, &(label?(&1, other) or label?(other, &1)))

  defp label?(short, long) do
    size = byte_size(short)

    size < byte_size(long) and :binary.at(long, size) == ?. and
      :binary.part(long, 0, size) == short and
      :binary.match(short, ".") == :nomatch
  end

  defp ports(name, %{ports: []}, port_of), do: List.wrap(port_of.(name))
  defp ports(_name, %{ports: ports}, _port_of), do: ports

  @doc "Returns in what two names differ."
  @spec differences(String.t(), String.t()) :: [difference]
  def differences(one, other) do
    {one_base, one_port} = left(one)
    {other_base, other_port} = left(other)

    for(
      {what, true} <- [basename: one_base != other_base, port: one_port != other_port],
      do: what
    ) ++
      host_differences(NodeName.host(one), NodeName.host(other))
  end

  defp host_differences(host, host), do: []

  defp host_differences(one, other) do
    cond do
      normal(one) != normal(other) -> [:host]
      String.downcase(one) == String.downcase(other) -> [:case]
      true -> [:trailing_dot]
    end
  end

  defp normal(host), do: host |> String.downcase() |> String.trim_trailing(".")

  # Returns the part before the @ without its digits, and the digits.
  defp left(name) do
    [_, base, digits] = Regex.run(~r/\A(.*?)-?(\d*)(?:@|\z)/s, name)
    {base, digits}
  end

  @doc "Returns the text of a finding for the log. `:named` has no text."
  @spec text(finding, own) :: String.t()
  def text({:called, name}, own) do
    "DNS calls this node #{name}, but its name is #{own.name}. Peers dial the first name and are refused. " <>
      fix(name, own)
  end

  def text({:also_called, name}, own) do
    "DNS calls this node #{name}, too. Its name is #{own.name}. Peers dial both names, and are refused with the first " <>
      "one. Delete its record, or let the options :query, :type and :node_name give one name to each node"
  end

  def text({:perhaps, name}, own) do
    "DNS names #{name} on the host of this node, and not #{own.name}, which is its name. If the record is meant for " <>
      "this node: " <> fix(name, own)
  end

  def text(:not_named, own),
    do: "DNS does not name this node, #{own.name}. Nodes that look it up in DNS do not find it"

  @doc "Returns what to set if DNS is right about the name."
  @spec fix(String.t(), own) :: String.t()
  def fix(name, own) do
    differences = differences(own.name, name)
    {basename, _digits} = left(own.name)

    # OTP refuses the dots of the new host unless the release uses long names.
    long =
      if NodeName.long?(name) and not NodeName.long?(own.name),
        do: "RELEASE_DISTRIBUTION=name and "

    name_it = "Set #{long}RELEASE_NODE=#{name}"

    cond do
      :basename in differences and basename != "" ->
        name_it <> ", or node_sname: #{inspect(basename)} on all nodes"

      :port in differences ->
        name_it <> ", or let the SRV record or :node_name give the port of #{own.name}"

      true ->
        name_it
    end
  end
end
