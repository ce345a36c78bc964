defmodule Caravan.Soak.ScheduleTest do
  use ExUnit.Case, async: true

  alias Caravan.Test.Soak.Schedule

  @nodes 12
  @long_running 4

  defp schedule(seed, options \\ []) do
    Schedule.new(
      seed,
      Keyword.merge([nodes: @nodes, long_running: @long_running, cuts: true], options)
    )
  end

  # Each round with the schedules before and after it.
  defp rounds(schedule, count) do
    {rounds, _schedule} =
      Enum.map_reduce(1..count, schedule, fn _number, before ->
        {round, later} = Schedule.next(before)
        {{round, before, later}, later}
      end)

    rounds
  end

  defp steps(round), do: Enum.map(round.steps, &elem(&1, 1))

  test "the same seed gives the same rounds, and another seed gives others" do
    same = for _time <- 1..2, do: for({round, _, _} <- rounds(schedule(7), 20), do: round)
    assert hd(same) == List.last(same)
    refute hd(same) == for({round, _, _} <- rounds(schedule(8), 20), do: round)
  end

  test "every kind of fault is injected in a hundred rounds" do
    kinds =
      for {round, _, _} <- rounds(schedule(1), 100), fault <- round.faults, uniq: true, do: fault

    assert Enum.sort(kinds) ==
             ~w(cut dns_empty dns_garbage dns_nxdomain dns_part dns_servfail dns_silent dns_slow)a ++
               ~w(dns_stopped dns_truncated drain isolate kill move pause reload remove)a
  end

  test "steps are sorted by time and lie within the round" do
    for {round, _, _} <- rounds(schedule(2), 200) do
      times = Enum.map(round.steps, &elem(&1, 0))
      assert times == Enum.sort(times)
      assert Enum.all?(times, &(&1 in 0..round.length))
    end
  end

  test "temporary faults end within the round" do
    for {round, _, _} <- rounds(schedule(3), 200) do
      steps = steps(round)
      assert for({:pause, id} <- steps, do: id) -- for({:continue, id} <- steps, do: id) == []
      assert for({:cut, pairs} <- steps, do: pairs) == for({:heal, pairs} <- steps, do: pairs)
      assert List.last([:ok | for({:dns, mode} <- steps, do: mode)]) == :ok
    end
  end

  test "a node's condition after a round follows from the steps of the round" do
    outcome = %{
      kill: :down,
      move: :down,
      start: :normal,
      drain: :drained,
      resume: :normal,
      remove: :not_in_dns,
      add: :normal
    }

    for {round, before, later} <- rounds(schedule(4), 200) do
      expected =
        for {action, id} <- steps(round), outcome[action], reduce: before.conditions do
          conditions -> Map.put(conditions, id, outcome[action])
        end

      assert expected == later.conditions
    end
  end

  test "a node has one fault in a round, and only if it was normal" do
    for {round, before, _} <- rounds(schedule(5), 200) do
      faulty =
        for {action, id} <- steps(round),
            action in [:kill, :move, :pause, :drain, :remove, :reload],
            do: id

      assert faulty == Enum.uniq(faulty)
      assert faulty -- Schedule.nodes(before, :normal) == []
    end
  end

  test "most nodes are normal after each round" do
    for {_, _, later} <- rounds(schedule(6), 200),
        do: assert(length(Schedule.nodes(later, :normal)) >= @nodes - 3)
  end

  test "the VM of a long-running node is never ended" do
    for {round, _, _} <- rounds(schedule(7), 200),
        {action, id} when action in [:kill, :move] <- steps(round),
        do: assert(id > @long_running)
  end

  test "no link is cut where that is not possible" do
    for {round, _, _} <- rounds(schedule(8, cuts: false), 100),
        do: refute(Enum.any?(steps(round), &match?({:cut, _}, &1)))
  end
end
