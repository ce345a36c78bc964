defmodule Caravan.Cluster.Membership.BackoffTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Membership.Backoff

  test "waits double to a minute, and half of each is random" do
    waits = for n <- 1..9, do: {Backoff.wait(n, 60_000, 0.0), Backoff.wait(n, 60_000, 0.999999)}

    assert Enum.map(waits, &elem(&1, 0)) ==
             [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]

    for {low, high} <- waits, do: assert(high in (2 * low - 1)..(2 * low))
  end

  test "a wait is at most `longest`, but not shorter than after one failure" do
    assert Backoff.wait(20, 5_000, 0.999999) in 4_999..5_000
    assert Backoff.wait(1_000_000, 100, 0.0) == 250
  end
end
