defmodule Caravan.Cluster.RemindersTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Reminders

  @minute 60_000
  @hour 60 * @minute

  test "a trouble is due after five minutes, and then each hour" do
    troubles = %{a: 0}
    assert {[], [], reminders} = Reminders.update(Reminders.new(), troubles, 5 * @minute - 1)
    assert {[:a], [], reminders} = Reminders.update(reminders, troubles, 5 * @minute)
    assert {[], [], reminders} = Reminders.update(reminders, troubles, 5 * @minute + @hour - 1)
    assert {[:a], [], reminders} = Reminders.update(reminders, troubles, 6 * @minute + @hour)
    # The time counts from the last reminder.
    assert {[], [], reminders} = Reminders.update(reminders, troubles, 5 * @minute + 2 * @hour)
    assert {[:a], [], _reminders} = Reminders.update(reminders, troubles, 6 * @minute + 2 * @hour)
  end

  test "a trouble is over once, and only if it was reported again" do
    {[:a], [], reminders} =
      Reminders.update(Reminders.new(), %{a: 0, b: 10 * @minute}, 11 * @minute)

    assert {[], [:a], reminders} = Reminders.update(reminders, %{}, 12 * @minute)
    assert {[], [], reminders} = Reminders.update(reminders, %{}, 13 * @minute)
    # It begins again.
    assert {[:a], [], _} = Reminders.update(reminders, %{a: 14 * @minute}, 19 * @minute)
  end
end
