defmodule Caravan.Cluster.Report do
  # Effect. What an operator sees: log lines and telemetry events.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.Connector
  alias Caravan.Cluster.Distribution.Diagnosis
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Distribution.Probe
  alias Caravan.Cluster.Membership.State
  alias Caravan.Cluster.NodeName
  alias Caravan.Telemetry

  require Logger

  # The maximum number of node names in one line. Further nodes are only counted.
  @named 10

  @doc "Logs a line, if the option `:log_level` allows its level."
  @spec log(Config.t(), Logger.level(), String.t()) :: :ok
  def log(%Config{log_level: lowest} = config, level, text) do
    if lowest != :none and Logger.compare_levels(level, lowest) != :lt,
      do: Logger.log(level, "[caravan:#{config.topology}] #{text}"),
      else: :ok
  end

  @doc "Logs a warning if this node is not alive, or if it needs `Caravan.Epmd` and does not use it."
  @spec warn_if_not_on_caravan_epmd(Config.t()) :: :ok
  def warn_if_not_on_caravan_epmd(config) do
    needs_epmd =
      config.ports == :srv or
        Enum.any?(config.templates, fn {_type, template} -> :port in template end)

    case Caravan.check() do
      {:error, {reason, advice}} when reason == :not_alive or needs_epmd ->
        log(config, :warning, advice)

      _ ->
        :ok
    end
  end

  @doc "Logs a warning if this node has a name under which its peers will not look for it."
  @spec warn_if_host_has_capitals(Config.t()) :: :ok
  def warn_if_host_has_capitals(config) do
    from_record =
      Enum.any?(config.templates, fn {_type, template} -> NodeName.host_from_record?(template) end)

    case NodeName.aliases(NodeAtom.to_name(node())) do
      [name, lower] when from_record ->
        log(
          config,
          :warning,
          "the host of this node, #{name}, has capital letters. Its peers take host names from DNS in " <>
            "lower case, so they cannot connect to it. Name it #{lower}, with RELEASE_NODE or --name"
        )

      _ ->
        :ok
    end
  end

  @doc "Logs and emits a report of `Membership`. `counts` are those after the change."
  @spec report(Config.t(), State.report(), counts :: %{connected: integer, members: integer}) ::
          :ok
  def report(config, {:nodes_up, names}, counts) do
    for name <- names do
      log(config, :info, "connected to #{name}")
      emit(config, [:node, :up], Map.take(counts, [:connected]), %{node: atom(name)})
    end

    :ok
  end

  def report(config, {:nodes_down, names}, counts) do
    for name <- names do
      log(config, :warning, "lost #{name}")
      emit(config, [:node, :down], Map.take(counts, [:connected]), %{node: atom(name)})
    end

    :ok
  end

  def report(config, {:members_changed, added, removed}, counts) do
    if removed != [], do: log(config, :info, "no longer in DNS: #{list(removed)}")
    measurements = %{members: counts.members, added: length(added), removed: length(removed)}
    emit(config, [:membership, :change], measurements, %{added: added, removed: removed})
  end

  def report(config, {:lookup_failed, _source, text}, _counts), do: log(config, :warning, text)

  def report(config, {:lookup_recovered, {query, _type}}, _counts),
    do: log(config, :info, "DNS answers again for #{inspect(query)}")

  def report(config, {:limit, limit, left_out}, _counts) do
    log(config, :warning, limit_text(limit, left_out, config))
    emit(config, [:membership, :limit], %{left_out: left_out}, %{limit: limit})
  end

  def report(config, {:pruned, names, spared}, _counts) do
    if names != [], do: log(config, :warning, "disconnecting #{list(names)}: gone from DNS")

    if spared > 0 do
      log(
        config,
        :warning,
        "#{spared} more connected nodes are gone from DNS, but at most half are disconnected at the same time"
      )
    end

    for name <- names,
        do: emit(config, [:node, :prune], %{spared: spared}, %{node: atom(name)})

    :ok
  end

  def report(config, {:port_conflict, names}, _counts) do
    log(
      config,
      :warning,
      "SRV records give #{list(names)} more than one port. The lowest port of the first query is used. " <>
        "If they are different nodes on one host, give them different names (option :node_name)"
    )
  end

  @doc "Emits the events of a connect that has ended."
  @spec connected(Config.t(), String.t(), Connector.result(), duration :: integer) :: :ok
  def connected(config, name, result, duration) do
    node = %{node: atom(name)}
    emit(config, [:node, :connect, :stop], %{duration: duration}, Map.put(node, :result, result))

    case result do
      :ok ->
        libcluster(config, :connect_node, :ok, %{duration: duration}, node)

      {:error, why} ->
        libcluster(config, :connect_node, :error, %{}, Map.put(node, :reason, reason(why)))
    end
  end

  @doc "Emits the event of a disconnect that has ended. Logs a warning if the disconnect function failed."
  @spec disconnected(Config.t(), String.t(), Connector.result(), duration :: integer) :: :ok
  def disconnected(config, name, :ok, duration),
    do: libcluster(config, :disconnect_node, :ok, %{duration: duration}, %{node: atom(name)})

  def disconnected(config, name, {:error, why}, _duration) do
    if why != :unreachable do
      log(config, :warning, "cannot disconnect #{name}: #{describe(why, "disconnect")}")
    end

    metadata = %{node: atom(name), reason: reason(why, :already_disconnected)}
    libcluster(config, :disconnect_node, :error, %{}, metadata)
  end

  @doc "Logs why a node cannot be connected."
  @spec connect_failed(Config.t(), String.t(), String.t()) :: :ok
  def connect_failed(config, name, text),
    do: log(config, :warning, "cannot connect to #{name}: #{text}")

  @doc "Logs and emits what a diagnosis has found."
  @spec diagnosed(Config.t(), String.t(), Probe.finding(), duration :: integer) :: :ok
  def diagnosed(config, name, finding, duration) do
    connect_failed(config, name, Diagnosis.text(finding))
    metadata = %{node: atom(name), finding: elem(finding, 0)}
    emit(config, [:node, :connect, :diagnosis], %{duration: duration}, metadata)
  end

  @doc "Logs and emits the start or the end of a drain. `connected` is the number of connected nodes."
  @spec drained(Config.t(), :drain | :resume, connected :: non_neg_integer) :: :ok
  def drained(config, what, connected) do
    text = %{drain: "drained: leaving the cluster", resume: "resumed: joining the cluster again"}
    log(config, :info, text[what])
    emit(config, [:membership, what], %{connected: connected}, %{})
  end

  @doc "Logs why a leave job failed. A timeout is not logged, because the caller of `drain/1` gets it as the reply."
  @spec left(Config.t(), :ok | {:error, :timeout | {:failed, term}}) :: :ok
  def left(config, {:error, {:failed, reason}}),
    do: log(config, :error, "leaving the cluster failed: #{inspect(reason)}")

  def left(_config, _ok_or_timeout), do: :ok

  @doc "Returns a text for the reason why a node was not connected, or disconnected."
  @spec describe(Connector.reason() | :not_listed, String.t()) :: String.t()
  def describe(reason, function \\ "connect")

  def describe(:unreachable, _function),
    do: "not reachable, or it refused the connection (another cookie, another name)"

  def describe(:not_distributed, _function), do: "this node is not alive"
  def describe(:timeout, _function), do: "no result within :connect_timeout"

  def describe(:not_listed, _function),
    do: "the connect function returned true, but the node is not connected (see :list_nodes)"

  def describe({:crashed, reason}, function),
    do: "the #{function} function failed: #{inspect(reason)}"

  def describe({:returned, other}, function),
    do: "the #{function} function returned #{inspect(other)}"

  defp limit_text(:max_nodes, left_out, config) do
    "DNS has more than #{config.max_nodes} nodes (:max_nodes). #{left_out} of them are left out"
  end

  defp limit_text(:max_new_names, left_out, config) do
    "DNS returned more than #{config.max_new_names} new names within a day (:max_new_names). " <>
      "#{left_out} of them are not connected. Nodes that were connected before are not affected"
  end

  defp limit_text(:atom_table, left_out, _config) do
    "the VM's atom table is nearly full, so #{left_out} new names from DNS are not connected. " <>
      "See :erlang.system_info(:atom_count) and the VM argument +t"
  end

  # The reasons that libcluster emits (lib/strategy/strategy.ex of 3.5).
  defp reason(why, unreachable \\ :unreachable)
  defp reason(:unreachable, unreachable), do: unreachable
  defp reason(:not_distributed, _unreachable), do: :not_part_of_network
  defp reason(other, _unreachable), do: inspect(other)

  defp list(names) do
    {first, rest} = Enum.split(Enum.sort(names), @named)
    more = if rest == [], do: "", else: " and #{length(rest)} more"
    Enum.join(first, ", ") <> more
  end

  # Safe: the nodes in events were connected or dialled, so they have an atom.
  defp atom(name) do
    {:ok, node} = NodeAtom.existing(name)
    node
  end

  defp emit(config, event, measurements, metadata) do
    metadata = Map.put(metadata, :topology, config.topology)
    Telemetry.execute([:caravan | event], measurements, metadata)
  end

  defp libcluster(config, event, outcome, measurements, metadata) do
    metadata = Map.put(metadata, :topology, config.topology)
    Telemetry.execute([:libcluster, event, outcome], measurements, metadata)
  end
end
