defmodule Caravan.Cluster.Membership.PollScheduleTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Membership.PollSchedule

  @options %{min_interval: 1_000, poll_interval: 5_000}
  @chances [0.0, 0.25, 0.5, 0.999999]

  defp waits(fun), do: Enum.map(@chances, fun)

  test "the wait after an answer is its TTL, within the limits, with jitter" do
    for {ttl, low, high} <- [
          {1, 960, 1_200},
          {2_000, 1_920, 2_400},
          {4_900, 4_000, 5_000},
          {86_400_000, 4_000, 5_000},
          {nil, 4_000, 5_000},
          # A TTL of zero is Consul's default. If it gave the shortest wait, 500 nodes would ask Consul 500 times a second.
          {0, 4_000, 5_000}
        ] do
      waits = waits(&PollSchedule.after_answer(ttl, false, @options, &1))
      assert Enum.all?(waits, &(&1 in low..high)), "#{ttl}: #{inspect(waits)}"
      assert Enum.uniq(waits) == waits
    end
  end

  test "the wait after the first answer is fully random" do
    assert PollSchedule.after_answer(nil, true, @options, 0.0) == 1
    assert PollSchedule.after_answer(nil, true, @options, 0.999999) == 4_500
  end

  test "a wait has jitter even if :min_interval equals :poll_interval" do
    options = %{min_interval: 5_000, poll_interval: 5_000}

    assert waits(&PollSchedule.after_answer(0, false, options, &1)) == [
             4_000,
             4_250,
             4_500,
             5_000
           ]
  end

  test "failures double the wait, up to :poll_interval in a small cluster and six times that in a large one" do
    longest = fn nodes ->
      for failures <- 1..8, do: PollSchedule.after_failure(failures, nodes, @options, 0.999999)
    end

    assert longest.(0) == [1_000, 2_000, 4_000, 5_000, 5_000, 5_000, 5_000, 5_000]
    assert Enum.max(longest.(39)) == 5_000
    assert Enum.max(longest.(60)) == 15_000
    assert Enum.max(longest.(120)) == 30_000
    assert Enum.max(longest.(10_000)) == 30_000
    assert PollSchedule.after_failure(1_000_000, 120, @options, 0.0) == 15_000
  end

  test "lookups after a nodedown or a failure are spread over a time that grows with the number of nodes" do
    spread = fn nodes -> PollSchedule.after_nodedown(nodes, @options, 0.999999) end
    assert spread.(2) == 200
    assert spread.(20) == 1_500
    assert spread.(100) == 7_500
    assert spread.(10_000) == 7_500
    assert PollSchedule.after_nodedown(10_000, @options, 0.0) == 200
    assert PollSchedule.after_failure(1, 10_000, @options, 0.999999) == 7_500
  end
end
