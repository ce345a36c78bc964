defmodule Caravan.Test.ModelWorld do
  @moduledoc """
  The world around a `Caravan.Cluster.Membership`, on a simulated clock: a DNS, other nodes, connections.
  It carries out the actions, and checks at each of them what has to hold always.

  Everything that a rule needs is written down here anew, from what the world saw, not read from the
  state under test.
  """

  import ExUnit.Assertions

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Membership

  @self "app@me"
  @other "other@host"
  @connect_timeout 5_000
  @day 86_400_000

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
    answers: [],
    joined_at: %{},
    answers_at_drop: nil,
    table: MapSet.new(),
    drained: false,
    deltas: false,
    unread: []
  ]

  @doc """
  Returns a world at its start. `options` are those of a strategy, and `deltas: true`: then the membership
  learns of connections by `:nodeup` and `:nodedown`, which lie in the mailbox until the clock goes on or
  something else comes; without it, from the list of all connected nodes, at once.
  """
  @spec new(keyword) :: struct
  def new(options) do
    {deltas, options} = Keyword.pop(options, :deltas, false)
    config = [query: "a.test", node_sname: "app"] |> Keyword.merge(options) |> Config.new!()

    # A clock as of the BEAM, which starts below zero.
    now = -500_000

    world = %__MODULE__{
      config: config,
      now: now,
      deltas: deltas,
      membership: Membership.new(config, 42, now)
    }

    handle(world, :tick)
  end

  @doc "Carries a command out."
  @spec run(struct, term) :: struct
  def run(world, {:advance, time}), do: advance(world, world.now + time)
  def run(world, {:dns, source, says}), do: put_in(world.dns[source(world, source)], says)
  def run(world, {:born, name}), do: %{world | alive: MapSet.put(world.alive, name)}

  def run(world, {:dies, name}) do
    %{world | alive: MapSet.delete(world.alive, name)}
    |> connections(MapSet.delete(world.connected, name))
  end

  def run(world, {:link_breaks, name}),
    do: connections(world, MapSet.delete(world.connected, name))

  def run(world, {:dials_us, name}) do
    if name in world.alive and not world.drained, do: join(world, name), else: world
  end

  def run(world, {:atoms_available, room}), do: %{world | atoms_available: room}
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
    case Map.get(world.dns, source, :failing) do
      :failing -> quiet(world, {:lookup_failed, source, {:timeout, "no answer"}})
      :nothing -> quiet(world, {:lookup_failed, source, {:nxdomain, "no such name"}})
      {:answer, [], _complete} -> quiet(world, answer(source, [], true))
      {:answer, names, complete} -> answered(world, source, names, complete)
      {:subset, names, size} -> answered(world, source, Enum.take_random(names, size), true)
    end
  end

  defp happen(world, {:connect, name}) do
    {result, world} =
      if name in world.alive,
        do: {:ok, world |> join(name) |> seen(name)},
        else: {{:error, :unreachable}, world}

    %{world | connecting: Map.delete(world.connecting, name)}
    |> handle({:connect_result, name, result})
  end

  # The result of a connect may come before the nodeup. Then the strategy takes a snapshot.
  defp seen(world, name) do
    if :erlang.phash2({world.now, name}, 2) == 0, do: read(world), else: snapshot(world)
  end

  defp answered(world, source, names, complete) do
    world = %{world | answers: [{world.now, source, MapSet.new(names), complete} | world.answers]}
    handle(world, answer(source, names, complete))
  end

  # Neither a failure nor an empty answer is evidence of anything.
  defp quiet(world, event) do
    before = Enum.sort(Membership.members(world.membership))
    world = handle(world, event)
    assert Enum.sort(Membership.members(world.membership)) == before
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

  ## What the membership learns of connections

  defp connections(%{connected: before} = world, connected) do
    world = %{world | connected: connected}
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
    world = handle(world, :tick)
    assert Membership.wake(world.membership, world.now) > world.now, "it would spin"
    # Stray events tell of a node of another cluster.
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
    world = Enum.reduce(actions, world, &act/2)
    always(world, connected, for({:disconnect, name} <- actions, do: name))
  end

  defp act({:lookup, source}, world) do
    refute world.drained, "asks while drained"
    refute Enum.any?(world.agenda, &match?({_, {:lookup, ^source}}, &1)), "asks twice at once"
    later(world, 1 + :erlang.phash2({world.now, source}, 2_000), {:lookup, source})
  end

  defp act({:connect, name}, world) do
    refute world.drained, "dials while drained"
    refute name == @self, "dials itself"

    assert name not in world.connected or {:nodeup, name} in world.unread,
           "dials #{name}, which is connected"

    refute is_map_key(world.connecting, name), "dials #{name} twice at once"
    assert name in world.table, "dials #{name}, whose address nobody was told"
    assert Enum.any?(world.answers, fn {_, _, names, _} -> name in names end), "made up #{name}"

    new =
      if name in world.atoms do
        world.dialled_new
      else
        assert world.atoms_available, "makes an atom of #{name} though there is no room"
        [world.now | world.dialled_new]
      end

    delay =
      if name in world.alive,
        do: 1 + :erlang.phash2({world.now, name}, 300),
        else: dead_for(world, name)

    %{
      world
      | dialled_new: new,
        atoms: MapSet.put(world.atoms, name),
        connecting: Map.put(world.connecting, name, world.now)
    }
    |> later(delay, {:connect, name})
  end

  # Evidence is checked in always/3, with all drops of the round together.
  defp act({:disconnect, name}, world),
    do: %{world | connected: MapSet.delete(world.connected, name)}

  defp act({:publish, entries}, world) do
    assert length(entries) <= world.config.max_nodes
    refute world.drained, "fills the table of addresses while drained"
    %{world | table: MapSet.new(entries, &elem(&1, 0))}
  end

  defp act({:report, _report}, world), do: world

  # Half of the dead refuse, half are silent.
  defp dead_for(world, name) do
    if :erlang.phash2({world.now, name}, 2) == 0, do: 1, else: @connect_timeout
  end

  defp later(world, delay, event),
    do: %{world | agenda: [{world.now + delay, event} | world.agenda]}

  ## What holds always

  defp always(world, connected_before, dropped) do
    %{membership: membership, config: config} = world
    assert length(Membership.members(membership)) <= config.max_nodes

    today = Enum.count(world.dialled_new, &(&1 > world.now - @day))
    assert today <= config.max_new_names, "#{today} new names within a day"

    # While drained, those of before stand.
    for {_name, source} <- membership.sources,
        do: assert(source.next_lookup_at <= world.now + 6 * config.poll_interval, "asks too late")

    young = Enum.count(world.connecting, fn {_name, since} -> since + 100 > world.now end)
    assert young <= config.max_connects, "#{young} connects at once"

    check_indexes(world)
    check_drops(world, connected_before, dropped)
  end

  # What is kept in step with the peers is what a walk over them finds.
  defp check_indexes(%{membership: membership, connecting: connecting, now: now}) do
    %{queue: queue, slots: slots} = membership

    assert Membership.counts(membership) == %{
             members: length(Membership.members(membership)),
             connected: length(Membership.connected(membership))
           }

    for {name, peer} <- membership.peers,
        do: assert(peer.connected_since != nil == name in membership.connected_nodes)

    assert slots.started == connecting
    young = for {name, since} <- connecting, since + 100 > now, do: {since, name}
    assert MapSet.subset?(MapSet.new(young), MapSet.new(:gb_sets.to_list(slots.young)))
    assert Enum.all?(:gb_sets.to_list(slots.young), fn {at, name} -> connecting[name] == at end)

    waiting =
      for {name, peer} <- membership.peers,
          peer.endpoints != %{} and peer.connected_since == nil,
          not is_map_key(connecting, name),
          do: {peer.retry_at, peer.connect_failures, name}

    {ready, later} = Enum.split_with(waiting, fn {at, _failures, _name} -> at <= now end)

    ready =
      for {_at, failures, name} <- ready, do: {failures, :erlang.phash2({@self, name}), name}

    waiting = for {at, nodes} <- :gb_trees.to_list(queue.waiting), do: {at, Enum.sort(nodes)}
    later = Enum.group_by(later, &elem(&1, 0), fn {_at, failures, name} -> {name, failures} end)
    assert Map.new(waiting) == Map.new(later, fn {at, nodes} -> {at, Enum.sort(nodes)} end)
    assert :gb_sets.to_list(queue.ready) == Enum.sort(ready)
  end

  defp check_drops(world, _connected, []), do: world

  defp check_drops(world, connected, dropped) do
    assert world.config.prune, "drops #{inspect(dropped)} though nobody allowed it"

    assert 2 * length(dropped) <= MapSet.size(connected),
           "drops #{inspect(dropped)} of #{inspect(connected)}"

    for name <- dropped, do: check_evidence(world, name)
    check_round(world)

    world = %{world | answers_at_drop: length(world.answers)}
    if world.deltas, do: unread(world, connected), else: snapshot(world)
  end

  defp check_evidence(world, name) do
    for {at, _source, names, _complete} <- world.answers, at > world.now - world.config.keep do
      refute name in names, "drops #{name}, which was named at #{at}; it is #{world.now}"
    end

    for source <- world.config.sources do
      last =
        for {at, ^source, names, true} <- world.answers, at >= world.joined_at[name], do: names

      needed = Enum.take(last, world.config.prune)
      assert length(needed) == world.config.prune, "drops #{name} too early"
      refute Enum.any?(needed, &(name in &1)), "drops #{name}, which #{inspect(source)} names"
    end
  end

  # Since the last drop, every source has answered. Counted, not timed: two may answer at one moment.
  defp check_round(%{answers_at_drop: nil}), do: :ok

  defp check_round(%{answers_at_drop: before} = world) do
    since = Enum.take(world.answers, length(world.answers) - before)

    for source <- world.config.sources do
      assert Enum.any?(since, &match?({_at, ^source, _names, true}, &1)),
             "drops twice in one round"
    end
  end

  defp source(world, number), do: Enum.at(world.config.sources, number)
end
