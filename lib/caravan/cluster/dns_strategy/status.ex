defmodule Caravan.Cluster.DnsStrategy.Status do
  # Owner-state. The table from which Caravan.Cluster reads the status of a topology.
  #
  # The strategy owns the table and writes it. Other processes read it without a message, so they can read it while the
  # strategy hangs. The table has the registered name of the strategy, and ends with the strategy.
  #
  # A write of the nodes walks over all peers. So there is a shortest time between two writes, which grows with the
  # number of nodes. After a change within this time, a timer writes the nodes. What ready?/2 reads is written at once.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery
  alias Caravan.Cluster.Distribution.Connector
  alias Caravan.Cluster.DnsStrategy.Connections
  alias Caravan.Cluster.DnsStrategy.Failures
  alias Caravan.Cluster.Job
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.Report

  @enforce_keys [:table, :failures]
  defstruct @enforce_keys ++
              [
                readiness: {false, false, 0},
                complete: false,
                lookups: %{},
                counts: nil,
                changed: true,
                written_at: nil,
                timer: nil
              ]

  @typedoc """
    * `:readiness`, `:complete`, `:lookups`: the contents of these rows of the table;
    * `:counts`: the counts at the last update;
    * `:failures`: why nodes could not be connected. A write of the nodes deletes those of nodes that are not missing;
    * `:changed`: whether the nodes have changed since they were written;
    * `:timer`: the timer of the next write, if it waits for its time.
  """
  @opaque t :: %__MODULE__{
            table: atom,
            readiness: {drained :: boolean, responded :: boolean, most_connected :: integer},
            complete: boolean,
            lookups: %{Config.source() => Discovery.finished()},
            counts: Membership.counts() | nil,
            failures: Failures.t(),
            changed: boolean,
            written_at: integer | nil,
            timer: reference | nil
          }

  # Nodes that are written per millisecond, on average. A write takes about 0.5 µs per node, so writes take at most
  # 2 % of the time.
  @nodes_per_ms 40

  # A node that joins n others has n changes, and a write at each of them would take n * n rows. So the wait also grows with
  # the square of the nodes: 2 ms for 10 nodes, and @longest ms for 57 and more. With waits of 15 ms, 60 VMs
  # on one machine took a tenth more CPU time to form a mesh (bench/README.md).
  @squares_per_ms 40
  @longest 80

  @doc "Creates the table of a strategy. `table` is its registered name."
  @spec new(table :: atom, Config.t()) :: t
  def new(table, %Config{} = config) do
    ^table = :ets.new(table, [:named_table, :protected, read_concurrency: true])
    status = %__MODULE__{table: table, failures: Failures.new()}
    true = :ets.insert(table, {:config, config})
    true = :ets.insert(table, {:topology, config.topology, config.sources})
    true = :ets.insert(table, {:readiness, status.readiness})
    true = :ets.insert(table, {:complete, status.complete})
    true = :ets.insert(table, {:lookups, status.lookups})
    true = :ets.insert(table, {:nodes, []})
    status
  end

  @doc """
  Writes what has changed since the last call.

  `responded` says whether each source has had a response, and `complete` whether `Caravan.Epmd.Peers` has all nodes that
  the queries name.
  """
  @spec update(t, Membership.t(), Discovery.t(), responded :: boolean, complete :: boolean) :: t
  def update(%__MODULE__{} = status, membership, discovery, responded, complete) do
    status
    |> put_readiness(membership, responded)
    |> put_complete(complete)
    |> put_lookups(Discovery.finished_lookups(discovery))
    |> put_nodes(membership, now())
  end

  @doc "Notes that a node has changed although the number of nodes may be the same as before."
  @spec changed(t) :: t
  def changed(%__MODULE__{} = status), do: %{status | changed: true}

  @doc "Notes why a node cannot be connected, if the outcome of a job says so."
  @spec job_ended(t, Connections.tag(), Job.outcome()) :: t
  def job_ended(%__MODULE__{} = status, {:connect, name}, outcome) do
    case Connector.result(outcome) do
      {:error, reason} -> connect_failed(status, name, reason)
      :ok -> status
    end
  end

  def job_ended(%__MODULE__{} = status, {:diagnose, name, _reason}, {:ok, finding}),
    do: put_failures(status, Failures.diagnosed(status.failures, name, finding))

  def job_ended(%__MODULE__{} = status, {:release, _name}, _outcome), do: changed(status)
  def job_ended(%__MODULE__{} = status, _tag, _outcome), do: status

  @doc "Notes why a node cannot be connected."
  @spec connect_failed(t, String.t(), Connector.reason() | :not_listed) :: t
  def connect_failed(%__MODULE__{} = status, name, reason),
    do: put_failures(status, Failures.connect_failed(status.failures, name, reason))

  defp put_failures(%{failures: failures} = status, failures), do: status
  defp put_failures(status, failures), do: %{status | failures: failures, changed: true}

  @doc """
  Returns the members that are missing and the lookups that fail, with the reasons, or `nil` during a drain.

  A node that has announced that it leaves is not missing.
  """
  @spec troubles(t, Membership.t(), Discovery.t()) :: Report.troubles() | nil
  def troubles(%__MODULE__{} = status, membership, discovery) do
    missing =
      for {name, {true, {:missing, since, false}}} <- Membership.nodes(membership),
          do: {name, since, text(Failures.of(status.failures, name))}

    finished = Discovery.finished_lookups(discovery)

    failing =
      for {source, since} <- Membership.failing(membership),
          %{text: text} when text != nil <- [finished[source]],
          do: {source, since, text}

    unless Membership.drained?(membership) do
      %{missing: missing, members: Membership.counts(membership).members, failing: failing}
    end
  end

  defp text(nil), do: nil
  defp text({_id, text}), do: text

  @doc "Handles the message of the timer. Call `update/5` afterwards. Returns `:unknown` for other messages."
  @spec handle(t, message :: term) :: t | :unknown
  def handle(%__MODULE__{} = status, {__MODULE__, :write}), do: %{status | timer: nil}
  def handle(%__MODULE__{}, _message), do: :unknown

  ## Writing

  # The nodes that are still connected during a drain do not count: after a resume, the number has to be reached again.
  defp put_readiness(%{readiness: {_, _, most} = before} = status, membership, responded) do
    counts = Membership.counts(membership)
    drained = Membership.drained?(membership)
    most = if drained, do: 0, else: max(most, counts.connected)
    readiness = {drained, responded, most}
    if readiness != before, do: :ets.insert(status.table, {:readiness, readiness})
    changed = status.changed or counts != status.counts
    %{status | readiness: readiness, counts: counts, changed: changed}
  end

  defp put_complete(%{complete: complete} = status, complete), do: status

  defp put_complete(status, complete) do
    :ets.insert(status.table, {:complete, complete})
    %{status | complete: complete}
  end

  defp put_lookups(%{lookups: lookups} = status, lookups), do: status

  defp put_lookups(status, lookups) do
    :ets.insert(status.table, {:lookups, lookups})
    %{status | lookups: lookups}
  end

  defp put_nodes(%{changed: false} = status, _membership, _now), do: status
  defp put_nodes(%{timer: timer} = status, _membership, _now) when timer != nil, do: status

  defp put_nodes(status, membership, now) do
    case wait(status, now) do
      0 -> write_nodes(status, membership, now)
      wait -> %{status | timer: Process.send_after(self(), {__MODULE__, :write}, wait)}
    end
  end

  defp wait(%{written_at: nil}, _now), do: 0

  defp wait(%{written_at: at, counts: counts}, now) do
    nodes = max(counts.members, counts.connected)
    wait = max(div(nodes, @nodes_per_ms), min(div(nodes * nodes, @squares_per_ms), @longest))
    max(0, at + wait - now)
  end

  defp write_nodes(status, membership, now) do
    nodes = Membership.nodes(membership)
    missing = for {name, {true, {:missing, _since, _draining}}} <- nodes, do: name
    failures = Failures.keep(status.failures, missing)
    :ets.insert(status.table, {:nodes, Enum.map(nodes, &row(&1, failures))})
    %{status | failures: failures, changed: false, written_at: now}
  end

  defp row({name, {true, {:missing, since, draining}}}, failures) do
    why =
      if draining,
        do: {"peer.drained", "it has announced that it leaves"},
        else: Failures.of(failures, name)

    {name, {true, {:missing, since, why}}}
  end

  defp row(node, _failures), do: node

  ## Reading, in any process

  @doc """
  Returns whether each source had a response, and this number of nodes were connected since the last drain.

  If the option `:links` is a smaller number, that number of nodes is enough.
  """
  @spec ready?(table :: atom, nodes :: non_neg_integer) :: boolean | :not_running
  def ready?(table, nodes) do
    with {:readiness, {drained, responded, most}} <- lookup(table, :readiness),
         {:config, config} <- lookup(table, :config) do
      not drained and responded and most >= Config.nodes_to_wait_for(config, nodes)
    else
      nil -> :not_running
    end
  end

  @doc "Returns whether `Caravan.Epmd.Peers` has all nodes that the queries of a strategy name."
  @spec complete?(table :: atom) :: boolean
  def complete?(table), do: lookup(table, :complete) == {:complete, true}

  @doc "Returns the topology of a strategy, or `nil` if it does not run."
  @spec topology(table :: atom) :: atom
  def topology(table) do
    case lookup(table, :topology) do
      {:topology, topology, _sources} -> topology
      nil -> nil
    end
  end

  @doc "Returns the configuration of a strategy, or `nil` if it does not run."
  @spec config(table :: atom) :: Config.t() | nil
  def config(table) do
    case lookup(table, :config) do
      {:config, config} -> config
      nil -> nil
    end
  end

  @doc "Returns the status, as `Caravan.Cluster.status/1` does."
  @spec read(table :: atom) :: {:ok, map} | {:error, :not_running}
  def read(table) do
    with {:topology, topology, sources} <- lookup(table, :topology),
         {:readiness, {drained, responded, _most}} <- lookup(table, :readiness),
         {:lookups, lookups} <- lookup(table, :lookups),
         {:nodes, nodes} <- lookup(table, :nodes) do
      now = now()
      nodes = Enum.sort(nodes)

      {:ok,
       %{
         topology: Atom.to_string(topology),
         drained: drained,
         ready: responded and not drained,
         members: for({name, {true, _status}} <- nodes, do: name),
         connected: names(nodes, [:preferred, :stand_in, :connected]),
         links: %{preferred: names(nodes, [:preferred]), stand_ins: names(nodes, [:stand_in])},
         missing:
           for(
             {name, {true, {:missing, since, why}}} <- nodes,
             do: missing(name, now - since, why)
           ),
         sources: for(source <- sources, do: source(source, lookups[source], now))
       }}
    else
      nil -> {:error, :not_running}
    end
  end

  defp names(nodes, statuses),
    do: for({name, {_member, status}} <- nodes, status in statuses, do: name)

  defp missing(name, since_ms, nil),
    do: %{node: name, since_ms: since_ms, id: nil, finding: nil}

  defp missing(name, since_ms, {id, text}),
    do: %{node: name, since_ms: since_ms, id: id, finding: text}

  defp source({query, type}, nil, _now) do
    none = Map.new([:result, :records, :ttl, :nameserver, :age_ms], &{&1, nil})
    Map.merge(none, %{query: query, type: Atom.to_string(type)})
  end

  defp source({query, type}, lookup, now) do
    %{
      query: query,
      type: Atom.to_string(type),
      result: result(lookup.result),
      records: lookup.records,
      ttl: lookup.ttl && div(lookup.ttl, 1_000),
      nameserver: lookup.nameserver,
      age_ms: now - lookup.at
    }
  end

  # Some kinds of errors come with a text.
  defp result({kind, _text}), do: Atom.to_string(kind)
  defp result(kind), do: Atom.to_string(kind)

  # The strategy may end at any time, and its table with it.
  defp lookup(table, key) do
    case :ets.lookup(table, key) do
      [row] -> row
      [] -> nil
    end
  rescue
    ArgumentError -> nil
  end

  defp now, do: System.monotonic_time(:millisecond)
end
