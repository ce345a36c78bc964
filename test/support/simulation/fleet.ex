defmodule Caravan.Test.Fleet do
  @moduledoc """
  Many strategies that ask one DNS server, on a simulated clock: when each of them asks is decided by the
  very code that decides it in a strategy (`Caravan.Cluster.Membership.Source`); only the answers are made up.
  """

  alias Caravan.Cluster.Membership.Source

  # What a lookup takes, in milliseconds: one that is answered, and one that is not.
  @answered 5
  @failed 2_000

  @doc """
  How many lookups each second has, from the one of the start on.

    * `:size`: strategies, each connected to all others
    * `:seconds`: how long
    * `:ttl`, `:limits`: milliseconds, as in the options
    * `:outage`: a range of seconds in which DNS does not answer
    * `:nodedown`: the second in which all see a node go down
  """
  @spec load(keyword) :: [non_neg_integer]
  def load(options) do
    :rand.seed(:exsss, Keyword.get(options, :seed, 1))
    limits = Keyword.fetch!(options, :limits)
    size = Keyword.fetch!(options, :size)
    until = 1_000 * Keyword.fetch!(options, :seconds)

    # All start in the same millisecond, which no deployment manages.
    sources = for id <- 1..size, into: %{}, do: {id, %Source{next_lookup_at: 0}}
    agenda = for id <- 1..size, do: {0, {:ask, id}}

    down =
      for second <- List.wrap(options[:nodedown]),
          id <- 1..size,
          do: {1_000 * second, {:down, id}}

    fleet = %{sources: sources, agenda: :gb_sets.from_list(agenda ++ down), asked: %{}}
    env = %{limits: limits, ttl: options[:ttl], outage: options[:outage], size: size}
    asked = run(fleet, until, env).asked
    for second <- 0..(div(until, 1_000) - 1), do: Map.get(asked, second, 0)
  end

  @doc "The busiest second over the mean; the first one, in which all ask by design, does not count."
  @spec peak([non_neg_integer]) :: float
  def peak([_start | load]), do: Enum.max(load) / mean(load)

  @spec mean([non_neg_integer]) :: float
  def mean(load), do: Enum.sum(load) / length(load)

  @doc "The load as text, in columns of so many seconds: the busiest second of each."
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

  # The times of a source that were moved are still on the agenda, and no longer true.
  defp happen(fleet, {:ask, id}, now, env) do
    source = fleet.sources[id]

    if source.next_lookup_at == now and not source.pending do
      failing = env.outage && div(now, 1_000) in env.outage

      done =
        if failing, do: {now + @failed, {:failed, id}}, else: {now + @answered, {:answered, id}}

      %{fleet | asked: Map.update(fleet.asked, div(now, 1_000), 1, &(&1 + 1))}
      |> put(id, Source.lookup_started(source, now, env.limits))
      |> later(done)
    else
      fleet
    end
  end

  defp happen(fleet, {:answered, id}, now, env) do
    source = Source.lookup_answered(fleet.sources[id], env.ttl, now, env.limits, :rand.uniform())
    fleet |> put(id, source) |> later({source.next_lookup_at, {:ask, id}})
  end

  defp happen(fleet, {:failed, id}, now, env) do
    {_news, source} =
      Source.lookup_failed(
        fleet.sources[id],
        :timeout,
        env.size,
        now,
        env.limits,
        :rand.uniform()
      )

    fleet |> put(id, source) |> later({source.next_lookup_at, {:ask, id}})
  end

  defp happen(fleet, {:down, id}, now, env) do
    wait =
      Caravan.Cluster.Membership.PollSchedule.after_nodedown(
        env.size,
        env.limits,
        :rand.uniform()
      )

    source = Source.poll_soon(fleet.sources[id], wait, now, env.limits)
    fleet |> put(id, source) |> later({source.next_lookup_at, {:ask, id}})
  end

  defp put(fleet, id, source), do: put_in(fleet.sources[id], source)
  defp later(fleet, entry), do: %{fleet | agenda: :gb_sets.add(entry, fleet.agenda)}
end
