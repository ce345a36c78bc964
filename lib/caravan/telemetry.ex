defmodule Caravan.Telemetry do
  @moduledoc """
  The events that Caravan emits through `:telemetry`, where that is there; without it, nothing happens.

  Durations are in native time units. `:topology` is in the metadata of each.

  | event | measurements | metadata |
  |---|---|---|
  | `[:caravan, :dns, :lookup, :start]` | `:system_time` | `:query`, `:type` |
  | `[:caravan, :dns, :lookup, :stop]` | `:duration`, `:records` | `:query`, `:type`, `:result`: `:ok` or `{:error, reason}`, as in `Caravan.Dns.Error`, `:cancelled` where `Caravan.Cluster.drain/1` ended the lookup |
  | `[:caravan, :dns, :lookup, :exception]` | `:duration` | `:query`, `:type`, `:kind`, `:reason`, `:stacktrace`: a `:dns_client` that raised, or a resolver that never replied |
  | `[:caravan, :node, :connect, :stop]` | `:duration` | `:node`, `:result`: `:ok` or `{:error, reason}` |
  | `[:caravan, :node, :connect, :diagnosis]` | `:duration` | `:node`, `:finding`: `:name_type` (short and long names), `:unresolvable`, `:no_port`, `:refused`, `:no_reply`, `:accepted` (then the handshake failed) or `:network` |
  | `[:caravan, :node, :up]`, `[:caravan, :node, :down]` | `:connected`: how many are now | `:node` |
  | `[:caravan, :node, :prune]` | `:spared`: how many more would have been | `:node` |
  | `[:caravan, :membership, :change]` | `:members`, `:added`, `:removed` | `:added`, `:removed`: lists of names, as strings |
  | `[:caravan, :membership, :limit]` | `:left_out` | `:limit`: `:max_nodes`, `:max_new_names`, `:atom_table` |
  | `[:caravan, :membership, :drain]`, `[:caravan, :membership, :resume]` | `:connected`: how many were | |

  And those of libcluster, for the dashboards that read them: `[:libcluster, :connect_node, :ok | :error]`
  and `[:libcluster, :disconnect_node, :ok | :error]`, with `:duration` where it succeeded, `:node`,
  `:topology`, and `:reason` where it failed.
  """

  @doc "Loads `:telemetry`, if it is there. Called once, when a strategy starts."
  @spec load() :: boolean
  def load, do: Code.ensure_loaded?(:telemetry)

  @doc false
  @spec execute([atom, ...], map, map) :: :ok
  def execute(event, measurements, metadata) do
    if function_exported?(:telemetry, :execute, 3),
      # apply/3, because the compiler need not know the module.
      do: apply(:telemetry, :execute, [event, measurements, metadata]),
      else: :ok
  end
end
