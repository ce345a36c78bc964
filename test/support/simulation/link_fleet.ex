defmodule Caravan.Test.LinkFleet do
  @moduledoc """
  Many nodes with a limited number of links, on a simulated clock.

  Each node is a real `Caravan.Cluster.Membership`. The members that it dials are only names that are alive or dead at a
  time. So no node depends on another one, and the nodes are simulated one by one.
  """

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Membership

  @hashes 4_294_967_296

  # Milliseconds until a lookup ends, until a connect succeeds, until it is refused, and until a connect or a probe to a
  # host that drops packets fails.
  @lookup 5
  @connect 5
  @refused 1
  @connect_timeout 5_000
  @probe_timeout 1_000

  # No member disappears from DNS. With a long `:keep`, equal answers are applied once, which takes less CPU time.
  @keep 86_400_000

  @typedoc """
  What a node has done:

    * `:preferred`: its preferred members, first by rank;
    * `:links`: the members to which it is connected, at each of the given times;
    * `:dials`: the times and members of all attempts to connect;
    * `:opened`: the times and members of all connections;
    * `:released`: the times and members of all disconnects by the node itself;
    * `:nodedowns`: the number of connections that ended because a member died;
    * `:below`: the longest time in milliseconds in which it had less than `:links` connections, after the first answer.
  """
  @type history :: %{
          preferred: [String.t()],
          links: %{integer => [String.t()]},
          dials: [{integer, String.t()}],
          opened: [{integer, String.t()}],
          released: [{integer, String.t()}],
          nodedowns: non_neg_integer,
          below: non_neg_integer
        }

  @doc "Returns the first `count` members in the order of their rank for `self`."
  @spec preferred(String.t(), [String.t()], non_neg_integer) :: [String.t()]
  def preferred(self, members, count) do
    members
    |> Enum.sort_by(&{:erlang.phash2({self, &1}, @hashes), &1})
    |> Enum.take(count)
  end

  # Milliseconds. One member dies, then 30 % of them are dead, then all are alive again. Two minutes later, it ends.
  @one_dies 5_000
  @many_die 10_000
  @back 20_000
  @ends @back + 120_000

  @doc """
  Simulates a cluster of two roles, and returns the figures that show whether `:links` keeps its promises.

  `edges` nodes connect to `links` of the `cores` core nodes, and the core nodes connect to each other. First one
  core node dies, then 30 % of them. Later all of them are back.

    * `:core_links`: the number of links between core nodes
    * `:edge_links`: the number of links of edge nodes before the deaths, and whether all of them are preferred
    * `:busiest_core`: the largest number of edge nodes that are linked to one core node, divided by the mean
    * `:dialled_after_one`: whether after the first death, all edge nodes that prefer the dead core node have dialled, and
      no others
    * `:replaced`: the number of links that were opened while 30 % of the core nodes were dead, divided by the number of
      all links of edge nodes
    * `:busiest_dials`: the largest number of dials that one core node got within 100 ms, divided by the mean number of
      edge nodes that are linked to a core node
    * `:below`: the longest time in milliseconds in which an edge node had fewer than `links` links
    * `:only_stand_ins`: whether edge nodes disconnected stand-ins only
    * `:settled`: whether all edge nodes have only their preferred links in the end
    * `:settled_after`: the time in milliseconds from the return of the core nodes to the last disconnect
  """
  @spec roles(keyword) :: map
  def roles(options) do
    [edges: edges, cores: cores, links: links, seed: seed] = options
    :rand.seed(:exsss, {seed, 1, 1})
    names = for n <- 1..cores, do: "core@c#{n}-#{seed}.test"
    [first | others] = dead = Enum.take_random(names, div(cores * 3, 10))
    dies_at = Map.new(dead, &{&1, if(&1 == first, do: @one_dies, else: @many_die)})

    alive? = fn name, now ->
      case dies_at do
        %{^name => at} -> now < at or now >= @back
        _ -> true
      end
    end

    times = [@one_dies - 1, @many_die - 1, @back - 1, @ends]

    options = [
      alive?: alive?,
      deaths: for(name <- [first | others], do: {dies_at[name], name}),
      silent: false,
      at: times
    ]

    core =
      run(for(name <- names, do: {name, names -- [name], :all}), seed, options)
      |> Enum.map(&length(&1.links[@one_dies - 1]))
      |> Enum.sum()

    edge_names = for n <- 1..edges, do: "edge@e#{n}-#{seed}.test"

    edge_names
    |> Enum.map(&{&1, names, links})
    |> run(seed, options)
    |> figures(first, links * edges, links * edges / cores)
    |> Map.put(:core_links, div(core, 2))
  end

  defp run(nodes, seed, options) do
    nodes
    |> Enum.with_index()
    |> map_in_tasks(fn {{name, members, links}, index} ->
      node(name, [members: members, links: links, seed: 100_000 * seed + index] ++ options)
    end)
  end

  # Each task has many elements, because what `fun` refers to is copied to each task.
  defp map_in_tasks(enumerable, fun) do
    enumerable
    |> Enum.chunk_every(100)
    |> Task.async_stream(&Enum.map(&1, fun), timeout: :infinity)
    |> Enum.flat_map(fn {:ok, results} -> results end)
  end

  defp figures(histories, first, total, share) do
    before = for history <- histories, name <- history.links[@one_dies - 1], do: name

    opened =
      for history <- histories, {at, _} <- history.opened, at in @many_die..(@back - 1), do: at

    dials = for history <- histories, {at, name} <- history.dials, do: {name, div(at, 100)}
    released = for history <- histories, {at, name} <- history.released, do: {at, name, history}

    %{
      edge_links: {length(before), Enum.all?(histories, &preferred?(&1, @one_dies - 1))},
      busiest_core: most(before) / share,
      dialled_after_one: Enum.all?(histories, &(dials?(&1) == first in &1.preferred)),
      replaced: length(opened) / total,
      busiest_dials: most(dials) / share,
      below: histories |> Enum.map(& &1.below) |> Enum.max(),
      only_stand_ins: Enum.all?(released, fn {_at, name, node} -> name not in node.preferred end),
      settled: Enum.all?(histories, &preferred?(&1, @ends)),
      settled_after: (released |> Enum.map(&elem(&1, 0)) |> Enum.max()) - @back
    }
  end

  defp preferred?(history, at), do: history.links[at] == Enum.sort(history.preferred)

  defp dials?(history),
    do: Enum.any?(history.dials, fn {at, _name} -> at in @one_dies..(@many_die - 1) end)

  defp most(list), do: list |> Enum.frequencies() |> Map.values() |> Enum.max()

  @doc """
  Simulates a node until the last one of the times `at`, in milliseconds.

    * `:links`: the option `:links` of the strategy
    * `:members`: the names in DNS
    * `:alive?`: returns whether a member is alive at a time
    * `:deaths`: the times at which members die, and their names
    * `:silent`: whether the hosts of dead members drop packets. Otherwise they refuse connections
    * `:at`: the times at which the links are noted in the history, ascending
    * `:seed`: the seed of the random numbers of the node
  """
  @spec node(String.t(), keyword) :: history
  def node(self, options) do
    config =
      Config.new!(
        query: "a.test",
        node_sname: "app",
        links: options[:links],
        keep: @keep,
        connect_timeout: @connect_timeout
      )

    endpoint = %Endpoint{ports: [4_001], addresses: [{127, 0, 0, 1}]}
    members = options[:members]
    limit = if options[:links] == :all, do: length(members), else: options[:links]

    node = %{
      self: self,
      membership: Membership.new(config, options[:seed], 0),
      endpoints: Map.new(members, &{&1, endpoint}),
      options: Map.new(options),
      limit: limit,
      agenda: :gb_sets.from_list(for {at, name} <- options[:deaths], do: {at, {:dies, name}}),
      connected: MapSet.new(),
      below_since: nil,
      history: %{
        preferred: preferred(self, members, limit),
        links: %{},
        dials: [],
        opened: [],
        released: [],
        nodedowns: 0,
        below: 0
      }
    }

    node = handle(node, :tick, 0)
    Enum.reduce(options[:at], node, &note(advance(&2, &1), &1)).history
  end

  defp note(node, at) do
    node = put_in(node.history.links[at], Enum.sort(node.connected))
    if node.below_since, do: below(node, at), else: node
  end

  ## The clock

  defp advance(node, until) do
    wake = Membership.wake(node.membership, 0)

    next =
      unless :gb_sets.is_empty(node.agenda), do: node.agenda |> :gb_sets.smallest() |> elem(0)

    cond do
      next != nil and next <= until and next <= wake ->
        {{at, event}, agenda} = :gb_sets.take_smallest(node.agenda)
        %{node | agenda: agenda} |> happen(event, at) |> advance(until)

      wake <= until ->
        node |> handle(:tick, wake) |> advance(until)

      true ->
        node
    end
  end

  defp happen(node, {:answer, source}, now) do
    answer = %{endpoints: node.endpoints, ttl: 5_000, complete: true}
    node |> handle({:answer, source, answer}, now) |> count(now)
  end

  defp happen(node, {:connect, name, failure}, now) do
    if node.options.alive?.(name, now) do
      node
      |> Map.update!(:connected, &MapSet.put(&1, name))
      |> record(:opened, {now, name})
      |> handle({:nodeup, name}, now)
      |> handle({:connect_result, name, :ok}, now)
      |> count(now)
    else
      handle(node, {:connect_result, name, {:error, failure}}, now)
    end
  end

  defp happen(node, {:dies, name}, now) do
    if name in node.connected,
      do: node |> update_in([:history, :nodedowns], &(&1 + 1)) |> disconnect(name, now),
      else: node
  end

  defp disconnect(node, name, now) do
    node
    |> Map.update!(:connected, &MapSet.delete(&1, name))
    |> count(now)
    |> handle({:nodedown, name}, now)
  end

  # Notes for how long links have been missing.
  defp count(node, now) do
    case {MapSet.size(node.connected) < node.limit, node.below_since} do
      {true, nil} -> %{node | below_since: now}
      {false, since} when since != nil -> %{below(node, now) | below_since: nil}
      _no_change -> node
    end
  end

  defp below(node, now), do: update_in(node.history.below, &max(&1, now - node.below_since))

  defp record(node, what, entry), do: update_in(node.history[what], &[entry | &1])

  ## The membership

  defp handle(node, event, now) do
    env = %{now: now, self: node.self, existing_atom?: fn _ -> true end, atoms_available: true}
    {actions, membership} = Membership.handle(node.membership, event, env)
    Enum.reduce(actions, %{node | membership: membership}, &perform(&1, &2, now))
  end

  defp perform({:lookup, source}, node, now), do: later(node, now + @lookup, {:answer, source})

  defp perform({:connect, name, probe_every}, node, now) do
    {failure, takes} =
      case {node.options.alive?.(name, now), node.options.silent, probe_every} do
        {true, _silent, _probe} -> {:unreachable, @connect}
        {false, false, nil} -> {:unreachable, @refused}
        {false, false, _every} -> {{:probe, {:refused, "host:1"}, 0}, @refused}
        {false, true, nil} -> {:unreachable, @connect_timeout}
        {false, true, _every} -> {{:probe, {:no_reply, "host:1"}, 0}, @probe_timeout}
      end

    node |> record(:dials, {now, name}) |> later(now + takes, {:connect, name, failure})
  end

  defp perform({:release, name}, node, now),
    do: node |> record(:released, {now, name}) |> disconnect(name, now)

  defp perform(_publish_or_report, node, _now), do: node

  defp later(node, at, event), do: %{node | agenda: :gb_sets.add({at, event}, node.agenda)}

  ## Graphs

  @doc """
  Returns figures of the graph of nodes that are all members of one topology, and prefer `links` of the others each.

    * `:components`: the sizes of the components
    * `:most_links`: the largest number of links of a node, with those that other nodes opened to it
    * `:components_without_repair`: the sizes of the components of the living nodes after 30 % of the nodes have died
    * `:components_after_repair`: the same when stand-ins have replaced the links to dead nodes
  """
  @spec graph(names :: tuple, pos_integer) :: map
  def graph(names, links) do
    ranked = ranked(names, 4 * links)
    preferred = Map.new(ranked, fn {node, others} -> {node, Enum.take(others, links)} end)
    nodes = ranked |> Map.keys() |> Enum.sort()
    dead = nodes |> Enum.take_random(div(length(nodes) * 3, 10)) |> MapSet.new()
    living = Enum.reject(nodes, &(&1 in dead))

    repaired =
      Map.new(living, fn node ->
        others = Enum.reject(ranked[node], &(&1 in dead))
        {node, Enum.take(others, links)}
      end)

    %{
      components: components(nodes, preferred),
      most_links: most_links(preferred),
      components_without_repair: components(living, preferred),
      components_after_repair: components(living, repaired)
    }
  end

  # Two nodes that prefer each other have one link.
  defp most_links(preferred) do
    pairs =
      for {node, others} <- preferred, other <- others, uniq: true, do: Enum.sort([node, other])

    pairs |> List.flatten() |> most()
  end

  # Returns the first members of each node by rank, at least `wanted` of them unless the hashes are very uneven.
  defp ranked(names, wanted) do
    limit = min(@hashes, div(2 * @hashes * wanted, tuple_size(names)))
    indexed = names |> Tuple.to_list() |> Enum.with_index()

    indexed
    |> map_in_tasks(fn {self, index} -> {index, ranked(self, index, indexed, limit)} end)
    |> Map.new()
  end

  defp ranked(self, index, indexed, limit) do
    below =
      for {name, other} <- indexed,
          other != index,
          hash = :erlang.phash2({self, name}, @hashes),
          hash < limit,
          do: {hash, name, other}

    for {_hash, _name, other} <- Enum.sort(below), do: other
  end

  # Returns the sizes of the components of the graph of `nodes`, largest first.
  defp components(nodes, links) do
    alive = MapSet.new(nodes)

    edges =
      for node <- nodes,
          other <- links[node],
          other in alive,
          pair <- [{node, other}, {other, node}],
          do: pair

    neighbours = Enum.group_by(edges, &elem(&1, 0), &elem(&1, 1))

    {sizes, _seen} =
      Enum.reduce(nodes, {[], MapSet.new()}, fn node, {sizes, seen} ->
        if node in seen do
          {sizes, seen}
        else
          reached = reach([node], neighbours, MapSet.put(seen, node))
          {[MapSet.size(reached) - MapSet.size(seen) | sizes], reached}
        end
      end)

    Enum.sort(sizes, :desc)
  end

  defp reach([], _neighbours, seen), do: seen

  defp reach([node | rest], neighbours, seen) do
    new = for other <- Map.get(neighbours, node, []), other not in seen, uniq: true, do: other
    reach(new ++ rest, neighbours, Enum.into(new, seen))
  end
end
