defmodule Caravan.Cluster.DnsStrategy do
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

  or, with no libcluster, as a child of any supervisor:

      children = [
        {Caravan.Cluster.DnsStrategy, query: "_app._tcp.service.consul", node_sname: "app"}
      ]

  An SRV record `0 0 4001 node1.example.com` is the node `app-4001@node1.example.com`: the name that
  `Caravan.Epmd` listens on port 4001 for.

  ## Options

  #{Config.docs()}

  ## What it does

    * The first lookups start as soon as the process runs. The next comes when the TTL of the answer is
      over, within `:min_interval` and `:poll_interval`; soon after a node went down; and while DNS
      fails, after waits that double, up to six times `:poll_interval`. Each wait has a share of chance,
      so that a fleet does not ask in step.
    * The members are what all queries named within the last `:keep` milliseconds: servers that answer with
      a random part of the records give the whole in the end. A lookup that fails, and an answer that is
      empty or cut, take no name away.
    * Members that are not connected are dialled, `:max_connects` at once, each for `:connect_timeout` at
      most. A node that went down is dialled within half a second, then after waits that double, up to
      `:poll_interval`; one that was never reached, up to a minute. A record that changes, or that
      disappears for longer than `:keep` and returns, starts that anew.
    * What SRV, A and AAAA records say of ports and addresses goes to `Caravan.Epmd.Peers`, where
      `Caravan.Epmd` finds it without asking the host's resolver. With `ports: :srv`, names need carry no
      port: all nodes learn it from the records. Where queries differ, the first one counts, but not if it has
      failed for longer than `:keep`.
    * Nobody is disconnected, unless `:prune` says so. The end of this process leaves connections as they
      are; started again, it goes on with what DNS names from then on.
    * Records that make no valid node name are left out, with a line in the log. A name becomes an atom
      when it is about to be connected, at most `:max_new_names` within 24 hours, and
      none at all while the VM's atom table is four fifths full.
    * One log line for a change (connected, lost, a new reason of failure), none for a lookup without one.
      `Caravan.Telemetry` lists the events.

  `Caravan.Cluster` has what an application asks of it: `Caravan.Cluster.await/2`, `Caravan.Cluster.drain/1`.

  ## Pruning

  With `prune: [after: 3]`, a connected node is disconnected when no query has named it for `:keep`
  milliseconds, and it was missing from three complete answers of *every* query in a row. A query that never
  has an answer (AAAA records where there are none) therefore keeps everybody. At most half of the
  connected nodes are dropped in one round, so a last one never is. One that could not be disconnected is
  tried again after twice as many answers, each time.

  Think twice. OTP's `global` keeps clusters fully meshed (`prevent_overlapping_partitions`, on since OTP 25): a
  node that is disconnected reports the loss to all others, and they drop the reporting or the reported
  node, even a healthy one. So prune only where nodes really vanish without closing their connections,
  and where DNS is right; a node that leaves on purpose uses `Caravan.Cluster.drain/1`. One that is alive
  and has the records of the others dials them again, and is then left alone until it has been missing
  anew.
  """

  use GenServer

  alias Caravan.Cluster.Alarms
  alias Caravan.Cluster.Discovery
  alias Caravan.Cluster.Distribution.Connector
  alias Caravan.Cluster.Distribution.Diagnosis
  alias Caravan.Cluster.Distribution.Drain
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.DnsStrategy.Jobs
  alias Caravan.Cluster.DnsStrategy.Waiters
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.Report
  alias Caravan.Cluster.Topologies
  alias Caravan.Epmd.Peers

  # No new atoms once so much of the table is used.
  @atom_share 0.8

  # Diagnoses at once; what fails beyond is reported without.
  @max_diagnoses 8

  # How long a list_nodes function of the user's own may take.
  @list_timeout 1_000

  # How long after a failed try to be alone a drained node tries again.
  @drain_again 500

  @enforce_keys [:config, :key, :membership, :discovery, :jobs]
  defstruct @enforce_keys ++
              [tick: nil, unlisted: nil, waiters: [], leavers: [], alarms: Alarms.new()]

  @typedoc "The options in the table above, or libcluster's list of one `Cluster.Strategy.State`."
  @type options :: keyword | [struct]

  @doc "A child specification; its id holds the topology, or else the query, so that several can stand side by side."
  @spec child_spec(options) :: Supervisor.child_spec()
  def child_spec(options) do
    %{id: {__MODULE__, child_id(options)}, start: {__MODULE__, :start_link, [options]}}
  end

  @doc "Starts the strategy. Raises `ArgumentError` for an option that is wrong."
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
      jobs: %Jobs{}
    }

    {:ok, state, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state) do
    _ = Caravan.Telemetry.load()
    warn_if_not_on_caravan_epmd(state)
    # Hidden ones too, which `:connect` may make, and the default of `:list_nodes` lists.
    :ok = :net_kernel.monitor_nodes(true, node_type: :all)

    # Before a crash it had left the cluster.
    if Drain.drained?(state.key),
      do: {:noreply, state |> stop_discovery() |> leave()},
      else: {:noreply, observe(state, [:tick])}
  end

  @impl true
  def handle_call({:await, nodes, timeout}, from, state) do
    waiters = Waiters.add(state.waiters, from, nodes, timeout)
    {:noreply, answer_waiters(%{state | waiters: waiters})}
  end

  def handle_call(:drain, from, state) do
    unless Drain.drained?(state.key) do
      Drain.start(state.key)
      connected = length(Membership.connected(state.membership))
      Report.drained(state.config, :drain, connected)
    end

    {:noreply, %{state | leavers: [from | state.leavers]} |> stop_discovery() |> leave()}
  end

  def handle_call(:resume, _from, state) do
    if Drain.drained?(state.key) do
      state = %{state | jobs: Jobs.stop(state.jobs, &(&1 == :leave))}
      # It did not leave.
      state = answer_leavers(state, {:error, :failed})
      :ok = Drain.resume(state.key)
      Report.drained(state.config, :resume, length(Membership.connected(state.membership)))
      {:reply, :ok, dispatch(state, :resume)}
    else
      {:reply, :ok, state}
    end
  end

  # Another strategy drains: whom does it have to spare?
  def handle_call(:peer_names, _from, state) do
    if Drain.drained?(state.key),
      do: {:reply, [], state},
      else: {:reply, peer_names(state), state}
  end

  # A peer's strategy drains.
  def handle_call({:draining, node}, _from, state) when is_atom(node),
    do: {:reply, :ok, dispatch(state, {:peer_draining, NodeAtom.to_name(node)})}

  def handle_call(_unexpected, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_unexpected, state), do: {:noreply, state}

  @impl true
  # A late one, whose timer was set anew while it lay in the mailbox, sets none beside that.
  def handle_info(:tick, state),
    do: {:noreply, %{state | tick: cancel(state.tick)} |> observe() |> dispatch(:tick)}

  # A node that comes and goes at once is seen, too.
  def handle_info({:nodeup, node, _info}, state) when is_atom(node),
    do: {:noreply, state |> observe([], &[node | &1]) |> guard([])}

  # And one that went and is back already.
  def handle_info({:nodedown, node, _info}, state) when is_atom(node),
    do: {:noreply, observe(state, [], &List.delete(&1, node))}

  def handle_info({:guard, exempt}, state), do: {:noreply, guard(state, exempt)}

  def handle_info({:await_timeout, from}, state),
    do: {:noreply, %{state | waiters: Waiters.time_out(state.waiters, from)}}

  def handle_info(message, state) do
    with :unknown <- handle_lookup(message, state),
         :unknown <- handle_job(message, state) do
      # Late messages of jobs that were given up, and whatever else comes.
      {:noreply, state}
    else
      state -> {:noreply, state}
    end
  end

  ## Events and actions

  defp dispatch(state, event) do
    {actions, membership} = Membership.handle(state.membership, event, env())

    actions
    |> Enum.reduce(%{state | membership: membership}, &perform/2)
    |> set_tick()
    |> answer_waiters()
  end

  defp env do
    used = :erlang.system_info(:atom_count)

    %{
      now: now(),
      # Distribution may start later.
      self: NodeAtom.to_name(node()),
      existing_atom?: &match?({:ok, _node}, NodeAtom.existing(&1)),
      atoms_available: used < @atom_share * :erlang.system_info(:atom_limit)
    }
  end

  defp perform({:lookup, source}, state),
    do: %{state | discovery: Discovery.start(state.discovery, source)}

  defp perform({:connect, name}, state) do
    %{config: config, key: key} = state
    connect = Connector.connect(config, name)

    release_and_connect = fn ->
      :ok = Drain.release(key, name)
      connect.()
    end

    tag = {:connect, name}
    %{state | jobs: Jobs.start(state.jobs, tag, release_and_connect, config.connect_timeout)}
  end

  defp perform({:disconnect, name}, state) do
    disconnect = Connector.disconnect(state.config, name)
    tag = {:disconnect, name}
    %{state | jobs: Jobs.start(state.jobs, tag, disconnect, state.config.connect_timeout)}
  end

  defp perform({:publish, entries}, state) do
    full = Peers.put(state.key, entries) == {:error, :full}

    state =
      warn_once(
        state,
        :table_full,
        full,
        "the table of addresses is full: those of this topology are not in it (see Caravan.Epmd.Peers)"
      )

    if full, do: dispatch(state, :peer_table_full), else: state
  end

  defp perform({:report, {:connect_failed, name, kind}}, state),
    do: connect_failed(state, name, kind)

  defp perform({:report, report}, state) do
    counts = %{
      connected: length(Membership.connected(state.membership)),
      members: length(Membership.members(state.membership))
    }

    :ok = Report.report(state.config, report, counts)
    state
  end

  defp set_tick(%{tick: tick} = state) do
    case {Membership.wake(state.membership, now()), tick} do
      {at, {at, _timer}} -> state
      {at, _other} -> set_tick(%{state | tick: cancel(tick)}, at)
    end
  end

  defp set_tick(state, :never), do: state

  defp set_tick(state, at) do
    timer = Process.send_after(self(), :tick, max(0, at - now()))
    %{state | tick: {at, timer}}
  end

  defp cancel(nil), do: nil

  defp cancel({_at, timer}) do
    _ = Process.cancel_timer(timer)
    nil
  end

  ## Who is connected

  # The live list of nodes decides, not what a connect returned: a peer may have been faster, or have
  # been connected before DNS named it. So `events` are taken in after the list.
  defp observe(state, events \\ [], correct \\ & &1) do
    case Connector.list(state.config) do
      {:ok, nodes} ->
        # Other lists than that of all nodes have a truth of their own.
        all = state.config.list_nodes == {:erlang, :nodes, [:connected]}
        listed(state, {:ok, if(all, do: correct.(nodes), else: nodes)}, events)

      {:job, list} ->
        list(%{state | unlisted: Enum.reverse(events, state.unlisted || [])}, list)
    end
  end

  # One at a time. What comes meanwhile waits for the next one: this one may not have seen it.
  defp list(state, list) do
    if Jobs.count(state.jobs, &match?({:list, _events}, &1)) > 0 do
      state
    else
      tag = {:list, Enum.reverse(state.unlisted)}
      %{state | unlisted: nil, jobs: Jobs.start(state.jobs, tag, list, @list_timeout)}
    end
  end

  defp listed(state, result, events) do
    state =
      case result do
        {:ok, nodes} ->
          names = Enum.map(nodes, &NodeAtom.to_name/1)
          state |> warn_once(:list_nodes, false, "") |> dispatch({:connected_nodes, names})

        {:error, reason} ->
          text = "list_nodes #{inspect(state.config.list_nodes)} failed: #{inspect(reason)}"
          warn_once(state, :list_nodes, true, text)
      end

    Enum.reduce(events, state, &dispatch(&2, &1))
  end

  ## Lookups

  defp handle_lookup(message, state) do
    case Discovery.handle(state.discovery, message) do
      {source, result, discovery} ->
        looked_up(%{state | discovery: discovery}, source, result)

      :unknown ->
        :unknown
    end
  end

  defp looked_up(state, {query, _type} = source, {:ok, answer, left_out}) do
    state
    |> warn_once({:left_out, source}, left_out != [], left_out(query, left_out))
    |> observe([{:answer, source, answer}])
  end

  defp looked_up(state, source, {:error, error}),
    do: dispatch(state, {:lookup_failed, source, error})

  defp left_out(_query, []), do: ""

  defp left_out(query, [reason | _] = reasons),
    do: "#{length(reasons)} records of #{inspect(query)} are left out: #{reason}"

  ## Jobs

  defp handle_job(message, state) do
    case Jobs.handle(state.jobs, message) do
      {tag, outcome, duration, jobs} -> done(tag, outcome, duration, %{state | jobs: jobs})
      :unknown -> :unknown
    end
  end

  defp done({:connect, name}, outcome, duration, state) do
    result = Connector.result(outcome)
    :ok = Report.connected(state.config, name, result, duration)

    observe(state, [{:connect_result, name, result}])
  end

  defp done({:disconnect, name}, outcome, duration, state) do
    :ok = Report.disconnected(state.config, name, Connector.result(outcome), duration)
    observe(state)
  end

  defp done({:list, events}, outcome, _duration, state) do
    state = listed(state, Connector.listed(outcome), events)
    if state.unlisted, do: observe(state), else: state
  end

  defp done({:diagnose, name, reason}, outcome, duration, state) do
    # It may have come up meanwhile, which is the better news.
    cond do
      name in Membership.connected(state.membership) -> :ok
      match?({:ok, _finding}, outcome) -> diagnosed(state, name, outcome, duration)
      true -> Report.connect_failed(state.config, name, Report.describe(reason))
    end

    state
  end

  defp done(:leave, outcome, _duration, state) do
    {reply, exempt} = left(outcome, state.config)

    # For whoever came meanwhile; and not at once, what does not succeed.
    _ = Process.send_after(self(), {:guard, exempt}, @drain_again)
    state |> answer_leavers(reply) |> observe()
  end

  defp left({:ok, exempt}, _config), do: {:ok, exempt}
  defp left({:error, :timeout}, _config), do: {{:error, :timeout}, []}

  defp left({:error, reason}, config) do
    Report.log(config, :error, "leaving the cluster failed: #{inspect(reason)}")
    {{:error, :failed}, []}
  end

  defp diagnosed(state, name, {:ok, finding}, duration),
    do: Report.diagnosed(state.config, name, finding, duration)

  defp connect_failed(state, name, reason) do
    busy = Jobs.count(state.jobs, &match?({:diagnose, _name, _reason}, &1))

    if reason in [:unreachable, :timeout] and busy < @max_diagnoses and
         Diagnosis.possible?(state.config) do
      diagnose = fn -> Diagnosis.find(name) end
      tag = {:diagnose, name, reason}
      %{state | jobs: Jobs.start(state.jobs, tag, diagnose, Diagnosis.deadline())}
    else
      :ok = Report.connect_failed(state.config, name, Report.describe(reason))
      state
    end
  end

  ## Leaving and waiting

  defp stop_discovery(state) do
    # The members are told of while they are still known.
    state = dispatch(state, :drain)
    :ok = Peers.delete(state.key)

    %{
      state
      | discovery: Discovery.stop(state.discovery),
        unlisted: nil,
        jobs: Jobs.stop(state.jobs, &(&1 != :leave))
    }
  end

  # One at a time; whoever drains meanwhile waits for the same.
  defp leave(state) do
    if Jobs.count(state.jobs, &(&1 == :leave)) > 0 do
      state
    else
      {key, names} = {state.key, peer_names(state)}
      leave = fn -> Drain.leave(key, names) end
      %{state | jobs: Jobs.start(state.jobs, :leave, leave, Drain.deadline())}
    end
  end

  # While drained, whoever gets in has to leave, but those who may exempt.
  defp guard(state, exempt) do
    if Drain.drained?(state.key) and Drain.unexpected_connections?(exempt),
      do: leave(state),
      else: state
  end

  defp answer_leavers(state, reply) do
    Enum.each(state.leavers, &GenServer.reply(&1, reply))
    %{state | leavers: []}
  end

  defp peer_names(%{membership: membership}),
    do: Enum.uniq(Membership.members(membership) ++ Membership.connected(membership))

  defp answer_waiters(state),
    do: %{state | waiters: Waiters.answer(state.waiters, state.membership)}

  ## What an operator reads

  # Where names carry no port, OTP's own epmd serves as well.
  defp warn_if_not_on_caravan_epmd(%{config: config}) do
    needs_epmd =
      config.ports == :srv or
        Enum.any?(config.templates, fn {_type, template} -> :port in template end)

    case Caravan.check() do
      {:error, {reason, advice}} when reason == :not_alive or needs_epmd ->
        Report.log(config, :warning, advice)

      _ ->
        :ok
    end
  end

  # Logs a line when an alarm is new. It is not new again within `:keep`, because one of several servers may
  # answer differently than the others.
  defp warn_once(state, what, true, text) do
    {new?, alarms} = Alarms.set(state.alarms, what, now())
    if new?, do: Report.log(state.config, :warning, text)
    %{state | alarms: alarms}
  end

  defp warn_once(state, what, false, _text) do
    %{state | alarms: Alarms.clear(state.alarms, what, now(), state.config.keep)}
  end

  defp now, do: System.monotonic_time(:millisecond)
end
