defmodule Caravan.Test.ModelWorld do
  @moduledoc """
  A model of the world around a `Caravan.Cluster.Membership`, on a simulated clock: DNS, other nodes and connections.

  The model carries out the actions, and checks the invariants after each event. The checks need facts about the past.
  The model records them itself, and does not read them from the state under test.
  """

  import ExUnit.Assertions

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.Membership.DialQueue
  alias Caravan.Cluster.Membership.Links

  @self "app@me"
  @other "other@host"
  # Milliseconds.
  @connect_timeout 5_000
  @probe_timeout 1_000
  @day 86_400_000

  # With `links: k`: the milliseconds for which all preferred members must be connected before a stand-in is given up, and the
  # least time from one such disconnect to the next.
  @settled_after 60_000
  @release_every 1_000

  # The facts that the model records:
  #
  #   * :dns has the reply by source, and :answers all answers with their time, latest first.
  #   * :alive are the nodes that accept connections. :connected are those that are connected to this node, and
  #     :joined_at has the time of their nodeup.
  #   * :connecting are the connects in progress. :agenda has the times at which connects and lookups end.
  #   * :dials are the times of the connects and probes by name, latest first.
  #   * :atoms are the names that are atoms. :dialled_new has the times at which a connect created an atom.
  #   * :table are the names in the peer table.
  #   * :answers_at_prune is the number of answers when nodes were last pruned.
  #   * :unread are the deltas in the mailbox of the strategy.
  #   * :opened are the connected nodes that this node has dialled.
  #   * :full_since is the time since when all preferred members have been connected, and :released_at that of the last
  #     disconnect of a stand-in.
  defstruct [
    :membership,
    :config,
    now: 0,
    dns: %{},
    alive: MapSet.new(),
    connected: MapSet.new(),
    connecting: %{},
    agenda: [],
    atoms: MapSet.new(),
    atoms_available: true,
    dialled_new: [],
    dials: %{},
    answers: [],
    joined_at: %{},
    answers_at_prune: nil,
    table: MapSet.new(),
    drained: false,
    deltas: false,
    unread: [],
    opened: MapSet.new(),
    full_since: nil,
    released_at: nil
  ]

  @doc """
  Returns a new world. `options` are those of a strategy, and `:deltas`.

  With `deltas: true`, the membership gets `:nodeup` and `:nodedown` events. They wait in a mailbox until the clock
  advances or the world reads them earlier. Without it, the membership gets the list of connected nodes at once.
  """
  @spec new(keyword) :: struct
  def new(options) do
    {deltas, options} = Keyword.pop(options, :deltas, false)
    config = [query: "a.test", node_sname: "app"] |> Keyword.merge(options) |> Config.new!()

    # The monotonic time of the BEAM is negative at first.
    now = -500_000

    world = %__MODULE__{
      config: config,
      now: now,
      deltas: deltas,
      membership: Membership.new(config, 42, now)
    }

    handle(world, :tick)
  end

  @doc "Carries out a command."
  @spec run(struct, term) :: struct
  def run(world, {:advance, time}), do: advance(world, world.now + time)
  def run(world, {:dns, source, reply}), do: put_in(world.dns[source(world, source)], reply)
  def run(world, {:node_starts, name}), do: %{world | alive: MapSet.put(world.alive, name)}

  def run(world, {:node_dies, name}) do
    %{world | alive: MapSet.delete(world.alive, name)}
    |> connections(MapSet.delete(world.connected, name))
  end

  def run(world, {:link_breaks, name}),
    do: connections(world, MapSet.delete(world.connected, name))

  def run(world, {:dials_us, name}) do
    if name in world.alive and not world.drained, do: join(world, name), else: world
  end

  def run(world, {:atoms_available, value}), do: %{world | atoms_available: value}
  def run(world, {:stray, event}), do: handle(world, event)

  # A snapshot may be ahead of deltas that are not read yet.
  def run(world, :snapshot), do: snapshot(world)

  def run(world, :drain) do
    %{read(world) | drained: true, connecting: %{}, agenda: []}
    |> handle(:drain)
    |> Map.put(:table, MapSet.new())
    |> connections(MapSet.new())
  end

  def run(world, :resume), do: handle(%{read(world) | drained: false}, :resume)

  ## The clock

  defp advance(world, until) do
    world = read(world)
    wake = Membership.wake(world.membership, world.now)
    next = Enum.min([until, wake | Enum.map(world.agenda, &elem(&1, 0))])

    cond do
      next >= until and next != wake and not due?(world, until) -> %{world | now: until}
      due?(world, next) -> world |> at(next) |> happen() |> advance(until)
      wake <= until -> world |> at(wake) |> tick() |> advance(until)
      true -> %{world | now: until}
    end
  end

  defp at(world, time), do: %{world | now: max(world.now, time)}
  defp due?(world, time), do: Enum.any?(world.agenda, &(elem(&1, 0) <= time))

  defp happen(world) do
    [{_time, event} | agenda] = Enum.sort(world.agenda)
    happen(%{world | agenda: agenda}, event)
  end

  defp happen(world, {:lookup, source}) do
    case Map.get(world.dns, source, :timeout) do
      :timeout -> handle_without_change(world, {:lookup_failed, source, {:timeout, "no answer"}})
      :nxdomain -> handle_without_change(world, {:lookup_failed, source, {:nxdomain, "no name"}})
      {:answer, [], _complete} -> handle_without_change(world, answer(source, [], true))
      {:answer, names, complete} -> answered(world, source, names, complete)
      {:subset, names, size} -> answered(world, source, Enum.take_random(names, size), true)
    end
  end

  defp happen(world, {:connect, name, failure}) do
    {result, world} =
      if name in world.alive,
        do: {:ok, world |> join(name) |> opened(name) |> read_or_snapshot(name)},
        else: {{:error, failure}, world}

    %{world | connecting: Map.delete(world.connecting, name)}
    |> handle({:connect_result, name, result})
  end

  # Two nodes may dial each other at the same time. The connect of both returns true, so both have opened the connection.
  defp opened(world, name) do
    if world.joined_at[name] >= world.connecting[name],
      do: %{world | opened: MapSet.put(world.opened, name)},
      else: world
  end

  # The result of a connect may come before the nodeup. Then the strategy takes a snapshot.
  defp read_or_snapshot(world, name) do
    if :erlang.phash2({world.now, name}, 2) == 0, do: read(world), else: snapshot(world)
  end

  defp answered(world, source, names, complete) do
    world = %{world | answers: [{world.now, source, MapSet.new(names), complete} | world.answers]}
    handle(world, answer(source, names, complete))
  end

  # A failure and an empty answer must not change the members.
  defp handle_without_change(world, event) do
    before = Enum.sort(members(world.membership))
    world = handle(world, event)
    assert Enum.sort(members(world.membership)) == before
    world
  end

  defp answer(source, names, complete) do
    endpoint = %Endpoint{ports: [4_001], addresses: [{127, 0, 0, 1}]}
    endpoints = Map.new(names, &{&1, endpoint})
    {:answer, source, %{endpoints: endpoints, ttl: 1_000, complete: complete}}
  end

  defp join(world, name) do
    joined_at =
      if name in world.connected,
        do: world.joined_at,
        else: Map.put(world.joined_at, name, world.now)

    %{world | atoms: MapSet.put(world.atoms, name), joined_at: joined_at}
    |> connections(MapSet.put(world.connected, name))
  end

  ## Events about connections

  defp connections(%{connected: before} = world, connected) do
    opened = MapSet.intersection(world.opened, connected)
    world = %{world | connected: connected, opened: opened}
    if world.deltas, do: unread(world, before), else: snapshot(world)
  end

  defp unread(%{connected: connected} = world, before) do
    ups = for name <- MapSet.difference(connected, before), do: {:nodeup, name}
    downs = for name <- MapSet.difference(before, connected), do: {:nodedown, name}
    %{world | unread: world.unread ++ ups ++ downs}
  end

  defp read(%{unread: []} = world), do: world
  defp read(%{unread: [delta | rest]} = world), do: read(handle(%{world | unread: rest}, delta))

  defp snapshot(world), do: handle(world, {:connected_nodes, MapSet.to_list(world.connected)})

  ## The membership

  defp tick(world) do
    # A tick may disconnect a stand-in. read/1 handles the nodedown that follows.
    world = world |> handle(:tick) |> read()

    assert Membership.wake(world.membership, world.now) > world.now,
           "the next tick is due at once"

    # Stray events add and remove a node of another cluster.
    assert MapSet.delete(world.membership.connected_nodes, @other) == world.connected
    world
  end

  defp handle(world, event) do
    env = %{
      now: world.now,
      self: @self,
      existing_atom?: &(&1 in world.atoms),
      atoms_available: world.atoms_available
    }

    {actions, membership} = Membership.handle(world.membership, event, env)
    {connected, world} = {world.connected, %{world | membership: membership}}
    released = for {:release, name} <- actions, do: name
    world = world |> full_since() |> check_released(released)
    world = Enum.reduce(actions, world, &perform/2)
    pruned = for {:disconnect, name} <- actions, name not in released, do: name
    check_invariants(world, connected, released, pruned)
  end

  defp perform({:lookup, source}, world) do
    refute world.drained, "starts a lookup while drained"

    refute Enum.any?(world.agenda, &match?({_, {:lookup, ^source}}, &1)),
           "starts a lookup of #{inspect(source)}, which is in flight"

    later(world, 1 + :erlang.phash2({world.now, source}, 2_000), {:lookup, source})
  end

  defp perform({:connect, name, probe_every}, world) do
    refute world.drained, "dials while drained"
    refute name == @self, "dials itself"

    assert name not in world.connected or {:nodeup, name} in world.unread,
           "dials #{name}, which is connected"

    refute is_map_key(world.connecting, name), "dials #{name}, which is being dialled"
    assert name in world.table, "dials #{name}, which was not published"

    assert Enum.any?(world.answers, fn {_, _, names, _} -> name in names end),
           "dials #{name}, which no answer contained"

    new =
      if name in world.atoms do
        world.dialled_new
      else
        assert world.atoms_available, "makes an atom of #{name} although none is available"
        [world.now | world.dialled_new]
      end

    check_wanted(world, name)
    check_probe(world, name, probe_every)
    {failure, failed_after} = failure(world, name, probe_every)

    delay =
      if name in world.alive,
        do: 1 + :erlang.phash2({world.now, name}, 300),
        else: failed_after

    %{
      world
      | dialled_new: new,
        atoms: MapSet.put(world.atoms, name),
        dials: Map.update(world.dials, name, [world.now], &[world.now | &1]),
        connecting: Map.put(world.connecting, name, world.now)
    }
    |> later(delay, {:connect, name, failure})
  end

  # check_invariants/3 checks all disconnects of an event together.
  defp perform({:disconnect, name}, world) do
    %{
      world
      | connected: MapSet.delete(world.connected, name),
        opened: MapSet.delete(world.opened, name)
    }
  end

  defp perform({:release, name}, world), do: perform({:disconnect, name}, world)

  defp perform({:publish, entries}, world) do
    assert length(entries) <= world.config.max_nodes
    refute world.drained, "publishes while drained"
    %{world | table: MapSet.new(entries, &elem(&1, 0))}
  end

  defp perform({:report, _report}, world), do: world

  # Half of the connects and probes to dead nodes are refused, the others time out.
  defp failure(world, name, probe_every) do
    case {probe_every, :erlang.phash2({world.now, name}, 2)} do
      {nil, 0} -> {:unreachable, 1}
      {nil, 1} -> {:unreachable, @connect_timeout}
      {_every, 0} -> {{:probe, {:refused, "host:1"}, 0}, 1}
      {_every, 1} -> {{:probe, {:no_reply, "host:1"}, 0}, @probe_timeout}
    end
  end

  # A node is not probed at its first connect, because the probe would delay its join.
  defp check_probe(world, name, probe_every) do
    if not is_map_key(world.joined_at, name) and not is_map_key(world.dials, name),
      do: assert(probe_every == nil, "probes #{name}, which is new")
  end

  defp later(world, delay, event),
    do: %{world | agenda: [{world.now + delay, event} | world.agenda]}

  ## Invariants

  defp check_invariants(world, connected_before, released, pruned) do
    %{membership: membership, config: config} = world
    assert length(Membership.peers(membership)) <= config.max_nodes

    today = Enum.count(world.dialled_new, &(&1 > world.now - @day))
    assert today <= config.max_new_names, "#{today} new names within a day"

    for {_name, source} <- membership.sources do
      assert source.next_lookup_at <= world.now + 6 * config.poll_interval,
             "the next lookup is too late"
    end

    young = Enum.count(world.connecting, fn {_name, since} -> since + 100 > world.now end)
    assert young <= config.max_connects, "#{young} connects at once"

    check_indexes(world)
    check_due(world)
    world = check_pruned(world, connected_before, pruned)

    cond do
      released == [] -> world
      world.deltas -> unread(world, connected_before)
      true -> snapshot(world)
    end
  end

  # The counts, the queue and the slots must be equal to what a walk over the peers finds.
  defp check_indexes(%{membership: membership, connecting: connecting, now: now}) do
    %{queue: queue, slots: slots} = membership

    assert Membership.counts(membership) == %{
             members: length(members(membership)),
             connected: length(Membership.connected(membership))
           }

    assert Enum.sort(Membership.peers(membership)) ==
             Enum.sort(Enum.uniq(members(membership) ++ Membership.connected(membership)))

    missing =
      for {name, {true, {:missing, _since, _draining}}} <- Membership.nodes(membership), do: name

    assert Membership.missing(membership) == length(missing)

    for {name, peer} <- membership.peers,
        do: assert(peer.connected_since != nil == name in membership.connected_nodes)

    assert slots.started == connecting
    young = for {name, since} <- connecting, since + 100 > now, do: {since, name}
    slot_holders = for {name, since} <- slots.young, do: {since, name}
    assert MapSet.subset?(MapSet.new(young), MapSet.new(slot_holders))
    assert Enum.all?(slot_holders, fn {at, name} -> connecting[name] == at end)
    assert Enum.all?(slot_holders, &:queue.member(&1, slots.oldest))

    waiting =
      for {name, peer} <- membership.peers,
          peer.endpoints != %{} and peer.connected_since == nil,
          not is_map_key(connecting, name),
          do: {peer.retry_at, peer.connect_failures, name}

    if links = membership.links do
      {preferred, others} = preferred(membership)
      assert Links.preferred(links) == preferred
      check_queue(links.preferred_queue, waiting(waiting, preferred), now)
      check_queue(links.other_queue, waiting(waiting, others), now)
      connected = Membership.connected(membership)
      leaving = for {name, %{draining: true}} <- membership.peers, do: name
      assert links.connected == length((connected -- connected -- preferred) -- leaving)

      stand_ins =
        for name <- others -- leaving, name in connected, membership.peers[name].opened, do: name

      assert Enum.sort(stand_ins) ==
               Enum.sort(for {_, name} <- :gb_sets.to_list(links.stand_ins), do: name)

      hopeful = for {since, name} <- :gb_sets.to_list(links.hopeful), do: {name, since}
      assert Enum.all?(hopeful, &(&1 in connecting)), "a connect that has ended is hopeful"
      assert links.failing == Enum.count(waiting, fn {_at, failures, _name} -> failures > 0 end)
    else
      check_queue(queue, waiting, now)
    end
  end

  # While slots are free, each node that is due is dialled. With a limited number of links, these are the preferred
  # nodes, and the others while links are missing.
  defp check_due(%{drained: true}), do: :ok

  defp check_due(%{membership: %{links: nil} = membership} = world),
    do: assert(DialQueue.ready(membership.queue) == [] or young(world) >= max_connects(world))

  defp check_due(%{membership: %{links: links}} = world) do
    if young(world) < max_connects(world) do
      assert DialQueue.ready(links.preferred_queue) == []
      hopeful = :gb_sets.size(links.hopeful)
      live = links(world) + hopeful
      assert DialQueue.ready(links.other_queue) == [] or live >= world.config.links
    end
  end

  defp young(world), do: map_size(world.membership.slots.young)
  defp max_connects(world), do: world.config.max_connects

  defp waiting(waiting, names), do: Enum.filter(waiting, &(elem(&1, 2) in names))

  defp check_queue(queue, waiting, now) do
    {ready, later} = Enum.split_with(waiting, fn {at, _failures, _name} -> at <= now end)

    ready =
      for {_at, failures, name} <- ready,
          do: {failures, :erlang.phash2({@self, name}, queue.hashes), name}

    waiting = for {at, nodes} <- :gb_trees.to_list(queue.waiting), do: {at, Enum.sort(nodes)}
    later = Enum.group_by(later, &elem(&1, 0), fn {_at, failures, name} -> {name, failures} end)
    assert Map.new(waiting) == Map.new(later, fn {at, nodes} -> {at, Enum.sort(nodes)} end)
    assert :gb_sets.to_list(queue.ready) == Enum.sort(ready)
  end

  # The preferred members, first by rank, and the others.
  defp preferred(membership) do
    membership
    |> members()
    |> Enum.sort_by(&{:erlang.phash2({@self, &1}, 4_294_967_296), &1})
    |> Enum.split(membership.options.links)
  end

  defp full_since(%{config: %{links: :all}} = world), do: world

  defp full_since(%{membership: membership} = world) do
    {preferred, _others} = preferred(membership)
    full? = length(preferred) == world.config.links and preferred -- connected(world) == []
    %{world | full_since: if(full?, do: world.full_since || world.now)}
  end

  defp members(membership),
    do: for({name, peer} <- membership.peers, peer.endpoints != %{}, do: name)

  defp connected(world), do: Membership.connected(world.membership)

  # With a limited number of links, a node that is not preferred is dialled only if links are missing.
  defp check_wanted(%{config: %{links: :all}}, _name), do: :ok

  defp check_wanted(world, name) do
    {preferred, _others} = preferred(world.membership)

    assert name in preferred or links(world) < world.config.links,
           "dials the stand-in #{name}, but no link is missing"
  end

  # Returns the number of links. A link is a connected node that does not leave (drain), and that is preferred or was dialled
  # by this node.
  defp links(%{membership: membership} = world) do
    {preferred, others} = preferred(membership)
    links = preferred ++ Enum.filter(others, &membership.peers[&1].opened)
    Enum.count(links, &(&1 in connected(world) and not membership.peers[&1].draining))
  end

  defp check_released(world, []), do: world

  defp check_released(%{config: config} = world, [name]) do
    {preferred, others} = preferred(world.membership)
    assert config.release_links, "gives up #{name} without :release_links"
    assert name in others, "gives up #{name}, which is no stand-in"
    assert name in world.opened, "gives up #{name}, which this node has not dialled"
    assert preferred -- connected(world) == [] and length(preferred) == config.links

    assert world.full_since != nil and world.now - world.full_since >= @settled_after,
           "gives up #{name} too early"

    assert world.released_at == nil or world.now - world.released_at >= @release_every,
           "gives up two nodes at once"

    %{world | released_at: world.now}
  end

  defp check_pruned(world, _connected, []), do: world

  defp check_pruned(world, connected, pruned) do
    assert world.config.prune, "prunes #{inspect(pruned)} without the option :prune"

    assert 2 * length(pruned) <= MapSet.size(connected),
           "prunes #{inspect(pruned)}, over half of #{inspect(connected)}"

    for name <- pruned, do: check_evidence(world, name)
    check_round(world)

    world = %{world | answers_at_prune: length(world.answers)}
    if world.deltas, do: unread(world, connected), else: snapshot(world)
  end

  defp check_evidence(world, name) do
    for {at, _source, names, _complete} <- world.answers, at > world.now - world.config.keep do
      refute name in names, "prunes #{name} at #{world.now}, but the answer at #{at} contained it"
    end

    for source <- world.config.sources do
      since_nodeup =
        for {at, ^source, names, true} <- world.answers, at >= world.joined_at[name], do: names

      last = Enum.take(since_nodeup, world.config.prune)
      assert length(last) == world.config.prune, "prunes #{name} too early"
      refute Enum.any?(last, &(name in &1)), "prunes #{name}, which #{inspect(source)} names"
    end
  end

  # Each source must have answered since nodes were last pruned. Answers are compared by their number, because two
  # of them may have the same time.
  defp check_round(%{answers_at_prune: nil}), do: :ok

  defp check_round(%{answers_at_prune: before} = world) do
    since = Enum.take(world.answers, length(world.answers) - before)

    for source <- world.config.sources do
      assert Enum.any?(since, &match?({_at, ^source, _names, true}, &1)),
             "prunes twice in one round"
    end
  end

  defp source(world, number), do: Enum.at(world.config.sources, number)
end
