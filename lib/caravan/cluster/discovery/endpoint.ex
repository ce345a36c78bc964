defmodule Caravan.Cluster.Discovery.Endpoint do
  # From the records of one answer to the names of nodes, with what else the records say of them.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.NodeName
  alias Caravan.Dns.Service

  @type names :: %{String.t() => {[:inet.port_number()], [:inet.ip_address()]}}

  @doc """
  By name, its ports (with `ports: :srv`; more than one, if the records contradict each other) and its
  addresses, and why records make no name.

  With the option `:allow`, a target without an address is none: the host's resolver, which would be asked
  for it when the node is connected, knows nothing of what is allowed.
  """
  @spec from_records([NodeName.dns_record()], Caravan.Dns.type(), Config.t()) ::
          {names, [String.t()]}
  def from_records(records, type, %Config{} = config) do
    template = config.templates[type]
    resolves = NodeName.host_from_record?(template)

    {names, refusals} =
      Enum.reduce(records, {%{}, []}, fn record, {names, refusals} ->
        addresses = addresses(record, resolves)

        with {:ok, name} <- NodeName.build(template, config.basename, record),
             :ok <- allowed(name, addresses, resolves and config.allow != []) do
          said = {ports(record, config.ports), addresses}
          {Map.update(names, name, said, &merge(&1, said)), refusals}
        else
          {:error, reason} -> {names, [reason | refusals]}
        end
      end)

    {Map.new(names, &in_order/1), Enum.reverse(refusals)}
  end

  defp allowed(name, [], true), do: {:error, "#{name} has no address that :allow lets through"}
  defp allowed(_name, _addresses, _restricted), do: :ok

  defp ports(%Service{port: port}, :srv) when port > 0, do: [port]
  defp ports(_record, _ports), do: []

  # Where the host of all names stands in the template, the addresses of a target are not its.
  defp addresses(_record, false), do: []
  defp addresses(%Service{addresses: addresses}, true), do: addresses
  defp addresses(ip, true), do: [ip]

  defp merge({ports, addresses}, {more_ports, more_addresses}),
    do: {more_ports ++ ports, more_addresses ++ addresses}

  # Servers change the order from answer to answer, which is no news.
  defp in_order({name, {ports, addresses}}),
    do: {name, {Enum.sort(Enum.uniq(ports)), Enum.sort(Enum.uniq(addresses))}}
end
