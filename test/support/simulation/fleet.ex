defmodule Caravan.Test.Fleet do
  @moduledoc """
  Many strategies that query one DNS server, or dial one node, on a simulated clock.

  The times come from `Caravan.Cluster.Membership.Source` and `Peer`, as in a strategy. Only the answers and the
  outcomes of the dials are simulated.
  """

  alias Caravan.Cluster.Membership.Peer
  alias Caravan.Cluster.Membership.Source

  # Milliseconds that a lookup takes if it is answered, and if it fails.
  @answered 5
  @failed 2_000

  @doc """
  Returns the number of lookups in each second, beginning with the start.

    * `:size`: the number of strategies, each connected to all others
    * `:seconds`: the length of the simulation
    * `:ttl`: the TTL of all answers, in milliseconds
    * `:limits`: a map with the strategy's options `:min_interval` and `:poll_interval`
    * `:outage`: a range of seconds in which all lookups fail
    * `:nodedown`: the second in which all strategies see a nodedown
  """
  @spec load(keyword) :: [non_neg_integer]
  def load(options) do
    :rand.seed(:exsss, Keyword.get(options, :seed, 1))
    limits = Keyword.fetch!(options, :limits)
    size = Keyword.fetch!(options, :size)
    until = 1_000 * Keyword.fetch!(options, :seconds)

    # All strategies start in the same millisecond. A real deployment is spread over more time.
    sources = for id <- 1..size, into: %{}, do: {id, %Source{next_lookup_at: 0, responded_at: 0}}
    agenda = for id <- 1..size, do: {0, {:lookup, id}}

    down =
      for second <- List.wrap(options[:nodedown]),
          id <- 1..size,
          do: {1_000 * second, {:down, id}}

    fleet = %{sources: sources, agenda: :gb_sets.from_list(agenda ++ down), lookups: %{}}
    env = %{limits: limits, ttl: options[:ttl], outage: options[:outage], size: size}
    lookups = run(fleet, until, env).lookups
    for second <- 0..(div(until, 1_000) - 1), do: Map.get(lookups, second, 0)
  end

  @doc """
  Returns the number of dials to a node in each tenth of a second, beginning with its nodedown.

  `size` strategies were connected to the node. It refuses connections for `gone` milliseconds, and then accepts the
  next one of each strategy.
  """
  @spec dials(size :: pos_integer, gone :: pos_integer, seed :: integer) :: [non_neg_integer]
  def dials(size, gone, seed) do
    :rand.seed(:exsss, seed)
    times = for _ <- 1..size, time <- dials(size, gone), do: time
    counts = Enum.frequencies_by(times, &div(&1, 100))
    for tenth <- 0..div(Enum.max(times), 100), do: Map.get(counts, tenth, 0)
  end

  defp dials(size, gone) do
    Peer.new("a@h", -60_000)
    |> Peer.connected(-60_000)
    |> Peer.disconnected(0, 5_000, :rand.uniform())
    |> redials(size, gone)
  end

  defp redials(%{retry_at: at}, _size, gone) when at >= gone, do: [at]

  defp redials(%{retry_at: at} = peer, size, gone) do
    refused = {:probe, {:refused, "10.0.0.1:4370"}, 0}
    counts = %{members: size, connected: size - 1}
    peer = Peer.connect_failed(peer, refused, counts, at, at, :rand.uniform())
    [at | redials(peer, size, gone)]
  end

  @doc "Returns the busiest second divided by the mean. Leaves out the first second, in which all strategies query."
  @spec peak([non_neg_integer]) :: float
  def peak([_start | load]), do: Enum.max(load) / mean(load)

  @spec mean([non_neg_integer]) :: float
  def mean(load), do: Enum.sum(load) / length(load)

  @doc "Returns the load as text. Each line is the busiest one of `seconds` seconds."
  @spec histogram([non_neg_integer], pos_integer) :: String.t()
  def histogram(load, seconds) do
    columns = load |> Enum.chunk_every(seconds) |> Enum.map(&Enum.max/1)
    most = Enum.max(columns)

    columns
    |> Enum.with_index()
    |> Enum.map_join("\n", fn {count, index} ->
      bar = String.duplicate("#", round(60 * count / most))

      "#{String.pad_leading("#{index * seconds} s", 6)} #{String.pad_leading("#{count}", 5)} #{bar}"
    end)
  end

  defp run(fleet, until, env) do
    {{now, event}, agenda} = :gb_sets.take_smallest(fleet.agenda)

    if now >= until,
      do: fleet,
      else: %{fleet | agenda: agenda} |> happen(event, now, env) |> run(until, env)
  end

  # A lookup that was moved to another time is still on the agenda at the old time, and is ignored there.
  defp happen(fleet, {:lookup, id}, now, env) do
    source = fleet.sources[id]

    if source.next_lookup_at == now and not source.pending do
      failing = env.outage && div(now, 1_000) in env.outage

      done =
        if failing, do: {now + @failed, {:failed, id}}, else: {now + @answered, {:answered, id}}

      %{fleet | lookups: Map.update(fleet.lookups, div(now, 1_000), 1, &(&1 + 1))}
      |> put(id, Source.lookup_started(source, now, env.limits))
      |> later(done)
    else
      fleet
    end
  end

  defp happen(fleet, {:answered, id}, now, env) do
    source = Source.lookup_answered(fleet.sources[id], env.ttl, now, env.limits, :rand.uniform())
    fleet |> put(id, source) |> later({source.next_lookup_at, {:lookup, id}})
  end

  defp happen(fleet, {:failed, id}, now, env) do
    {_new?, source} =
      Source.lookup_failed(
        fleet.sources[id],
        :timeout,
        env.size,
        now,
        env.limits,
        :rand.uniform()
      )

    fleet |> put(id, source) |> later({source.next_lookup_at, {:lookup, id}})
  end

  defp happen(fleet, {:down, id}, now, env) do
    wait =
      Caravan.Cluster.Membership.PollSchedule.after_nodedown(
        env.size,
        env.limits,
        :rand.uniform()
      )

    source = Source.poll_soon(fleet.sources[id], wait, now, env.limits)
    fleet |> put(id, source) |> later({source.next_lookup_at, {:lookup, id}})
  end

  defp put(fleet, id, source), do: put_in(fleet.sources[id], source)
  defp later(fleet, entry), do: %{fleet | agenda: :gb_sets.add(entry, fleet.agenda)}
end
