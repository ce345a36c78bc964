defmodule Caravan.Doctor.Lookups do
  # Effect. The lookups of all topologies, as their strategies do them, and the nodes that follow from the answers.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Dns
  alias Caravan.Epmd.Settings

  @typedoc "The lookup of one query and record type. `:client` is the result if the topology has a `:dns_client`."
  @type t :: %{
          config: Config.t(),
          source: Config.source(),
          result:
            {:ok, Dns.Answer.t(), %{String.t() => Endpoint.t()}, left_out :: [String.t()]}
            | {:error, Dns.Error.t()}
            | :client,
          time: microseconds :: non_neg_integer
        }

  # The maximum number of lookups at the same time. The library allows 1,024 for all processes of the VM.
  @parallel 64

  @doc """
  Looks up all queries of the topologies. `self` is the name of the node.

  All lookups together take `timeout` milliseconds at most. A lookup that has no time left has the error `:timeout`.
  """
  @spec run([Config.t()], self :: String.t(), timeout :: pos_integer) :: [t]
  def run(topologies, self, timeout) do
    deadline = System.monotonic_time(:millisecond) + timeout

    # A check copies its lookup to a process. So a lookup has the configuration without the other queries.
    for(config <- topologies, source <- config.sources, do: {%{config | sources: []}, source})
    |> Task.async_stream(fn {config, source} -> lookup(config, source, self, deadline) end,
      max_concurrency: @parallel,
      timeout: :infinity
    )
    |> Enum.map(fn {:ok, lookup} -> lookup end)
  end

  @doc "Does one of the lookups again, in `timeout` milliseconds at most. `self` is the name of the node."
  @spec again(t, self :: String.t(), timeout :: pos_integer) :: t
  def again(%{config: config, source: source}, self, timeout),
    do: lookup(config, source, self, System.monotonic_time(:millisecond) + timeout)

  @doc "Returns the number of records that another name or type has with the options of a topology, or 0 after an error."
  @spec count(Config.t(), Config.source(), timeout :: pos_integer) :: non_neg_integer
  def count(config, {query, type}, timeout) do
    options = config |> Config.dns_options() |> Keyword.merge(timeout: timeout, attempts: 1)

    case Dns.lookup(query, type, options) do
      {:ok, answer} -> length(answer.records)
      {:error, _error} -> 0
    end
  end

  @doc "Returns the nodes that the answers name, by topology."
  @spec endpoints([t]) :: %{(topology :: atom) => %{String.t() => Endpoint.t()}}
  def endpoints(lookups) do
    for %{config: %{topology: topology}, result: {:ok, _, endpoints, _}} <- lookups,
        reduce: %{} do
      all -> Map.update(all, topology, endpoints, &merge(&1, endpoints))
    end
  end

  @doc "Returns the number of records of an answer, and where, how and when they came."
  @spec summary(Dns.Answer.t()) :: String.t()
  def summary(%Dns.Answer{} = answer) do
    from = answer.nameserver || "/etc/hosts"
    dropped = if answer.dropped == 0, do: "", else: ". :allow dropped #{answer.dropped} addresses"

    count =
      if match?([_], answer.records), do: "1 record", else: "#{length(answer.records)} records"

    "#{count} from #{from} (#{answer.transport}) in #{answer.time} µs, TTL #{answer.ttl} s#{dropped}"
  end

  @doc "Returns how long a lookup without records took, and over which transport its nameserver was asked last, if that is known."
  @spec effort(t) :: String.t()
  def effort(%{result: {:error, %Dns.Error{transport: transport}}, time: time}) do
    over = if transport, do: " over #{transport |> Atom.to_string() |> String.upcase()}", else: ""
    "after #{time} µs#{over}"
  end

  defp merge(one, other),
    do: Map.merge(one, other, fn _name, one, other -> Endpoint.merge(one, other) end)

  defp lookup(config, source, self, deadline) do
    {time, result} = :timer.tc(fn -> result(config, source, self, deadline) end)
    %{config: config, source: source, result: result, time: time}
  end

  defp result(%Config{dns_client: nil} = config, {query, type} = source, self, deadline) do
    left = max(1, deadline - System.monotonic_time(:millisecond))
    options = config |> Config.dns_options() |> Keyword.update!(:timeout, &min(&1, left))
    options = if type == :srv, do: [addresses: Settings.family()] ++ options, else: options

    with {:ok, answer} <- Dns.lookup(query, type, options) do
      basenames = Config.basenames(config, source, self)
      {endpoints, left_out} = Endpoint.from_records(answer.records, type, basenames, config)
      {:ok, answer, endpoints, left_out}
    end
  end

  defp result(_config, _source, _self, _deadline), do: :client
end
