defmodule Caravan.Cluster.Discovery.Endpoint do
  # Pure. The ports and addresses of one node, from the records of one answer.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.NodeName
  alias Caravan.Dns.Service

  defstruct ports: [], addresses: []

  @typedoc """
  The ports are in ascending order. The list is empty without `ports: :srv`. It has several ports only if records
  contradict each other. The addresses are in the order of the answer.
  """
  @type t :: %__MODULE__{ports: [:inet.port_number()], addresses: [:inet.ip_address()]}

  @doc """
  Returns the endpoints by node name, and why records were left out. A record gives one node for each basename.

  With the option `:allow`, a record without an address is left out if the host of the node name comes from this record.
  Otherwise the system's resolver, which does not know `:allow`, would look up this host at each connect.
  """
  @spec from_records(
          [NodeName.dns_record()],
          Caravan.Dns.type(),
          basenames :: [String.t()],
          Config.t()
        ) ::
          {%{String.t() => t}, left_out :: [String.t()]}
  def from_records(records, type, basenames, %Config{} = config) do
    template = config.templates[type]
    host_from_record? = NodeName.host_from_record?(template)
    restricted? = host_from_record? and config.allow != []

    {endpoints, left_out} =
      Enum.reduce(records, {%{}, []}, fn record, {endpoints, left_out} ->
        endpoint = from_record(record, config.ports, host_from_record?)

        results =
          for basename <- basenames, do: name(template, basename, record, endpoint, restricted?)

        case List.keyfind(results, :error, 0) do
          {:error, reason} -> {endpoints, [reason | left_out]}
          nil -> {Enum.reduce(results, endpoints, &add(&1, endpoint, &2)), left_out}
        end
      end)

    {endpoints, Enum.reverse(left_out)}
  end

  @doc "Returns an endpoint with the ports and addresses of both. The addresses of `first` come first."
  @spec merge(t, t) :: t
  def merge(%__MODULE__{} = first, %__MODULE__{} = second) do
    %__MODULE__{
      ports: :lists.usort(first.ports ++ second.ports),
      addresses: Enum.uniq(first.addresses ++ second.addresses)
    }
  end

  @doc "Returns whether both have the same ports and addresses, in any order."
  @spec same?(t, t) :: boolean
  def same?(%__MODULE__{} = one, %__MODULE__{} = other) do
    one == other or
      (one.ports == other.ports and Enum.sort(one.addresses) == Enum.sort(other.addresses))
  end

  defp from_record(record, ports, host_from_record?) do
    addresses = if host_from_record?, do: record |> addresses() |> Enum.uniq(), else: []
    %__MODULE__{ports: ports(record, ports), addresses: addresses}
  end

  defp name(template, basename, record, endpoint, restricted?) do
    case NodeName.build(template, basename, record) do
      {:ok, name} when restricted? and endpoint.addresses == [] ->
        {:error, "#{name} has no address that :allow accepts"}

      result ->
        result
    end
  end

  defp add({:ok, name}, endpoint, endpoints),
    do: Map.update(endpoints, name, endpoint, &merge(&1, endpoint))

  defp ports(%Service{port: port}, :srv) when port > 0, do: [port]
  defp ports(_record, _ports), do: []

  # Called only if the host of the node name comes from the record. Otherwise these are addresses of another host.
  defp addresses(%Service{addresses: addresses}), do: addresses
  defp addresses(ip), do: [ip]
end
