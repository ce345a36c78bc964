defmodule Caravan.Doctor.Lookup do
  # Effect. Shows one query as a strategy sees it: the records, and the nodes that follow from them.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Dns.Error
  alias Caravan.Dns.Service
  alias Caravan.Doctor.Context
  alias Caravan.Doctor.Lookups
  alias Caravan.Epmd.PortRule
  alias Caravan.Native

  @doc """
  Looks up the query with the options of a strategy. Returns a text, and whether there was an answer.

  Raises `ArgumentError` for a wrong option.
  """
  @spec run(String.t(), keyword) :: {answered? :: boolean, String.t()}
  def run(query, options) do
    context = Context.new(%{topology: nil, strategy: [query: query] ++ options})

    case Native.load() do
      :ok -> look_up(context)
      {:error, message} -> {false, IO.chardata_to_string(message)}
    end
  end

  defp look_up(%Context{topologies: [config]} = context) do
    context = Context.look_up(context, config.lookup_timeout)
    texts = Enum.map(context.lookups, &text(&1, config, context.name || "nonode@nohost"))
    {Enum.any?(context.lookups, &match?({:ok, _, _, _}, &1.result)), Enum.join(texts, "\n\n")}
  end

  defp text(%{source: source, result: {:error, %Error{} = error}} = lookup, _config, _self),
    do: "#{title(source)}: #{Exception.message(error)}\n  #{Lookups.effort(lookup)}"

  defp text(%{source: source, result: :client}, _config, _self),
    do: "#{title(source)}: the :dns_client of the topology does the lookup"

  defp text(%{source: source, result: {:ok, answer, _, _}}, config, self) do
    basenames = Config.basenames(config, source, self)
    records = Enum.map(answer.records, &record(&1, source, basenames, config))
    Enum.join(["#{title(source)}: #{Lookups.summary(answer)}" | records], "\n")
  end

  defp title({query, type}), do: "#{type |> Atom.to_string() |> String.upcase()} #{query}"

  defp record(record, {_query, type}, basenames, config) do
    "  #{data(record)}\n    " <>
      case Endpoint.from_records([record], type, basenames, config) do
        {none, [reason]} when none == %{} -> "left out: #{reason}"
        {endpoints, []} -> endpoints |> Enum.map_join("\n    ", &describe/1)
      end
  end

  defp data(%Service{} = service) do
    addresses = if service.addresses == [], do: "no address", else: list(service.addresses)
    "#{service.priority} #{service.weight} #{service.port} #{service.target} (#{addresses})"
  end

  defp data(ip), do: list([ip])

  defp describe({name, endpoint}) do
    address =
      if endpoint.addresses == [],
        do: "the resolver of the host finds the address",
        else: "address #{list(endpoint.addresses)}"

    "#{name}: #{port(name, endpoint.ports)}, #{address}"
  end

  defp port(_name, [port]), do: "port #{port} from the record"

  defp port(name, []) do
    case PortRule.port(name) do
      port when is_integer(port) -> "port #{port} by the port rule"
      {:error, reason} -> IO.chardata_to_string(PortRule.refusal(name, reason))
    end
  end

  defp list(ips), do: Enum.map_join(ips, ", ", &:inet.ntoa/1)
end
