defmodule Caravan.Cluster.FleetTest do
  @moduledoc "A thousand strategies with the default options spare the DNS server that they share."
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Config
  alias Caravan.Test.Fleet

  defp load(options) do
    limits = Config.new!(query: "app.test", node_sname: "app")
    Fleet.load([size: 1_000, seconds: 300, limits: limits] ++ options)
  end

  for {title, options} <- [
        "that all start in the same moment": [],
        "that lose a node": [nodedown: 200],
        "whose DNS fails for a minute": [outage: 60..119],
        "to whom all of that happens": [outage: 60..119, nodedown: 200]
      ],
      ttl <- [0, 2_000, 60_000] do
    test "#{title}, with a TTL of #{ttl} ms: no second has twice the mean load" do
      for seed <- 1..2 do
        load = load([ttl: unquote(ttl), seed: seed] ++ unquote(Macro.escape(options)))
        assert hd(load) >= 1_000
        assert Fleet.peak(load) <= 2, Fleet.histogram(load, 1)
      end
    end
  end

  test "while DNS fails, they ask less and less" do
    load = load(ttl: 60_000, outage: 60..240)
    assert Fleet.mean(Enum.slice(load, 200..240)) < 0.25 * Fleet.mean(Enum.slice(load, 20..59))
  end
end
