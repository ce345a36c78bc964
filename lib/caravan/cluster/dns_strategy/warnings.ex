defmodule Caravan.Cluster.DnsStrategy.Warnings do
  # Owner-state. What the strategy warns about: conditions when they begin, troubles that last, nodes with another
  # connect_all, and nodes that no query names.
  @moduledoc false

  alias Caravan.Cluster.Alarms
  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.ConnectAll
  alias Caravan.Cluster.DnsStrategy.PeerSettings
  alias Caravan.Cluster.DnsStrategy.UnnamedNodes
  alias Caravan.Cluster.Reminders
  alias Caravan.Cluster.Report

  @enforce_keys [:config, :alarms, :reminders, :peer_settings, :unnamed_nodes]
  defstruct @enforce_keys ++ [checked_at: nil, peer_table_full?: false]

  @opaque t :: %__MODULE__{
            config: Config.t(),
            alarms: Alarms.t(),
            reminders: Reminders.t(),
            peer_settings: PeerSettings.t(),
            unnamed_nodes: UnnamedNodes.t(),
            checked_at: integer | nil,
            peer_table_full?: boolean
          }

  # Milliseconds between two checks for troubles that last. A check walks over all peers.
  @check_every 10_000

  @doc "Returns the warnings of a strategy. `key` is its registered name."
  @spec new(Config.t(), key :: atom) :: t
  def new(%Config{} = config, key) do
    %__MODULE__{
      config: config,
      alarms: Alarms.new(),
      reminders: Reminders.new(),
      peer_settings: PeerSettings.new(config),
      unnamed_nodes: UnnamedNodes.new(config, key)
    }
  end

  @doc """
  Starts the checks of the nodes that are connected already: what their connect_all is, and whether a query names them.
  """
  @spec start(t) :: t
  def start(%__MODULE__{} = warnings) do
    %{
      warnings
      | peer_settings: PeerSettings.start(warnings.peer_settings),
        unnamed_nodes: UnnamedNodes.start(warnings.unnamed_nodes, now())
    }
  end

  @doc "Starts the same checks of a node after its nodeup. `info` is that of `:net_kernel.monitor_nodes/2`."
  @spec nodeup(t, node, info :: term) :: t
  def nodeup(%__MODULE__{} = warnings, node, info) do
    %{
      warnings
      | peer_settings: PeerSettings.nodeup(warnings.peer_settings, node, info),
        unnamed_nodes: UnnamedNodes.nodeup(warnings.unnamed_nodes, node, info, now())
    }
  end

  @doc "Forgets a node that is not connected any more."
  @spec nodedown(t, node) :: t
  def nodedown(%__MODULE__{} = warnings, node) do
    unnamed_nodes = UnnamedNodes.nodedown(warnings.unnamed_nodes, node)

    connect_all(
      %{warnings | unnamed_nodes: unnamed_nodes},
      PeerSettings.nodedown(warnings.peer_settings, node)
    )
  end

  @doc """
  Handles the replies of connected nodes to the question for their connect_all, and the timer before the next question.
  Returns `:unknown` for other messages.
  """
  @spec handle(t, message :: term) :: t | :unknown
  def handle(%__MODULE__{} = warnings, message) do
    with {_differing, _settings} = result <- PeerSettings.handle(warnings.peer_settings, message),
         do: connect_all(warnings, result)
  end

  @doc "Stops asking connected nodes for their connect_all."
  @spec stop(t) :: t
  def stop(%__MODULE__{} = warnings),
    do: %{warnings | peer_settings: PeerSettings.stop(warnings.peer_settings)}

  @doc """
  Reports a trouble again when it has lasted for five minutes, and then each hour. There are two kinds: lookups that
  fail, and missing members. If this function has reported missing members, it also reports when none is missing any
  more. For lookups, `Membership` reports the end.

  Calls `troubles` at most once in ten seconds. If it returns `nil`, the strategy is drained, and nothing is reported.
  """
  @spec remind(t, troubles :: (() -> Report.troubles() | nil)) :: t
  def remind(%__MODULE__{checked_at: at} = warnings, troubles) do
    now = now()

    if at != nil and now - at < @check_every,
      do: warnings,
      else: remind(%{warnings | checked_at: now}, troubles.(), now)
  end

  defp remind(warnings, nil, _now), do: %{warnings | reminders: Reminders.new()}

  defp remind(%{config: config} = warnings, troubles, now) do
    failing =
      Map.new(troubles.failing, fn {source, since, _text} -> {{:failing, source}, since} end)

    since = for {_name, since, _text} <- troubles.missing, do: since
    missing = if since == [], do: %{}, else: %{missing: Enum.min(since)}

    {due, over, reminders} =
      Reminders.update(warnings.reminders, Map.merge(failing, missing), now)

    for key <- due, do: :ok = Report.lasting(config, key, troubles, now)
    if :missing in over, do: Report.log(config, :info, "no member is missing any more")
    %{warnings | reminders: reminders}
  end

  @doc "Warns if a custom `:list_nodes` function failed. With `:ok`, the condition is over."
  @spec list_nodes(t, :ok | {:error, String.t()}) :: t
  def list_nodes(%__MODULE__{} = warnings, :ok), do: clear(warnings, :list_nodes)

  def list_nodes(%__MODULE__{} = warnings, {:error, text}),
    do: warn(warnings, :list_nodes, text)

  @doc """
  Warns if records of an answer were left out. `reasons` has one reason for each of them. Without a reason, the
  condition is over.
  """
  @spec left_out(t, Config.source(), reasons :: [String.t()]) :: t
  def left_out(%__MODULE__{} = warnings, source, []), do: clear(warnings, {:left_out, source})

  def left_out(%__MODULE__{} = warnings, {query, _type} = source, [reason | _] = reasons) do
    count = length(reasons)

    text =
      "#{count} records of #{inspect(query)} are left out. The reason for the first: #{reason}"

    warn(warnings, {:left_out, source}, text, check: "dns.names")
  end

  @doc """
  Warns if the addresses of the topology did not fit into `Caravan.Epmd.Peers`. The table then keeps the previous ones.
  With `:ok`, the condition is over.
  """
  @spec peer_table(t, :ok | {:error, :full}) :: t
  def peer_table(%__MODULE__{} = warnings, :ok),
    do: clear(%{warnings | peer_table_full?: false}, :peer_table)

  def peer_table(%__MODULE__{} = warnings, {:error, :full}) do
    text =
      "the peer table is full, so it lacks new addresses of this topology (see Caravan.Epmd.Peers)"

    warn(%{warnings | peer_table_full?: true}, :peer_table, text)
  end

  @doc "Returns whether addresses of the topology did not fit into `Caravan.Epmd.Peers`."
  @spec peer_table_full?(t) :: boolean
  def peer_table_full?(%__MODULE__{peer_table_full?: full?}), do: full?

  @doc "Reports connected nodes that no query names. Call it when the peer table has all members."
  @spec unnamed_nodes(t) :: t
  def unnamed_nodes(%__MODULE__{} = warnings),
    do: %{warnings | unnamed_nodes: UnnamedNodes.report(warnings.unnamed_nodes, now())}

  # Without nodes that differ, the condition is over. Names one node only, so that the text takes no time while
  # thousands of nodes differ.
  defp connect_all(warnings, {differing, settings}) do
    warnings = %{warnings | peer_settings: settings}

    case differing do
      [] ->
        clear(warnings, :connect_all)

      [node | _others] ->
        text =
          ConnectAll.advice([node]) <>
            "Caravan.check/0 names up to ten nodes that differ, and counts the others."

        warn(warnings, :connect_all, text, check: "cluster.connect_all")
    end
  end

  defp warn(%{config: config} = warnings, condition, text, metadata \\ []) do
    {new?, alarms} = Alarms.set(warnings.alarms, condition, now())
    if new?, do: Report.log(config, :warning, text, metadata)
    %{warnings | alarms: alarms}
  end

  # A condition that ends and begins again within :keep is not reported again. Otherwise it would be reported many times
  # if one of several nameservers answers differently from the others.
  defp clear(%{config: config, alarms: alarms} = warnings, condition),
    do: %{warnings | alarms: Alarms.clear(alarms, condition, now(), config.keep)}

  defp now, do: System.monotonic_time(:millisecond)
end
