defmodule Caravan.Cluster.AlarmsTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Alarms

  test "an alarm is new when it is set first, and again after it was cleared" do
    assert {true, alarms} = Alarms.set(Alarms.new(), :a)
    assert {false, alarms} = Alarms.set(alarms, :a)
    assert Alarms.set?(alarms, :a)
    refute Alarms.set?(alarms, :b)
    alarms = Alarms.clear(alarms, :a)
    refute Alarms.set?(alarms, :a)
    assert {true, _alarms} = Alarms.set(alarms, :a)
  end

  test "alarms do not affect each other" do
    {true, alarms} = Alarms.set(Alarms.new(), {:left_out, "a.test"})
    assert {true, alarms} = Alarms.set(alarms, {:left_out, "b.test"})
    alarms = Alarms.clear(alarms, {:left_out, "a.test"})
    assert {false, _alarms} = Alarms.set(alarms, {:left_out, "b.test"})
  end

  test "with a hold, an alarm is cleared only when it was last set that long ago" do
    {true, alarms} = Alarms.set(Alarms.new(), :a, 1_000)
    alarms = Alarms.clear(alarms, :a, 1_099, 100)
    # Sets the time again.
    assert {false, alarms} = Alarms.set(alarms, :a, 1_099)
    alarms = Alarms.clear(alarms, :a, 1_198, 100)
    assert Alarms.set?(alarms, :a)
    alarms = Alarms.clear(alarms, :a, 1_199, 100)
    refute Alarms.set?(alarms, :a)
  end

  test "with a hold, an alarm that is cleared once is new again after the hold" do
    {true, alarms} = Alarms.set(Alarms.new(), :a, 1_000)
    alarms = Alarms.clear(alarms, :a, 1_050, 100)
    assert {false, _alarms} = Alarms.set(alarms, :a, 1_099)
    assert {true, _alarms} = Alarms.set(alarms, :a, 1_100)
    assert {true, _alarms} = alarms |> Alarms.clear(:a, 1_060, 100) |> Alarms.set(:a, 1_100)
  end

  test "clearing an alarm that is not set changes nothing" do
    assert Alarms.clear(Alarms.new(), :a) == Alarms.new()
    assert Alarms.clear(Alarms.new(), :a, 0, 0) == Alarms.new()
  end
end
