defmodule Caravan.Cluster.Membership.SlotsTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Membership.Slots

  test "a connect in progress takes a slot, and frees it when it ends" do
    slots = Slots.new() |> Slots.start("a@h", 0) |> Slots.start("b@h", 10)
    assert Slots.started?(slots, "a@h")
    assert Slots.free(slots, 2) == 0
    slots = Slots.finish(slots, "a@h")
    refute Slots.started?(slots, "a@h")
    assert Slots.free(slots, 2) == 1
    assert Slots.names(slots) == ["b@h"]
  end

  test "a connect gives its slot away after 100 ms, and is still in progress" do
    slots = Slots.new() |> Slots.start("a@h", 0) |> Slots.start("b@h", 10)
    assert Slots.next_free_at(slots, 2) == 100
    assert slots |> Slots.expire(99) |> Slots.free(2) == 0
    slots = Slots.expire(slots, 100)
    assert Slots.free(slots, 2) == 1
    assert Slots.next_free_at(slots, 2) == 110
    assert Slots.started?(slots, "a@h")
    slots = Slots.finish(slots, "a@h")
    refute Slots.started?(slots, "a@h")
    assert Slots.free(slots, 2) == 1
  end

  test "a connect that ends and begins again has its slot for 100 ms from the second start" do
    slots = Slots.new() |> Slots.start("a@h", 0) |> Slots.start("b@h", 10)
    slots = slots |> Slots.finish("b@h") |> Slots.start("b@h", 50) |> Slots.expire(110)
    assert Slots.free(slots, 2) == 1
    assert Slots.next_free_at(slots, 2) == 150
    assert slots |> Slots.expire(150) |> Slots.free(2) == 2
  end

  test "no slot is free while 512 connects are in progress, except with a maximum above 512" do
    slots = Enum.reduce(1..512, Slots.new(), &Slots.start(&2, "n#{&1}@h", 0))
    assert Slots.free(slots, 1_024) == 512
    assert Slots.next_free_at(slots, 1_024) == 100
    assert Slots.next_free_at(slots, 128) == nil
    slots = Slots.expire(slots, 100)
    assert Slots.free(slots, 128) == 0
    assert slots |> Slots.finish("n7@h") |> Slots.free(128) == 1
  end

  test "the number of free slots is never negative" do
    slots = Enum.reduce(1..5, Slots.new(), &Slots.start(&2, "n#{&1}@h", 0))
    assert Slots.free(slots, 2) == 0
  end

  test "the end of an unknown connect changes nothing" do
    slots = Slots.start(Slots.new(), "a@h", 0)
    assert Slots.finish(slots, "b@h") == slots
    assert Slots.next_free_at(Slots.new(), 2) == nil
  end
end
