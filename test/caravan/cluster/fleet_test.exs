defmodule Caravan.Cluster.FleetTest do
  @moduledoc """
  Tests the load that a thousand strategies with the default options put on their DNS server, and on a node that they
  have lost.

  The first second does not count. All strategies query in it, so that they join at once. It has two to seven
  times the mean load, depending on the TTL and the outage.
  """
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Config
  alias Caravan.Test.Fleet

  @size 1_000

  defp load(options) do
    limits = Config.new!(query: "app.test", node_sname: "app")
    Fleet.load([size: @size, seconds: 300, limits: limits] ++ options)
  end

  for {title, options} <- [
        "that all start in the same moment": [],
        "that lose a node": [nodedown: 200],
        "whose DNS fails for a minute": [outage: 60..119],
        "whose DNS fails and that lose a node": [outage: 60..119, nodedown: 200]
      ],
      ttl <- [0, 2_000, 60_000] do
    test "strategies #{title}, with a TTL of #{ttl} ms: each later second has at most twice the mean load" do
      for seed <- 1..2 do
        load = load([ttl: unquote(ttl), seed: seed] ++ unquote(Macro.escape(options)))

        if seed == 1 do
          IO.puts(
            "\na fleet of #{@size} #{unquote(title)}, TTL #{unquote(ttl)} ms: at most " <>
              "#{Float.round(Fleet.peak(load), 2)} times the mean after the first second; " <>
              "lookups in the busiest second of each 30:\n#{Fleet.histogram(load, 30)}"
          )
        end

        assert Fleet.peak(load) <= 2, Fleet.histogram(load, 1)

        # Each strategy queries once, and some of them query a second time after a short random wait.
        assert hd(load) in @size..round(@size + 2 * Fleet.mean(tl(load)))
      end
    end
  end

  for gone <- [2, 10, 60, 600] do
    test "a node that is back after #{gone} s is not dialled in step" do
      for seed <- 1..2 do
        [first, rest] =
          @size |> Fleet.dials(unquote(gone) * 1_000, seed) |> Enum.split(10) |> Tuple.to_list()

        # The mean is that of the time before the node is back. Then each strategy dials it once more.
        dead = Enum.take(rest, unquote(gone) * 10 - 10)
        mean = Fleet.mean(dead)

        if seed == 1 do
          IO.puts(
            "\na fleet of #{@size} that has lost a node for #{unquote(gone)} s: #{Enum.sum(first)} dials in the first " <>
              "second, then #{Float.round(mean, 1)} in 100 ms, at most #{Enum.max(rest)}"
          )
        end

        assert Enum.max(rest) <= 2 * mean
        # Each strategy dials once in the first second, and some of them a second time.
        assert Enum.sum(first) in @size..round(@size + 11 * mean)
      end
    end
  end

  test "strategies query less and less often while DNS fails" do
    load = load(ttl: 60_000, outage: 60..240)
    assert Fleet.mean(Enum.slice(load, 200..240)) < 0.25 * Fleet.mean(Enum.slice(load, 20..59))
  end
end
