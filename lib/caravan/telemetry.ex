defmodule Caravan.Telemetry do
  @moduledoc """
  The events that Caravan emits through `:telemetry`, and a list of metrics from them. Without the application
  `:telemetry`, Caravan emits no events.

  Durations are in native time units. The metadata of each event has `:topology`.

  | event | measurements | metadata |
  |---|---|---|
  | `[:caravan, :dns, :lookup, :start]` | `:system_time` | `:query`, `:type` |
  | `[:caravan, :dns, :lookup, :stop]` | `:duration`, `:records` | `:query`, `:type`, `:result` |
  | `[:caravan, :dns, :lookup, :exception]` | `:duration` | `:query`, `:type`, `:kind`, `:reason`, `:stacktrace` |
  | `[:caravan, :node, :connect, :stop]` | `:duration` | `:node`, `:result` |
  | `[:caravan, :node, :connect, :diagnosis]` | `:duration` | `:node`, `:finding` |
  | `[:caravan, :node, :up]`, `[:caravan, :node, :down]` | `:connected` | `:node`, `:link` |
  | `[:caravan, :node, :prune]` | `:spared` | `:node` |
  | `[:caravan, :node, :release]` | `:connected` | `:node` |
  | `[:caravan, :topology, :status]` | `:members`, `:connected`, `:missing`, `:drained`, `:answer_age` | |
  | `[:caravan, :membership, :change]` | `:members`, `:added`, `:removed` | `:added`, `:removed` |
  | `[:caravan, :membership, :limit]` | `:left_out` | `:limit` |
  | `[:caravan, :membership, :drain]`, `[:caravan, :membership, :resume]` | `:connected` | |

    * `:result` is `:ok` or `{:error, reason}`. The reasons of a lookup are those of `Caravan.Dns.Error`,
      `:cancelled` if `Caravan.Cluster.drain/1` cancelled it, and `:client_returned` if the `:dns_client` returned
      a wrong term. The reasons of a connect are `:unreachable`, `:not_distributed` (this node is not alive), `:timeout`,
      and with a custom `:connect` function also `{:crashed, reason}` and `{:returned, term}`.
    * `[:caravan, :topology, :status]` is emitted after each round of lookups, when no lookup is in flight any more, even
      if lookups have failed. It is also emitted after a drain and a resume.
    * `:missing` is the number of members that are not connected. With the option `:links`, it counts only preferred
      members. `:drained` is 1 after `Caravan.Cluster.drain/1`, else 0. `:answer_age` is the time in milliseconds since the last
      answer. If the topology has several queries, it is the longest of their times. "There is no such name" is an answer.
    * A lookup ends in `:exception` if the `:dns_client` raises or hangs, or if the resolver does not reply.
    * `[:caravan, :node, :connect, :stop]` is emitted for attempts of OTP to connect a node. A failed probe
      (`Caravan.Cluster.DnsStrategy`) does not emit this event. For each kind of failed probe, such as `:refused`,
      `[:caravan, :node, :connect, :diagnosis]` is emitted once while the node is missing.
    * `:finding` says why the node cannot be connected. Before the handshake, it is `:name_type` (one node has a short name,
      the other one a long name), `:unresolvable`, `:no_port`, `:refused`, `:no_reply` or `:network`. For the handshake, it
      is one of these:
      * `:protocol`: another program listens, or the node hangs;
      * `:tls`: only the other node uses TLS;
      * `:no_tls`: only this node uses TLS;
      * `:certificate`: one node refuses the certificate of the other;
      * `:unexamined`: both use TLS, but its options are not in a file, so no step was examined;
      * `:name`: the other node has another name;
      * `:version`: the other node does not allow this one, mostly because the releases of OTP are too far apart;
      * `:cookie`: the cookies differ;
      * `:own_cookie`: this node has a cookie for the other node alone, so the cookie was not examined;
      * `:accepted`: no step fails.
    * `:connected` is the number of connected nodes of the topology: after the change, or before a drain or a resume.
    * `[:caravan, :node, :up]` and `[:caravan, :node, :down]` have `:link` only if the option `:links` is a number. It is
      `:preferred` or `:stand_in`, `:other` for a connection that this topology did not make, and `:released` for
      a stand-in that it has given up.
    * `[:caravan, :node, :release]` is emitted after a stand-in was disconnected, because the preferred nodes are back.
    * `:spared` is the number of further nodes that were due, but stay connected for now, because `:prune` disconnects at
      most half of the connected nodes at the same time.
    * The measurements `:added` and `:removed` are numbers. The metadata are the lists of names, as strings.
    * `:limit` is `:max_nodes`, `:max_new_names` or `:atom_table`, and `:left_out` the number of names beyond it.

  Caravan also emits the events of libcluster: `[:libcluster, :connect_node, :ok | :error]` and
  `[:libcluster, :disconnect_node, :ok | :error]`. Their metadata are `:node`, `:topology`, and after an error
  `:reason`. The events with `:ok` have the measurement `:duration`.

  ## Metrics

  `metrics/0` returns the metrics for a reporter such as Prometheus or Phoenix LiveDashboard:

      # in the module of Telemetry.Metrics, such as lib/app_web/telemetry.ex
      def metrics do
        [summary("phoenix.endpoint.stop.duration", unit: {:native, :millisecond})] ++ Caravan.Telemetry.metrics()
      end

  | metric | type | tags |
  |---|---|---|
  | `caravan.topology.status.members`, `.connected`, `.missing`, `.drained`, `.answer_age` | last value | `:topology` |
  | `caravan.dns.lookup.count` | counter | `:topology`, `:query`, `:type`, `:result` |
  | `caravan.dns.lookup.stop.duration` | distribution, milliseconds | `:topology`, `:query`, `:type` |
  | `caravan.node.connect.count` | counter | `:topology`, `:result` |
  | `caravan.node.connect.stop.duration` | distribution, milliseconds | `:topology` |

  The tag `:result` is `:ok`, or the reason without its details, such as `:nxdomain` or `:crashed`. No tag is the name
  of a node, so the number of time series does not grow with the cluster.

  Two alerts are useful:

    * `missing` is above 0 for ten minutes. A node that has left counts as missing until the option `:keep` is over, by
      default for five minutes. With a longer `:keep`, wait for `:keep` and five minutes more.
    * `answer_age` is above 60,000 ms.
  """

  # The bounds of the distributions, in milliseconds. In a local network, a lookup or a connect takes less than 1 ms. One that
  # fails takes up to its timeout of some seconds.
  @buckets [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000]

  @doc """
  Loads `:telemetry`, and returns whether it is there.

      Caravan.Telemetry.load() || raise "add :telemetry to the dependencies"

  Call it at the start of an application that cannot do without the events. Other applications need not call it, because
  attaching a handler loads `:telemetry`, too.
  """
  @spec load() :: boolean
  def load, do: Code.ensure_loaded?(:telemetry)

  @doc """
  Returns the metrics above, as structs of `Telemetry.Metrics`.

  Raises `RuntimeError` if the application does not depend on `:telemetry_metrics`.
  """
  @spec metrics() :: [struct]
  def metrics do
    unless Code.ensure_loaded?(Telemetry.Metrics) do
      raise "Caravan.Telemetry.metrics/0 needs the module Telemetry.Metrics, which is not there. " <>
              "Add {:telemetry_metrics, \"~> 1.0\"} to deps in mix.exs, or leave out the call"
    end

    status =
      for measurement <- ~w(members connected missing drained answer_age) do
        unit = if measurement == "answer_age", do: :millisecond, else: :unit

        metric(:last_value, "caravan.topology.status.#{measurement}",
          tags: [:topology],
          unit: unit
        )
      end

    lookup = [event_name: [:caravan, :dns, :lookup, :stop], measurement: :duration]
    connect = [event_name: [:caravan, :node, :connect, :stop], measurement: :duration]
    source = [:topology, :query, :type]

    status ++
      [
        counter("caravan.dns.lookup.count", lookup, source),
        distribution("caravan.dns.lookup.stop.duration", source),
        counter("caravan.node.connect.count", connect, [:topology]),
        distribution("caravan.node.connect.stop.duration", [:topology])
      ]
  end

  defp counter(name, event, tags) do
    options = [tags: tags ++ [:result], tag_values: &__MODULE__.tag_values/1]
    metric(:counter, name, event ++ options)
  end

  defp distribution(name, tags) do
    options = [unit: {:native, :millisecond}, reporter_options: [buckets: @buckets]]
    metric(:distribution, name, [tags: tags] ++ options)
  end

  # With apply/3, the compiler does not warn where Telemetry.Metrics is not installed.
  defp metric(type, name, options), do: apply(Telemetry.Metrics, type, [name, options])

  @doc false
  @spec tag_values(map) :: map
  def tag_values(metadata), do: Map.update!(metadata, :result, &result/1)

  defp result({:error, {reason, _details}}), do: reason
  defp result({:error, reason}), do: reason
  defp result(:ok), do: :ok

  @doc false
  @spec execute([atom, ...], map, map) :: :ok
  def execute(event, measurements, metadata) do
    if function_exported?(:telemetry, :execute, 3),
      # With apply/3, the compiler does not warn where :telemetry is not installed.
      do: apply(:telemetry, :execute, [event, measurements, metadata]),
      else: :ok
  end
end
