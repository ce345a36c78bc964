defmodule Caravan.Cluster.Membership.PollScheduleTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Membership.PollSchedule

  @options %{min_interval: 1_000, poll_interval: 5_000}
  @chances [0.0, 0.25, 0.5, 0.999999]

  defp waits(fun), do: Enum.map(@chances, fun)

  test "after an answer: its TTL, within the limits, with a share of chance" do
    for {ttl, low, high} <- [
          {0, 960, 1_200},
          {2_000, 1_920, 2_400},
          {4_900, 4_000, 5_000},
          {86_400_000, 4_000, 5_000},
          {nil, 4_000, 5_000}
        ] do
      waits = waits(&PollSchedule.after_answer(ttl, false, @options, &1))
      assert Enum.all?(waits, &(&1 in low..high)), "#{ttl}: #{inspect(waits)}"
      assert Enum.uniq(waits) == waits
    end
  end

  test "the wait after the first answer is left to chance altogether" do
    assert PollSchedule.after_answer(nil, true, @options, 0.0) == 1
    assert PollSchedule.after_answer(nil, true, @options, 0.999999) == 4_500
  end

  test "no room between the limits: a fifth is left to chance all the same" do
    options = %{min_interval: 5_000, poll_interval: 5_000}

    assert waits(&PollSchedule.after_answer(0, false, options, &1)) == [
             4_000,
             4_250,
             4_500,
             5_000
           ]
  end

  test "failures double the wait, up to six polls" do
    longest =
      for failures <- 1..8, do: PollSchedule.after_failure(failures, 0, @options, 0.999999)

    assert longest == [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]
    assert PollSchedule.after_failure(1_000_000, 0, @options, 0.0) == 15_000
  end

  test "the more nodes see the same event, the more time it is spread over" do
    spread = fn nodes -> PollSchedule.after_nodedown(nodes, @options, 0.999999) end
    assert spread.(2) == 200
    assert spread.(20) == 1_500
    assert spread.(100) == 7_500
    assert spread.(10_000) == 7_500
    assert PollSchedule.after_nodedown(10_000, @options, 0.0) == 200
    assert PollSchedule.after_failure(1, 10_000, @options, 0.999999) == 7_500
  end
end
