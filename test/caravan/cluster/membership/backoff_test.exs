defmodule Caravan.Cluster.Membership.BackoffTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Membership.Backoff

  @second 1_000
  @minute 60 * @second
  @hour 60 * @minute

  @few %{members: 3, connected: 2}

  # Returns the longest waits after the node has been gone for these times.
  defp longest(failure, times, counts \\ @few),
    do: for(gone <- times, do: Backoff.wait(failure, gone, counts, 0.999999) + 1)

  # Returns the times of the attempts for a node that is gone until the time `until`, with 0.5 as each random number.
  defp attempts(failure, until, counts, gone \\ 0) do
    if gone >= until,
      do: [],
      else: [
        gone | attempts(failure, until, counts, gone + Backoff.wait(failure, gone, counts, 0.5))
      ]
  end

  test "a wait grows with the time for which the node has been gone, up to a maximum" do
    assert longest(:new, [0, @second, 10 * @second, @hour]) == [500, 1_000, 10_000, 60_000]
    assert longest(:connect, [0, 10 * @second, @minute, @hour]) == [500, 1_000, 6_000, 40_000]
    assert longest(:probe, [0, @minute, @hour, 4 * @hour]) == [200, 200, 12_000, 40_000]
  end

  test "the second half of a wait is random" do
    for failure <- [:new, :connect, :probe], gone <- [0, @minute, 10 * @hour] do
      assert_in_delta Backoff.wait(failure, gone, @few, 0.0),
                      Backoff.wait(failure, gone, @few, 0.999999) / 2,
                      2
    end
  end

  test "a node that was connected is probed several times a second in the first minute" do
    waits =
      for gone <- 0..60_000//100,
          do: Backoff.wait(:probe, gone, %{members: 50, connected: 1}, 0.999999)

    assert Enum.max(waits) <= 200
  end

  test "in the long run, two attempts to dial a dead node are at least 15 seconds apart" do
    for failure <- [:new, :connect, :probe],
        do: assert(Backoff.wait(failure, 10 * @hour, @few, 0.0) >= 15 * @second)
  end

  test "a dead node that was connected costs a limited number of probes" do
    assert length(attempts(:probe, @minute, @few)) in 350..450
    assert length(attempts(:probe, 24 * @hour, @few)) < 8_000
    assert length(attempts(:new, @minute, @few)) <= 10
  end

  test "in a large cluster, a node is probed more rarely by each of its peers" do
    for members <- [50, 100, 1_000, 16_000] do
      counts = %{members: members, connected: members - 1}
      each_second = members * 1_000 / Backoff.wait(:probe, 0, counts, 0.5)
      assert each_second <= 340
      assert Backoff.after_first_probe(counts, 0.999999) <= 4 * members
      assert Backoff.after_sign(counts, 0.999999) in 50..Backoff.after_sign_at_most(counts)
    end
  end

  test "in a large cluster, a node whose handshakes fail is connected more rarely by each of its peers" do
    for members <- [50, 100, 1_000, 16_000],
        gone <- [0, @minute],
        failure <- [:connect, :new_connect] do
      counts = %{members: members, connected: members - 1}
      assert members * 1_000 / Backoff.wait(failure, gone, counts, 0.5) <= 135
    end

    # The members saw the nodedown together, so their second connects begin together.
    counts = %{members: 1_000, connected: 999}
    second = for n <- 0..999, do: Backoff.wait(:connect, 0, counts, n / 1_000)
    assert second |> Enum.frequencies_by(&div(&1, 1_000)) |> Map.values() |> Enum.max() <= 200
  end

  test "a new node that refuses is dialled more rarely only if many other members are missing too" do
    one = %{members: 1_000, connected: 999}
    assert longest(:new, [0, @minute], one) == [500, 60_000]
    many = %{members: 1_000, connected: 10}
    assert longest(:new, [0, @minute, @hour], many) == [9_900, 60_000, 118_800]
    assert length(attempts(:new, @minute, many)) <= 5
  end

  test "many new nodes that refuse are dialled in a few groups, each at one time" do
    counts = %{members: 1_000, connected: 10}

    for now <- [-500_123, 77_000] do
      times = for n <- 0..989, do: Backoff.next_at_of_new(:new, now, 0, counts, n / 990)
      assert Enum.all?(times, &((&1 - now) in 3_700..9_900))
      assert length(Enum.uniq(times)) in 5..7
    end

    for random <- [0.0, 0.999999],
        do: assert(Backoff.next_at_of_new(:new, 0, 0, @few, random) in 180..500)
  end

  test "the wait for a node that flaps doubles each time, up to :poll_interval or a minute" do
    waits = for flaps <- 1..5, do: Backoff.after_flap(flaps, 5_000, 0.999999) + 1
    assert waits == [500, 1_000, 2_000, 4_000, 5_000]
    assert Backoff.after_flap(1_000_000, 100, 0.0) == 250
    assert Backoff.after_flap(1_000_000, @hour, 0.999999) + 1 == 60_000
  end

  test "a node that has announced that it leaves is dialled after half a minute or later" do
    assert Backoff.after_drain(0.0) == 30_000
  end

  test "a steady node is dialled 50 to 200 ms after its nodedown" do
    assert Backoff.after_nodedown(0.0) == 50
    assert Backoff.after_nodedown(0.999999) == 200
  end
end
