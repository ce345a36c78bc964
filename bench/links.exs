# Simulates the option :links in clusters that no machine can run, and prints the figures of the worst seed. The roles run the
# real Membership on a simulated clock. The graph is made of the ranks alone.
#
#   mix run bench/links.exs [SEEDS]            # 2 unless given
#
#   * Roles: 9,900 edge nodes have three links to 100 core nodes. One core node dies, then 30 of them, then all are back.
#   * Graph: 10,000 nodes are members of one topology, with four links each. 30 % of them die.
#
# A seed takes about 15 s of CPU time.

Code.require_file("../test/support/simulation/link_fleet.ex", __DIR__)

alias Caravan.Test.LinkFleet

seeds = 1..String.to_integer(List.first(System.argv()) || "2")
all = fn figures, key -> Enum.map(figures, & &1[key]) end
round = &Float.round(&1, 3)

roles = for seed <- seeds, do: LinkFleet.roles(edges: 9_900, cores: 100, links: 3, seed: seed)

IO.puts("""
Roles, #{Enum.count(seeds)} seeds
  links between core nodes                       #{inspect(Enum.uniq(all.(roles, :core_links)))}   wanted: 4950
  links of edge nodes, all of them preferred     #{inspect(Enum.uniq(all.(roles, :edge_links)))}   wanted: 29700, true
  edge nodes of the busiest core node / mean     #{round.(Enum.max(all.(roles, :busiest_core)))}   wanted: at most 1.3
  one dies: only its own edge nodes dial         #{Enum.all?(all.(roles, :dialled_after_one))}
  30 % die: new links / all links                #{round.(Enum.max(all.(roles, :replaced)))}   wanted: at most 0.32
  most dials of a core node in 100 ms / mean     #{round.(Enum.max(all.(roles, :busiest_dials)))}   wanted: at most 2
  longest time below three links                 #{Enum.max(all.(roles, :below))} ms   wanted: less than 1,000
  disconnects of stand-ins only                  #{Enum.all?(all.(roles, :only_stand_ins))}
  only preferred links in the end                #{Enum.all?(all.(roles, :settled))}
  last disconnect after the return               #{Enum.max(all.(roles, :settled_after))} ms   wanted: at most 120,000\
""")

graphs =
  for seed <- seeds do
    :rand.seed(:exsss, {seed, 2, 2})
    LinkFleet.graph(List.to_tuple(for n <- 1..10_000, do: "app@n#{n}-#{seed}"), 4)
  end

# The nodes outside the largest component, for each seed.
outside =
  for [_largest | others] <- all.(graphs, :components_without_repair), do: Enum.sum(others)

of_living = &"#{Float.round(100 * &1 / 7_000, 3)} %"

IO.puts("""
Graph, #{Enum.count(seeds)} seeds
  components                                     #{inspect(Enum.uniq(all.(graphs, :components)))}   wanted: one
  most links of a node                           #{Enum.max(all.(graphs, :most_links))}   wanted: at most 24
  30 % dead: living nodes outside the largest component
    on average                                   #{of_living.(Enum.sum(outside) / Enum.count(seeds))}   wanted: at most 0.1 %
    with the worst seed                          #{of_living.(Enum.max(outside))}   wanted: at most 0.2 %
  30 % dead and replaced: components             #{inspect(Enum.uniq(all.(graphs, :components_after_repair)))}   wanted: one\
""")
