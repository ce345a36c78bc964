defmodule Caravan.Cluster.Report do
  # Effect. What an operator sees: log lines and telemetry events.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.Connector
  alias Caravan.Cluster.Distribution.Diagnosis
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Distribution.OwnNode
  alias Caravan.Cluster.Membership.State
  alias Caravan.Cluster.NameList
  alias Caravan.Cluster.OwnName
  alias Caravan.Telemetry

  require Logger

  @typedoc """
  Troubles that may last. All times are in milliseconds.

    * `:missing`: the members that are missing, each with the time since which it is missing, and a text that says why;
    * `:members`: the number of all members;
    * `:failing`: the sources whose lookups fail, each with the time of the first failure and the text of the last one.
  """
  @type troubles :: %{
          missing: [{String.t(), since :: integer, String.t() | nil}],
          members: non_neg_integer,
          failing: [{Config.source(), since :: integer, String.t()}]
        }

  @doc """
  Logs a line, if the option `:log_level` allows its level.

  The metadata may have the `:node` that the line is about, as a string, and the id of the `:check` that it belongs to.
  """
  @spec log(Config.t(), Logger.level(), String.t(), [{:node | :check, String.t()}]) :: :ok
  def log(%Config{log_level: lowest} = config, level, text, metadata \\ []) do
    metadata = [domain: [:caravan], topology: config.topology] ++ metadata

    if lowest != :none and Logger.compare_levels(level, lowest) != :lt,
      do: Logger.log(level, "[caravan:#{config.topology}] #{text}", metadata),
      else: :ok
  end

  @doc "Logs and emits a report of `Membership`. `counts` are those after the change."
  @spec report(Config.t(), State.report(), counts :: %{connected: integer, members: integer}) ::
          :ok
  def report(config, {:nodes_up, names, link}, counts) do
    for name <- names do
      log(config, :info, "connected to #{name}#{link_text(link)}", node: name)
      emit(config, [:node, :up], Map.take(counts, [:connected]), node_metadata(name, link))
    end

    :ok
  end

  # The line of {:link_released, name} says that this topology has disconnected the node.
  def report(config, {:nodes_down, names, link}, counts) do
    for name <- names do
      if link != :released,
        do: log(config, :warning, "lost #{name}#{link_text(link)}", node: name)

      emit(config, [:node, :down], Map.take(counts, [:connected]), node_metadata(name, link))
    end

    :ok
  end

  def report(config, {:link_released, name}, counts) do
    log(
      config,
      :info,
      "disconnected #{name}, a stand-in: all #{config.links} preferred nodes are connected again",
      node: name
    )

    emit(config, [:node, :release], Map.take(counts, [:connected]), %{node: atom(name)})
  end

  def report(config, {:members_changed, added, removed}, counts) do
    if removed != [], do: log(config, :info, "no longer in DNS: #{NameList.sorted(removed)}")
    measurements = %{members: counts.members, added: length(added), removed: length(removed)}
    emit(config, [:membership, :change], measurements, %{added: added, removed: removed})
  end

  def report(config, {:lookup_failed, _source, {kind, text}}, _counts) do
    check = if kind in [:nxdomain, :no_records], do: "dns.empty", else: "dns.lookup"
    log(config, :warning, text <> configured(config), check: check)
  end

  def report(config, {:no_records, _source, {_kind, text}}, _counts),
    do: log(config, :debug, text, check: "dns.empty")

  def report(config, {:lookup_recovered, {query, _type}}, _counts),
    do: log(config, :info, "DNS answers again for #{inspect(query)}", check: "dns.lookup")

  def report(config, {:limit, limit, left_out}, _counts) do
    log(config, :warning, limit_text(limit, left_out, config), check: "dns.names")
    emit(config, [:membership, :limit], %{left_out: left_out}, %{limit: limit})
  end

  def report(config, {:pruned, names, spared}, _counts) do
    if names != [] do
      log(
        config,
        :warning,
        "gone from DNS, and disconnected unless another topology needs them: #{NameList.sorted(names)}"
      )
    end

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
      "SRV records give #{NameList.sorted(names)} more than one port. The lowest port of the first query is used. " <>
        "If these are the ports of different nodes on one host, give the nodes different names (option :node_name)",
      check: "dns.names"
    )
  end

  @doc "Logs that a trouble lasts: that members are missing, or that the lookups of a source fail."
  @spec lasting(Config.t(), :missing | {:failing, Config.source()}, troubles, now :: integer) ::
          :ok
  def lasting(config, :missing, %{missing: missing, members: members}, now) do
    [{first, _since, why} | _] = missing = Enum.sort_by(missing, &{elem(&1, 1), elem(&1, 0)})
    names = for {name, since, _why} <- missing, do: "#{name} (for #{duration(now - since)})"
    why = if why, do: ". The last attempt to connect #{first}: #{why}", else: ""
    text = "still #{length(missing)} of #{members} members missing: #{NameList.text(names)}#{why}"
    log(config, :warning, text)
  end

  def lasting(config, {:failing, source}, %{failing: failing}, now) do
    {_source, since, text} = List.keyfind(failing, source, 0)
    log(config, :warning, "still, for #{duration(now - since)}: #{text}", check: "dns.lookup")
  end

  defp duration(ms) do
    case div(ms, 60_000) do
      0 -> "less than a minute"
      1 -> "a minute"
      minutes when minutes < 60 -> "#{minutes} minutes"
      minutes when minutes < 120 -> "an hour"
      minutes -> "#{div(minutes, 60)} hours"
    end
  end

  @doc "Logs what DNS says about this node."
  @spec own_name(Config.t(), OwnName.finding(), OwnName.own()) :: :ok
  def own_name(config, :named, own),
    do: log(config, :info, "DNS names this node, #{own.name}", check: "dns.self")

  def own_name(config, finding, own) do
    level = if finding == :not_named, do: :info, else: :warning
    log(config, level, OwnName.text(finding, own), check: "dns.self")
  end

  @doc "Logs which connected nodes no query names."
  @spec unnamed(Config.t(), [String.t()]) :: :ok
  def unnamed(_config, []), do: :ok

  def unnamed(config, names) do
    log(
      config,
      :info,
      "connected, but not named by any query: #{NameList.sorted(names)}. Either DNS lacks a record, or the nodes belong to another " <>
        "cluster with the same cookie",
      check: "dns.names"
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
      text = "cannot disconnect #{name}: #{describe(why, "disconnect")}"
      log(config, :warning, text, node: name)
    end

    metadata = %{node: atom(name), reason: reason(why, :already_disconnected)}
    libcluster(config, :disconnect_node, :error, %{}, metadata)
  end

  @doc "Logs why a node stays connected although this topology would disconnect it."
  @spec kept(Config.t(), String.t(), :wanted | :unknown) :: :ok
  def kept(config, name, why) do
    why =
      %{
        wanted: "another topology needs it",
        unknown: "another topology does not reply, or has had no answer yet, and may need it"
      }[why]

    log(config, :info, "#{name} stays connected: #{why}", node: name)
  end

  @doc "Logs why a node cannot be connected."
  @spec connect_failed(Config.t(), String.t(), Connector.reason() | :not_listed) :: :ok
  def connect_failed(config, name, reason),
    do: connect_failed(config, name, check(reason), describe(reason))

  defp connect_failed(config, name, check, text),
    do: log(config, :warning, "cannot connect to #{name}: #{text}", node: name, check: check)

  # The port of a name without a number depends on settings, which must be the same on both nodes.
  defp port_hint(%{ports: :name}, name, {:refused, _where}) do
    if name =~ ~r/\d@/ do
      ""
    else
      {base, rule} = OwnNode.port_settings()
      ". This node has base_port #{base} and port_rule #{rule}, from which the port follows"
    end
  end

  defp port_hint(_config, _name, _finding), do: ""

  @doc "Returns the id of the check that the reason of a failed connect belongs to."
  @spec check(Connector.reason() | :not_listed) :: String.t()
  def check(:not_distributed), do: "node.alive"
  def check(_reason), do: "peer.connected"

  @doc "Logs and emits what a diagnosis has found."
  @spec diagnosed(Config.t(), String.t(), Diagnosis.finding(), duration :: integer) :: :ok
  def diagnosed(config, name, finding, duration) do
    text = Diagnosis.text(finding) <> port_hint(config, name, finding)
    connect_failed(config, name, Diagnosis.id(finding), text)
    metadata = %{node: atom(name), finding: elem(finding, 0)}
    emit(config, [:node, :connect, :diagnosis], %{duration: duration}, metadata)
  end

  @doc "Emits the status of the topology."
  @spec status(Config.t(), measurements :: %{atom => non_neg_integer}) :: :ok
  def status(config, measurements), do: emit(config, [:topology, :status], measurements, %{})

  @doc "Logs and emits the start or the end of a drain. `connected` is the number of connected nodes."
  @spec drained(Config.t(), :drain | :resume, connected :: non_neg_integer) :: :ok
  def drained(config, what, connected) do
    text = %{drain: "drained: leaving the cluster", resume: "resumed: joining the cluster again"}
    log(config, :info, text[what])
    emit(config, [:membership, what], %{connected: connected}, %{})
  end

  @doc "Logs why members stay in the quarantine of another topology's drain."
  @spec released(Config.t(), :ok | {:error, reason :: term}) :: :ok
  def released(_config, :ok), do: :ok

  def released(config, {:error, reason}) do
    text =
      "members that a drain of another topology keeps out cannot connect yet, because their cookies could not be changed: "

    log(config, :warning, text <> inspect(reason))
  end

  @doc "Logs why a leave job failed. A timeout is not logged, because the caller of `drain/1` gets it as the reply."
  @spec left(Config.t(), :ok | {:error, :timeout | {:failed, term}}) :: :ok
  def left(config, {:error, {:failed, reason}}),
    do: log(config, :error, "leaving the cluster failed: #{inspect(reason)}")

  def left(_config, _ok_or_timeout), do: :ok

  @doc "Returns a text for the nameservers of a topology."
  @spec nameservers(Config.t()) :: String.t()
  def nameservers(%{dns_client: client}) when client != nil,
    do: "the dns_client #{inspect(client)}"

  def nameservers(%{nameservers: []}), do: "those of /etc/resolv.conf"
  def nameservers(%{nameservers: nameservers}), do: Enum.join(nameservers, ", ")

  # A list of one nameserver would add nothing: the text of the error names it already.
  defp configured(%{dns_client: client}) when client != nil, do: ""
  defp configured(%{nameservers: [_]}), do: ""
  defp configured(config), do: ". Nameservers: #{nameservers(config)}"

  @doc "Returns a text that says why a connect or a disconnect failed. `function` is `connect` or `disconnect`."
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

  defp link_text(:preferred), do: " (preferred)"
  defp link_text(:stand_in), do: " (stand-in)"
  defp link_text(_other), do: ""

  defp node_metadata(name, nil), do: %{node: atom(name)}
  defp node_metadata(name, link), do: %{node: atom(name), link: link}

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
