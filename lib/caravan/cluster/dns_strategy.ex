defmodule Caravan.Cluster.DnsStrategy do
  # Process. One topology: takes messages in, lets Membership decide, and carries out its actions.

  alias Caravan.Cluster.Config

  @moduledoc """
  Finds the nodes of a cluster in DNS and connects to them.

  As a libcluster strategy:

      config :libcluster,
        topologies: [
          app: [
            strategy: Caravan.Cluster.DnsStrategy,
            config: [query: "_app._tcp.service.consul", node_sname: "app"]
          ]
        ]

  Without libcluster, as a child of a supervisor:

      children = [
        {Caravan.Cluster.DnsStrategy, query: "_app._tcp.service.consul", node_sname: "app"}
      ]

  The SRV record `0 0 4001 node1.example.com` is the node `app-4001@node1.example.com`. With this name,
  `Caravan.Epmd` makes the node listen on port 4001.

  `Caravan.Cluster` has functions to wait for nodes and to leave the cluster. `Caravan.Telemetry` lists the events.

  ## Options

  #{Config.docs()}

  ## Lookups

    * The first lookups start with the process.
    * The next lookup starts when the TTL of the answer is over, within `:min_interval` and `:poll_interval`.
    * After a nodedown, the next lookup starts soon.
    * After failed lookups, the waits double, up to `:poll_interval`. From 40 connected nodes on, the longest wait grows
      with their number, up to six times `:poll_interval`.
    * Waits have jitter, so that a fleet does not query in step.
    * SRV targets whose addresses are not in the answer are looked up too, in the family of distribution (`-proto_dist`).
      A target is looked up again when its own TTL is over, after a minute at most, or after ten seconds if its node
      cannot be reached.

  ## Members

    * A node is a member if an answer contained it within the last `:keep` milliseconds. So a server that answers
      with a random part of its records gives the whole cluster in the end.
    * A lookup that fails removes no member. Neither does an answer that is empty or incomplete.
    * A record whose node name is not valid is left out. The reason is logged once.

  ## Connections

    * Members that are not connected are dialled, at most `:max_connects` at the same time.
    * A new member is connected without delay. After a nodedown or a failure, a probe comes first. It is a TCP connection
      to the address and port of the node, and it is closed at once. Only if it is accepted, OTP connects the node.
    * If the host drops packets, OTP would wait for them for seconds. A probe that has no reply is repeated instead,
      after the waits below. So a node is connected soon after its network works again. An attempt with its probe ends
      after `:connect_timeout`.
    * A message to a lost node makes OTP connect it without a probe, unless the VM has `-kernel dist_auto_connect never`.
      While that attempt waits for a host that drops packets, 7 s at most, the strategy cannot connect the node either.
    * The waits start again when the record of the node changes, and when it returns after longer than `:keep`, unless
      the node has announced that it leaves. When a lost node is connected again, the other lost nodes are dialled soon,
      once.
    * The strategy disconnects no node, except with `:prune`. When its process ends, the connections stay as they
      are.
    * A name becomes an atom only when its node is dialled: at most `:max_new_names` within 24 hours, and none while
      80 % of the VM's atom table are in use.

  ### Waits

  A wait grows with the time for which a node has been gone. A random part of up to a half is taken off a wait of a lost
  node, and of up to five eighths for a node that was never connected.

  | node | failure | at first | later | at most | attempts in the first minute, the first hour, each later hour |
  |---|---|---|---|---|---|
  | lost | none: after the nodedown | 50 to 200 ms | | | |
  | lost | the probe: the node refuses or does not reply | 200 ms | 1/300 of the time | 40 s | 400, 2,000, from 280 down to 120 |
  | lost | the connect: the handshake fails, or there is no probe | 500 ms | 1/10 of the time | 40 s | 45, 180, 120 |
  | never connected | either | 500 ms | the time | 1 min | 10, 90, 80 |

  A probe takes 0.1 ms of CPU. The other node logs nothing about it.

    * Each wait of a probe has at least 4 ms per member. So a lost node gets about 330 probes a second from all members
      together. In a cluster of 1,000 nodes, a lost node is probed every 2 to 4 s by each of them.
    * If DNS names n nodes that are not connected, a node that was never connected waits at least n × 10 ms. Its longest
      wait is a minute, or n × 120 ms if that is more.
    * A lost node whose connections end within 5 s, again and again, is dialled after 500 ms, and after twice as long
      each time, up to `:poll_interval` or a minute.
    * A node that has announced that it leaves is dialled after half a minute to a minute.
    * There are no probes with another `:connect` function than those of OTP, without `Caravan.Epmd`, and with a
      `-proto_dist` module that is not part of OTP, which may not use TCP.

  ## Ports and addresses

  Ports and addresses from DNS are put into `Caravan.Epmd.Peers`. There `Caravan.Epmd` finds them, so that it need not
  ask the resolver of the host. With `ports: :srv`, names need no port, because all nodes have it from the records. If
  queries return different ports, the first query in the options counts, unless it has failed for longer than
  `:keep`.

  ## Log

  Each change is one line: a node is connected or lost, a connect or a lookup fails for a new reason. A lookup that
  changes nothing logs nothing.

  ## Pruning

  With `prune: [after: 3]`, a connected node is disconnected if

    * it is not a member any more, and
    * it was missing from three consecutive complete answers of *every* query. So with a query that is never
      answered, for example for AAAA records in an IPv4 network, no node is disconnected.

  At most half of the connected nodes are disconnected at the same time. A node that stays connected is disconnected
  again after twice as many answers, each time.

  This is rarely worth it. OTP's `global` keeps clusters fully meshed with `prevent_overlapping_partitions`, which is
  on since OTP 25: a node reports each lost connection to all other nodes, and these disconnect one of the two nodes,
  even if it is healthy. Use `:prune` only if DNS is right, and if nodes vanish without closing their connections.
  A node that leaves on purpose calls `Caravan.Cluster.drain/1` instead. A node that is pruned although it is alive
  dials the other nodes again. It then stays connected until it has been missing from that many answers again.
  """

  use GenServer

  alias Caravan.Cluster.Discovery
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.DnsStrategy.Connections
  alias Caravan.Cluster.DnsStrategy.Departure
  alias Caravan.Cluster.DnsStrategy.Jobs
  alias Caravan.Cluster.DnsStrategy.NodeList
  alias Caravan.Cluster.DnsStrategy.Tick
  alias Caravan.Cluster.DnsStrategy.Waiters
  alias Caravan.Cluster.DnsStrategy.Warnings
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.Report
  alias Caravan.Cluster.Topologies
  alias Caravan.Epmd.Peers

  @enforce_keys ~w(config key membership discovery jobs nodes waiters departure warnings tick)a
  defstruct @enforce_keys

  @typedoc "The options above, or libcluster's list of one `Cluster.Strategy.State`."
  @type options :: keyword | [struct]

  @doc """
  Returns a child specification. Its id holds the topology, or else the query, so that a supervisor can have
  several strategies.
  """
  @spec child_spec(options) :: Supervisor.child_spec()
  def child_spec(options) do
    %{id: {__MODULE__, child_id(options)}, start: {__MODULE__, :start_link, [options]}}
  end

  @doc "Starts the strategy. Raises `ArgumentError` for a wrong option."
  @spec start_link(options) :: GenServer.on_start()
  def start_link([%{__struct__: Cluster.Strategy.State} = state]), do: start(state)
  def start_link(options), do: start(options)

  defp start(options), do: GenServer.start_link(__MODULE__, Config.new!(options))

  defp child_id([%{topology: topology}]), do: topology

  defp child_id(options) do
    if Keyword.keyword?(options), do: options[:topology] || options[:query]
  end

  ## Callbacks

  @impl true
  def init(%Config{} = config) do
    seed = :erlang.phash2({node(), make_ref(), System.system_time()}, 1_000_000_000)
    key = Topologies.register(config.topology)

    state = %__MODULE__{
      config: config,
      key: key,
      membership: Membership.new(config, seed, now()),
      discovery: Discovery.new(config),
      jobs: %Jobs{},
      nodes: NodeList.new(config),
      waiters: Waiters.new(),
      departure: Departure.new(key),
      warnings: Warnings.new(config),
      tick: Tick.new()
    }

    {:ok, state, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state) do
    _ = Caravan.Telemetry.load()
    :ok = Report.warn_if_not_on_caravan_epmd(state.config)
    :ok = Report.warn_if_host_has_capitals(state.config)

    # Includes hidden nodes: :connect may create hidden connections, and the default :list_nodes returns them.
    :ok = :net_kernel.monitor_nodes(true, node_type: :all)

    # The strategy was drained before it crashed.
    if Departure.drained?(state.departure),
      do: {:noreply, state |> stop_discovery() |> update(:departure, &Departure.leave/1)},
      else: {:noreply, refresh(state, [:tick])}
  end

  @impl true
  def handle_call({:await, nodes, timeout}, from, state) do
    waiters = Waiters.add(state.waiters, from, nodes, timeout)
    {:noreply, reply_to_waiters(%{state | waiters: waiters})}
  end

  def handle_call(:drain, from, state) do
    unless Departure.drained?(state.departure) do
      Report.drained(state.config, :drain, Membership.counts(state.membership).connected)
    end

    state = stop_discovery(state)
    names = peer_names(state)
    {:noreply, update(state, :departure, &Departure.drain(&1, from, names))}
  end

  def handle_call(:resume, _from, state) do
    if Departure.drained?(state.departure) do
      state = update(state, :departure, &Departure.resume/1)
      Report.drained(state.config, :resume, Membership.counts(state.membership).connected)
      {:reply, :ok, state |> dispatch([:resume]) |> refresh([])}
    else
      {:reply, :ok, state}
    end
  end

  # From the leave job of another strategy of this VM: the nodes that it must not disconnect.
  def handle_call(:peer_names, _from, state) do
    names = if Departure.drained?(state.departure), do: [], else: peer_names(state)
    {:reply, names, state}
  end

  # From the leave job of a peer.
  def handle_call({:draining, node}, _from, state) when is_atom(node),
    do: {:reply, :ok, dispatch(state, [{:peer_draining, NodeAtom.to_name(node)}])}

  def handle_call(_unexpected, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_unexpected, state), do: {:noreply, state}

  # Cancels the timer first. The timer may have been replaced while this :tick was in the mailbox. Then two timers
  # would run.
  @impl true
  def handle_info(:tick, state) do
    state = update(state, :tick, &Tick.cancel/1)
    {:noreply, state |> refresh_if_stale([]) |> dispatch([:tick])}
  end

  def handle_info({:nodeup, node, _info}, state) when is_atom(node) do
    state = listed(state, NodeList.nodeup(state.nodes, node))
    {:noreply, update(state, :departure, &Departure.check/1)}
  end

  def handle_info({:nodedown, node, _info}, state) when is_atom(node) do
    state = unreachable(state, NodeAtom.to_name(node))
    {:noreply, listed(state, NodeList.nodedown(state.nodes, node))}
  end

  # A message that none of these modules knows is stray, or comes from a job or lookup that was stopped.
  def handle_info(message, state) do
    with :unknown <- handle_lookup(Discovery.handle(state.discovery, message), state),
         :unknown <- handle_job(Jobs.handle(state.jobs, message), state),
         :unknown <- handle_list(NodeList.handle(state.nodes, message), state),
         :unknown <- handle_departure(Departure.handle(state.departure, message), state),
         :unknown <- handle_waiter(Waiters.handle(state.waiters, message), state),
         do: {:noreply, state}
  end

  ## Events and actions

  # Takes in events one after the other, and carries out the actions that follow. An action never calls this
  # function: it returns further events, or its result comes later by a message.
  defp dispatch(state, []), do: state |> schedule_tick() |> reply_to_waiters()

  defp dispatch(state, [event | events]) do
    {actions, membership} = Membership.handle(state.membership, event, env())
    state = %{state | membership: membership}
    {more, state} = Enum.flat_map_reduce(actions, state, &perform/2)
    dispatch(state, events ++ more)
  end

  # Reads the name of this node each time, because distribution may start later than the strategy.
  defp env do
    %{
      now: now(),
      self: NodeAtom.to_name(node()),
      existing_atom?: &match?({:ok, _node}, NodeAtom.existing(&1)),
      atoms_available: NodeAtom.available?()
    }
  end

  defp perform({:lookup, source}, state),
    do: {[], update(state, :discovery, &Discovery.start(&1, source))}

  defp perform({:connect, name, probe_every}, %{config: config, key: key} = state),
    do: {[], update(state, :jobs, &Connections.connect(&1, config, key, name, probe_every))}

  defp perform({:disconnect, name}, %{config: config} = state),
    do: {[], update(state, :jobs, &Connections.disconnect(&1, config, name))}

  defp perform({:publish, entries}, state) do
    result = Peers.put(state.key, entries)
    events = if result == :ok, do: [], else: [:peer_table_full]
    {events, update(state, :warnings, &Warnings.peer_table(&1, result))}
  end

  defp perform({:rotate_addresses, name}, state) do
    :ok = Peers.rotate(name)
    {[], state}
  end

  defp perform({:report, {:connect_failed, name, reason}}, %{config: config} = state),
    do: {[], update(state, :jobs, &Connections.report_failure(&1, config, name, reason))}

  defp perform({:report, report}, state) do
    :ok = Report.report(state.config, report, Membership.counts(state.membership))
    {[], state}
  end

  defp schedule_tick(state) do
    at = Membership.wake(state.membership, now())
    update(state, :tick, &Tick.set(&1, at))
  end

  ## Connected nodes

  defp refresh(state, events), do: listed(state, NodeList.refresh(state.nodes, events))

  defp refresh_if_stale(state, events),
    do: listed(state, NodeList.refresh_if_stale(state.nodes, events))

  # There are no events while a custom list_nodes function runs.
  defp listed(state, {[], nodes}), do: %{state | nodes: nodes}
  defp listed(state, {events, nodes}), do: dispatch(%{state | nodes: nodes}, events)

  defp handle_list(:unknown, _state), do: :unknown

  defp handle_list({result, events, nodes}, state) do
    state = update(state, :warnings, &Warnings.list_nodes(&1, result))
    {:noreply, listed(state, {events, nodes})}
  end

  ## Lookups

  defp handle_lookup(:unknown, _state), do: :unknown

  defp handle_lookup({source, {:ok, answer, left_out}, discovery}, state) do
    state = update(state, :warnings, &Warnings.left_out(&1, source, left_out))
    state = %{state | discovery: discovery}
    {:noreply, refresh_if_stale(state, [{:answer, source, answer}])}
  end

  defp handle_lookup({source, {:error, error}, discovery}, state),
    do: {:noreply, dispatch(%{state | discovery: discovery}, [{:lookup_failed, source, error}])}

  ## Jobs

  defp handle_job(:unknown, _state), do: :unknown

  defp handle_job({tag, outcome, duration, jobs}, state) do
    connected? = &Membership.connected?(state.membership, &1)
    state = %{state | jobs: jobs}

    case Connections.finished(tag, outcome, duration, state.config, connected?) do
      # The nodeup of this node may still be in the mailbox, so the list is read.
      [{:connect_result, name, :ok}] = events ->
        {:noreply,
         if(connected?.(name), do: refresh_if_stale(state, events), else: refresh(state, events))}

      [{:connect_result, name, _error}] = events ->
        {:noreply, state |> unreachable(name) |> refresh_if_stale(events)}

      events ->
        {:noreply, refresh_if_stale(state, events)}
    end
  end

  defp unreachable(state, name), do: update(state, :discovery, &Discovery.unreachable(&1, name))

  ## Leaving and waiting

  defp stop_discovery(state) do
    state = dispatch(state, [:drain])
    :ok = Peers.delete(state.key)

    %{
      state
      | discovery: Discovery.stop(state.discovery),
        nodes: NodeList.stop(state.nodes),
        jobs: Jobs.stop(state.jobs)
    }
  end

  defp handle_departure(:unknown, _state), do: :unknown

  defp handle_departure({result, departure}, state) do
    :ok = Report.left(state.config, result)
    {:noreply, refresh_if_stale(%{state | departure: departure}, [])}
  end

  defp peer_names(%{membership: membership}),
    do: Enum.uniq(Membership.members(membership) ++ Membership.connected(membership))

  defp handle_waiter(:unknown, _state), do: :unknown
  defp handle_waiter(waiters, state), do: {:noreply, %{state | waiters: waiters}}

  defp reply_to_waiters(%{membership: membership} = state) do
    %{connected: connected} = Membership.counts(membership)
    update(state, :waiters, &Waiters.reply(&1, connected, Membership.responded?(membership)))
  end

  defp update(state, field, fun), do: Map.update!(state, field, fun)

  defp now, do: System.monotonic_time(:millisecond)
end
