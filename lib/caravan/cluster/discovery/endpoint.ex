defmodule Caravan.Cluster.Discovery.Endpoint do
  # Pure. The ports and addresses of one node, from the records of one answer.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.NodeName
  alias Caravan.Dns.Service

  defstruct ports: [], addresses: []

  @typedoc """
  The ports are in ascending order. There is none without `ports: :srv`, and more than one only if records
  contradict each other. The addresses are in the order of the answer.
  """
  @type t :: %__MODULE__{ports: [:inet.port_number()], addresses: [:inet.ip_address()]}

  @doc """
  Returns the endpoints by node name, and why records were left out.

  With the option `:allow`, a record whose target has no address is left out: on a connect, the host's
  resolver would look the target up, and it does not know the option.
  """
  @spec from_records([NodeName.dns_record()], Caravan.Dns.type(), Config.t()) ::
          {%{String.t() => t}, left_out :: [String.t()]}
  def from_records(records, type, %Config{} = config) do
    template = config.templates[type]
    resolves = NodeName.host_from_record?(template)

    {endpoints, left_out} =
      Enum.reduce(records, {%{}, []}, fn record, {endpoints, left_out} ->
        endpoint = from_record(record, config.ports, resolves)

        with {:ok, name} <- NodeName.build(template, config.basename, record),
             :ok <- check_addresses(name, endpoint, resolves and config.allow != []) do
          {Map.update(endpoints, name, endpoint, &merge(&1, endpoint)), left_out}
        else
          {:error, reason} -> {endpoints, [reason | left_out]}
        end
      end)

    {endpoints, Enum.reverse(left_out)}
  end

  @doc "Returns the ports and addresses of both, the addresses of the first one first."
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

  defp from_record(record, ports, resolves) do
    addresses = if resolves, do: record |> addresses() |> Enum.uniq(), else: []
    %__MODULE__{ports: ports(record, ports), addresses: addresses}
  end

  defp check_addresses(name, %{addresses: []}, true),
    do: {:error, "#{name} has no address that :allow accepts"}

  defp check_addresses(_name, _endpoint, _restricted), do: :ok

  defp ports(%Service{port: port}, :srv) when port > 0, do: [port]
  defp ports(_record, _ports), do: []

  # Called only if the host of the node name comes from the record. Otherwise these are addresses of another host.
  defp addresses(%Service{addresses: addresses}), do: addresses
  defp addresses(ip), do: [ip]
end
