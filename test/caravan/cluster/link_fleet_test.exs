defmodule Caravan.Cluster.LinkFleetTest do
  @moduledoc """
  Checks what the option `:links` does in clusters that are too large for a test with real nodes. `bench/links.exs`
  simulates the same with 9,900 and 10,000 nodes.
  """
  use ExUnit.Case, async: true

  alias Caravan.Test.LinkFleet

  for seed <- 1..2 do
    test "500 edge nodes have three links to 10 core nodes, also after deaths, with the seed #{seed}" do
      figures = LinkFleet.roles(edges: 500, cores: 10, links: 3, seed: unquote(seed))
      assert figures.core_links == 45
      assert figures.edge_links == {1_500, true}
      assert figures.busiest_core <= 1.3
      assert figures.dialled_after_one
      assert figures.replaced <= 0.32
      assert figures.busiest_dials <= 2
      assert figures.below < 1_000
      assert figures.only_stand_ins
      assert figures.settled
      assert figures.settled_after in 60_000..120_000
    end
  end

  test "1,000 edge nodes have two links within a second although 3 of 10 core nodes drop packets" do
    cores = for n <- 1..10, do: "core@c#{n}.test"
    dead = Enum.take(cores, 3)

    for n <- 1..1_000 do
      history =
        LinkFleet.node("edge@e#{n}.test",
          links: 2,
          members: cores,
          alive?: fn name, _now -> name not in dead end,
          deaths: [],
          silent: true,
          at: [1_005],
          seed: n
        )

      assert length(history.links[1_005]) == 2
    end
  end

  for seed <- 1..5 do
    test "1,000 nodes with four links each are one component, and so are at least 99 % of those that are left after " <>
           "30 % have died, with the seed #{seed}" do
      names = List.to_tuple(for n <- 1..1_000, do: "app@n#{n}-#{unquote(seed)}.test")
      :rand.seed(:exsss, unquote(seed))
      figures = LinkFleet.graph(names, 4)
      assert figures.components == [1_000]
      assert figures.most_links <= 24
      [largest | others] = figures.components_without_repair
      assert largest >= 693

      # These nodes are alone: all nodes that they prefer are dead, and no living node prefers them.
      assert Enum.all?(others, &(&1 == 1))
      assert figures.components_after_repair == [700]
    end
  end
end
