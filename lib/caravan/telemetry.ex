defmodule Caravan.Telemetry do
  @moduledoc """
  The events that Caravan emits through `:telemetry`. Without that application, it emits none.

  Durations are in native time units. The metadata of each event has `:topology`.

  | event | measurements | metadata |
  |---|---|---|
  | `[:caravan, :dns, :lookup, :start]` | `:system_time` | `:query`, `:type` |
  | `[:caravan, :dns, :lookup, :stop]` | `:duration`, `:records` | `:query`, `:type`, `:result` |
  | `[:caravan, :dns, :lookup, :exception]` | `:duration` | `:query`, `:type`, `:kind`, `:reason`, `:stacktrace` |
  | `[:caravan, :node, :connect, :stop]` | `:duration` | `:node`, `:result` |
  | `[:caravan, :node, :connect, :diagnosis]` | `:duration` | `:node`, `:finding` |
  | `[:caravan, :node, :up]`, `[:caravan, :node, :down]` | `:connected` | `:node` |
  | `[:caravan, :node, :prune]` | `:spared` | `:node` |
  | `[:caravan, :membership, :change]` | `:members`, `:added`, `:removed` | `:added`, `:removed` |
  | `[:caravan, :membership, :limit]` | `:left_out` | `:limit` |
  | `[:caravan, :membership, :drain]`, `[:caravan, :membership, :resume]` | `:connected` | |

    * `:result` is `:ok` or `{:error, reason}`. The reasons of a lookup are those of `Caravan.Dns.Error`,
      `:cancelled` if `Caravan.Cluster.drain/1` cancelled it, and `:client_returned` if the `:dns_client` returned
      a wrong term.
    * A lookup ends in `:exception` if the `:dns_client` raises or hangs, or if the resolver does not reply.
    * `[:caravan, :node, :connect, :stop]` is emitted for attempts of OTP to connect a node. A failed probe
      (`Caravan.Cluster.DnsStrategy`) comes without it. The first of its kind is a `[:caravan, :node, :connect, :diagnosis]`.
    * `:finding` is `:name_type` (a short and a long name), `:unresolvable`, `:no_port`, `:refused`, `:no_reply`,
      `:accepted` (the TCP connection; the handshake failed) or `:network`.
    * `:connected` is the number of connected nodes of the topology: after the change, or before a drain or a resume.
    * `:spared` is the number of nodes that were not disconnected, because at most half of them are at the same time.
    * The measurements `:added` and `:removed` are numbers. The metadata are the lists of names, as strings.
    * `:limit` is `:max_nodes`, `:max_new_names` or `:atom_table`, and `:left_out` the number of names beyond it.

  Caravan also emits the events of libcluster: `[:libcluster, :connect_node, :ok | :error]` and
  `[:libcluster, :disconnect_node, :ok | :error]`. Their metadata are `:node`, `:topology`, and after an error
  `:reason`. With `:ok`, they measure `:duration`.
  """

  @doc """
  Loads `:telemetry`, and returns whether it is there.

  A strategy calls this when it starts.
  """
  @spec load() :: boolean
  def load, do: Code.ensure_loaded?(:telemetry)

  @doc false
  @spec execute([atom, ...], map, map) :: :ok
  def execute(event, measurements, metadata) do
    if function_exported?(:telemetry, :execute, 3),
      # With apply/3, the compiler does not warn where :telemetry is not installed.
      do: apply(:telemetry, :execute, [event, measurements, metadata]),
      else: :ok
  end
end
