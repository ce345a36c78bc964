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

  In a VM that is neither alive nor a release, such as `iex -S mix` or `mix test`, the strategy looks up nothing until
  distribution starts.

  `Caravan.Cluster` has functions to wait for nodes and to leave the cluster. `Caravan.Telemetry` lists the events.

  ## Options

  #{Config.docs()}

    * The first lookups start with the process.
    * The next lookup starts when the TTL of the answer is over, within `:min_interval` and `:poll_interval`. After a TTL of 0,
      as Consul sends it, it starts after `:poll_interval`.
    * After a nodedown, the next lookup starts soon.
    * After lookups without a response, the waits double, up to `:poll_interval`. From 40 connected nodes on, the longest
      wait grows with their number, up to six times `:poll_interval`. With `:links`, the number of members counts.
    * If the name does not exist or has no records, the next lookup starts after `:poll_interval`.
    * Waits have jitter, so that a fleet does not query in step.
    * SRV targets whose addresses are not in the answer are looked up too, in the family of distribution (`-proto_dist`).
      A target is looked up again when its own TTL is over, after a minute at most, or after ten seconds if its node
      cannot be reached.

  ## Members

    * A node is a member if an answer contained it within the last `:keep` milliseconds. So if a server
      returns a random part of its records each time, all nodes become members after some answers.
    * A lookup that fails removes no member. Neither does an answer that is empty or incomplete. With `:allow`, an answer
      is incomplete while it has a record or an address that is left out.
    * A record whose node name is not valid is left out. The reason is logged once.

  ## Connections

    * Members that are not connected are dialled, at most `:max_connects` at the same time.
    * A new member is connected without delay. After a nodedown or a failure, a probe comes first, and also while 256
      other attempts are in progress. It is a TCP connection to the address and port of the node, and it is closed at
      once. Only if it is accepted, OTP connects the node.
    * If DNS has no address for a member, the strategy resolves its host first, in a separate process. So a resolver that
      does not reply holds up `net_kernel` and its ticks only if it fails at that moment.
    * If the host drops packets, OTP would wait seconds for a reply. A probe without a reply is repeated instead,
      after the waits below. So a node is connected soon after its network works again. An attempt with its probe ends
      after `:connect_timeout`.
    * A message to a lost node makes OTP connect it without a probe, unless the VM has `-kernel dist_auto_connect never`.
      While that attempt waits for a host that drops packets, 7 s at most, the strategy cannot connect the node either.
    * The waits start again when the record of a node changes, unless the node has announced that it leaves. They also
      start again when a record returns after longer than `:keep`. When a lost node is connected again, the other lost
      nodes are dialled soon, once.
    * The strategy disconnects nodes only with `:prune`, with `:links`, and during `Caravan.Cluster.drain/1`. When its
      process ends, the connections stay as they are.
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
    * Each wait after a failed connect has at least 10 ms per member. So a node whose handshakes fail, for example because
      it has another cookie, gets about 130 handshakes a second from all members together. The first connect of a new
      node is an exception, because the node may only be starting.
    * If DNS names n nodes that are not connected, a node that was never connected waits at least n × 10 ms. Its longest
      wait is a minute, or n × 120 ms if that is more.
    * A lost node whose connections end within 5 s, again and again, is dialled after 500 ms at first. The wait doubles
      each time, up to `:poll_interval`, and at most to a minute.
    * A node that has announced that it leaves is dialled after half a minute to a minute.
    * There are no probes in three cases: `:connect` is not a function of OTP, the VM does not use `Caravan.Epmd`, or the
      `-proto_dist` module is not part of OTP. Such a module may not use TCP.

  ## Links

  By default, a node connects to all members. With `links: 3`, it connects to three of them, and publishes the addresses
  of all in `Caravan.Epmd.Peers`.

    * Each node prefers other members: the first three in the order of `:erlang.phash2({self, member}, 2^32)`. So the
      members share the links evenly. A member that comes or goes changes only the links to itself.
    * If a preferred node cannot be reached, the next one in the order is its stand-in. It is dialled at once: after a
      nodedown, after a failed attempt, when the node announces that it leaves, and when a new node has not replied for
      300 ms. Nodes that failed before come last. The preferred node is dialled again after the waits above. If it has
      announced that it leaves, and is still connected after ten seconds, it counts as a link again.
    * When three preferred nodes have been connected for 60 s, the stand-ins are disconnected, one per second. With
      `release_links: false`, they stay.
    * A stand-in also stays if another node or another part of the VM has made the connection, if another topology of the
      VM wants it, or if the topology of the same name on the other node wants it. After a crash, the strategy does not
      know which connections it has made, so they stay. If the nodes give the topology different names, a link may be
      disconnected although the other node prefers it. The other node then dials again.
    * Connections of other nodes to this one come on top, because each node makes its own three. A connected preferred
      node counts as a link, also if it has dialled this node.
    * Members that are not dialled make no atoms. A message to one of them makes OTP connect it, without a question to
      a resolver.
    * `Caravan.Cluster.await/2` waits for at most three nodes.
    * The lines in the log and the events say whether a link is preferred or a stand-in.

  With `links: 0`, the node connects to no member. It only publishes their addresses and ports to `Caravan.Epmd.Peers`.

  Several topologies can run side by side. In this example, the nodes of one role are linked with each other, and all
  other nodes have three links to them:

      # in the configuration of the core nodes
      [query: "_core._tcp.example.com", node_sname: "core"]

      # in the configuration of the other nodes
      [query: "_core._tcp.example.com", node_sname: "core", links: 3]

  A number in `:links` needs the line `-connect_all false` in `rel/vm.args.eex` and `rel/remote.vm.args.eex` of all
  nodes. Otherwise `global` connects each node to all nodes to which its peers are connected, and stand-ins stay
  connected. Without `connect_all`, names of `:global` are local to their node. `:pg`, `Phoenix.PubSub.PG2`, Tracker, syn
  and Horde reach only the nodes to which a node has a link.

  ## Ports and addresses

  Ports and addresses from DNS are put into `Caravan.Epmd.Peers`. There `Caravan.Epmd` finds them, so that it need not
  ask the resolver of the host. With `ports: :srv`, names need no port, because all nodes have it from the records. If
  queries return different ports, the first query in the options counts, unless it has failed for longer than
  `:keep`.

  ## Log

  The first line has this node, its port and where it comes from, the queries and the nameservers.

  Each change is one line: a node is connected or lost, a connect or a lookup fails for a new reason. A lookup that
  changes nothing logs nothing. A node that does not listen, or does not reply, is logged only if that lasts: for two
  seconds if the node was never connected, and for ten seconds after a nodedown.

  If members are missing or lookups fail for five minutes, and then each hour, one line says which ones, for how long, and
  why. Another line says that it is over.

  The strategy logs one line about a visible node that has been connected for a minute and that no query names. Such a
  node may belong to another cluster with the same cookie.

  The strategy compares the name of this node with DNS. It warns if a record has the host or an address of this host, and
  the port of this node, but another name. This node never dials itself under such a name. If no record leads to this
  node, one line says so after the TTL of the answer, or after `:keep` if the answers differ.

  Each line has the metadata `domain: [:caravan]`, before which `Logger` puts `:elixir`, and `:topology`. A line about one
  node has it as `:node`, a string. A line about a problem has `:check`, the id of the check that it belongs to.

  OTP's `global` works only if the setting `connect_all` is the same on all nodes. So the strategy asks each visible node
  for its value, one node at a time. It begins five seconds after a nodeup. It warns once while connected nodes have
  another value than this node. `Caravan.check/0` names up to ten of them, and counts the others.

  ## Pruning

  With `prune: [after: 3]`, a connected node is disconnected if

    * it is not a member any more, and
    * it was missing from three consecutive complete answers of *every* query. So with a query that is never
      answered, for example for AAAA records in an IPv4 network, no node is disconnected.

  A node stays connected if another topology of this VM wants the link, does not reply, or has had no answer yet. At most
  half of the connected nodes are disconnected at the same time, so the last one always stays. The next attempt to
  disconnect a node that stayed takes twice as many answers, each time.

  This is rarely worth it. OTP's `global` keeps clusters fully meshed with `prevent_overlapping_partitions`, which is
  on since OTP 25: a node reports each lost connection to all other nodes, and these disconnect one of the two nodes,
  even if it is healthy. Use `:prune` only if DNS is right, and if nodes vanish without closing their connections.
  A node that leaves on purpose calls `Caravan.Cluster.drain/1` instead. A node that is pruned although it is alive
  dials the other nodes again. It then stays connected until it has been missing from that many answers again.
  """

  use GenServer

  import Caravan.Cluster.DnsStrategy.State, only: [update: 3]

  alias Caravan.Cluster.Discovery
  alias Caravan.Cluster.Distribution.Connector
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.DnsStrategy.Actions
  alias Caravan.Cluster.DnsStrategy.Departure
  alias Caravan.Cluster.DnsStrategy.Jobs
  alias Caravan.Cluster.DnsStrategy.Messages
  alias Caravan.Cluster.DnsStrategy.NodeList
  alias Caravan.Cluster.DnsStrategy.OwnRecord
  alias Caravan.Cluster.DnsStrategy.Rounds
  alias Caravan.Cluster.DnsStrategy.StartReport
  alias Caravan.Cluster.DnsStrategy.State
  alias Caravan.Cluster.DnsStrategy.Status
  alias Caravan.Cluster.DnsStrategy.Tick
  alias Caravan.Cluster.DnsStrategy.Waiters
  alias Caravan.Cluster.DnsStrategy.Warnings
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.Report
  alias Caravan.Cluster.Topologies
  alias Caravan.Epmd.Peers

  @typedoc "The options above, or libcluster's list of one `Cluster.Strategy.State`."
  @type options :: keyword | [struct]

  @doc """
  Returns a child specification. Its id holds the topology, or else the query, so that a supervisor can have
  several strategies.

      Caravan.Cluster.DnsStrategy.child_spec(query: "app.example.com", type: :a)
  """
  @spec child_spec(options) :: Supervisor.child_spec()
  def child_spec(options) do
    %{id: {__MODULE__, child_id(options)}, start: {__MODULE__, :start_link, [options]}}
  end

  @doc """
  Starts the strategy. Raises `ArgumentError` for a wrong option.

      {:ok, pid} = Caravan.Cluster.DnsStrategy.start_link(query: "app.example.com", type: :a)
  """
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
    state = State.new(config, Topologies.register(config.topology))
    {:ok, state, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state) do
    # Includes hidden nodes: :connect may create hidden connections, and the default :list_nodes returns them.
    :ok = :net_kernel.monitor_nodes(true, node_type: :all)
    state = update(state, :warnings, &Warnings.start/1)

    # A strategy that was drained before a crash stays drained.
    state = if Departure.drained?(state.departure), do: stop_discovery(state), else: state
    state = state |> update(:departure, &Departure.check/1) |> start_unless_idle()

    # These come after the first lookups have started, and take place while nameservers are waited for.
    :ok = StartReport.log(state.config)
    {:noreply, update(state, :own_record, &OwnRecord.start/1)}
  end

  @impl true
  def handle_call({:await, nodes, timeout}, from, state) do
    nodes = Config.nodes_to_wait_for(state.config, nodes)
    {:noreply, state |> update(:waiters, &Waiters.add(&1, from, nodes, timeout)) |> dispatch([])}
  end

  def handle_call(:drain, from, state) do
    unless Departure.drained?(state.departure), do: report_drained(state, :drain)
    state = stop_discovery(state)
    :ok = Rounds.report(state.config, state.membership)
    names = Membership.peers(state.membership)
    {:noreply, update(state, :departure, &Departure.drain(&1, from, names))}
  end

  def handle_call(:resume, _from, state),
    do: {:reply, :ok, if(Departure.drained?(state.departure), do: resume(state), else: state)}

  # The leave jobs of this VM ask each strategy that is not drained which nodes must stay connected.
  def handle_call(:peer_names, _from, %{membership: membership} = state) do
    known? = Membership.responded?(membership)
    {:reply, if(known?, do: {:ok, Membership.linked(membership)}, else: :unknown), state}
  end

  # Jobs ask this: those of other strategies of this VM, and those of the strategies with this name on peers.
  def handle_call({:wants, name}, _from, state) when is_binary(name),
    do: {:reply, Membership.wants(state.membership, name), state}

  # The leave job of a peer sends this.
  def handle_call({:draining, node}, _from, state) when is_atom(node) do
    state = update(state, :status, &Status.changed/1)
    {:reply, :ok, dispatch(state, [{:peer_draining, NodeAtom.to_name(node)}])}
  end

  def handle_call(_unexpected, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_unexpected, state), do: {:noreply, state}

  @impl true
  def handle_info(:start_unless_idle, %{config: config} = state) do
    unless Connector.idle?(config), do: StartReport.log(config)
    {:noreply, start_unless_idle(state)}
  end

  def handle_info(message, state) do
    {events, state} = Messages.events(message, state)
    {:noreply, dispatch(state, events)}
  end

  ## Events and actions

  # Takes in events one after the other, and carries out the actions that follow. An action never calls this
  # function: it returns further events, or its result comes later by a message.
  defp dispatch(state, [event | events]) do
    {actions, membership} = Membership.handle(state.membership, event, env())
    state = %{state | membership: membership}
    ended? = Rounds.ended?(event, events, state.discovery, state.nodes)
    if ended?, do: Rounds.report(state.config, membership)
    {more, state} = Enum.flat_map_reduce(actions, state, &Actions.perform/2)

    # Runs after the actions of the event, because the connected nodes are compared with the published members.
    unnamed? = ended? and complete?(state)
    state = if unnamed?, do: update(state, :warnings, &Warnings.unnamed_nodes/1), else: state
    dispatch(state, events ++ more)
  end

  # An idle strategy looks up nothing. So it needs no tick, and its callers wait for no response.
  defp dispatch(%{membership: membership, discovery: discovery} = state, []) do
    idle? = Connector.idle?(state.config)
    wake_at = if idle?, do: :never, else: Membership.wake(membership, now())
    responded? = idle? or Membership.responded?(membership)
    connected = Membership.counts(membership).connected
    status = Status.update(state.status, membership, discovery, responded?, complete?(state))
    troubles = fn -> Status.troubles(status, membership, discovery) end
    warnings = Warnings.remind(state.warnings, troubles)
    # A caller that has its reply may read the status at once. So the status is written before.
    waiters = Waiters.reply(state.waiters, connected, responded?)
    tick = Tick.set(state.tick, wake_at)
    %{state | status: status, warnings: warnings, waiters: waiters, tick: tick}
  end

  # Returns whether the peer table has all nodes that the queries name.
  defp complete?(%{membership: membership, warnings: warnings}) do
    Membership.complete?(membership) and not Membership.drained?(membership) and
      not Warnings.peer_table_full?(warnings)
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

  ## Starting and leaving

  # Distribution may start later.
  defp start_unless_idle(%{config: config} = state) do
    if Connector.idle?(config) do
      _ = Process.send_after(self(), :start_unless_idle, config.poll_interval)
      dispatch(state, [])
    else
      refresh(state, [:tick])
    end
  end

  defp refresh(state, events) do
    {events, nodes} = NodeList.refresh(state.nodes, events)
    dispatch(%{state | nodes: nodes}, events)
  end

  defp stop_discovery(state) do
    state = dispatch(state, [:drain])
    :ok = Peers.delete(state.key)

    %{
      state
      | discovery: Discovery.stop(state.discovery),
        nodes: NodeList.stop(state.nodes),
        jobs: Jobs.stop(state.jobs),
        warnings: Warnings.stop(state.warnings)
    }
  end

  defp resume(%{config: config} = state) do
    state = update(state, :departure, &Departure.resume/1)
    :ok = report_drained(state, :resume)

    # An idle strategy has seen no events of which it would have to know.
    state =
      if Connector.idle?(config),
        do: dispatch(%{state | membership: State.new_membership(config)}, []),
        else: state |> dispatch([:resume]) |> refresh([])

    :ok = Rounds.report(config, state.membership)
    state
  end

  defp report_drained(%{config: config, membership: membership}, what),
    do: Report.drained(config, what, Membership.counts(membership).connected)

  defp now, do: System.monotonic_time(:millisecond)
end
