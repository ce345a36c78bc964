defmodule Caravan.Cluster.DnsStrategy.TickTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.DnsStrategy.Tick

  # Milliseconds. A timer must be cancelled before this time, on a busy machine too.
  @soon 1_000

  defp now, do: System.monotonic_time(:millisecond)

  test "a tick comes at its time, and at once if the time is over" do
    at = now() + 50
    tick = Tick.set(Tick.new(), at)
    assert_receive :tick, 5_000
    assert now() >= at
    Tick.set(tick, now() - 60_000)
    assert_receive :tick, 5_000
  end

  test "another time replaces the time before" do
    soon = now() + 50
    tick = Tick.new() |> Tick.set(now() + 60_000) |> Tick.set(soon)
    assert_receive :tick, 5_000
    tick |> Tick.set(now() + @soon) |> Tick.set(now() + 60_000)
    refute_receive :tick, @soon + 100
  end

  test "the same time starts no second timer" do
    at = now() + 50
    tick = Tick.set(Tick.new(), at)
    assert Tick.set(tick, at) == tick
    assert_receive :tick, 5_000
    refute_receive :tick, 50
  end

  test "no tick comes after :never, or when it was cancelled" do
    assert Tick.new() |> Tick.set(now() + @soon) |> Tick.set(:never) == Tick.new()
    tick = Tick.new() |> Tick.set(now() + @soon) |> Tick.cancel()
    assert tick == Tick.new()
    assert Tick.set(tick, :never) == Tick.new()
    refute_receive :tick, @soon + 100
  end
end
