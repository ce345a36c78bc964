defmodule Caravan.Cluster.MembershipPropertyTest do
  @moduledoc """
  Checks the invariants of `Caravan.Cluster.Membership` with random answers, failures, node deaths and times.

  `Caravan.Test.ModelWorld` checks most of them after each event.
  """
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Membership
  alias Caravan.Test.ModelWorld
  alias Caravan.Test.Property

  @names for n <- 1..12, do: "app-#{n}@host"
  @sources 2

  # Two queries, and limits that the few names above reach.
  @options [
    query: ["a.test", "b.test"],
    poll_interval: 5_000,
    keep: 20_000,
    max_connects: 3,
    prune: [after: 2]
  ]

  defp names, do: Enum.take_random(["app@me" | @names], Enum.random(0..13))
  defp name, do: Enum.random(@names)
  defp time, do: Enum.random([1, 50, 500, 3_000, 15_000, 60_000])

  defp dns_reply do
    case Enum.random(1..10) do
      n when n in 1..5 -> {:answer, names(), true}
      6 -> {:answer, names(), false}
      7 -> {:subset, @names, Enum.random(1..4)}
      8 -> {:answer, [], true}
      9 -> :nxdomain
      10 -> :timeout
    end
  end

  defp command do
    case Enum.random(1..21) do
      n when n in 1..8 -> {:advance, time()}
      n when n in 9..12 -> {:dns, Enum.random(0..(@sources - 1)), dns_reply()}
      n when n in 13..15 -> {:node_starts, name()}
      16 -> {:node_dies, name()}
      17 -> {:link_breaks, name()}
      18 -> {:dials_us, name()}
      19 -> Enum.random([:drain, :resume, :resume, :resume])
      20 -> {:stray, stray()}
      21 -> :snapshot
    end
  end

  defp stray do
    Enum.random([
      :tick,
      {:peer_draining, name()},
      {:peer_draining, "unknown@host"},
      {:nodeup, "other@host"},
      {:nodedown, "other@host"},
      {:connect_result, "unknown@host", :ok},
      {:connect_result, "unknown@host", {:error, :timeout}}
    ])
  end

  # The membership learns of connections by deltas, or by the list of connected nodes.
  defp run(commands, options \\ @options) do
    options = [deltas: Enum.random([true, false])] ++ options
    Enum.reduce(commands, ModelWorld.new(options), &ModelWorld.run(&2, &1))
  end

  test "the invariants hold after each of 120 random commands" do
    Property.check(300, 1..120, &command/0, &run/1)
  end

  # Without :prune, an answer that is equal to the last one of its source is only noted.
  test "the invariants hold without :prune, while answers are often equal" do
    options = Keyword.merge(@options, prune: false, keep: 60_000, poll_interval: 1_000)
    Property.check(100, 1..120, &command/0, &run(&1, options))
  end

  # ModelWorld checks who is dialled, and that only stand-ins of this node are given up.
  test "the invariants hold with a limited number of links" do
    Property.check(150, 1..120, &command/0, fn commands ->
      run(commands, links_options() ++ Keyword.merge(@options, Enum.random([[], [prune: false]])))
    end)
  end

  test "in the end, the preferred nodes are connected and the stand-ins are given up" do
    Property.check(60, 1..80, &command/0, fn commands ->
      links = Enum.random(0..6)
      world = run(commands, [links: links] ++ @options)

      heal =
        [:resume] ++
          for(source <- 0..(@sources - 1), do: {:dns, source, {:answer, @names, true}}) ++
          for(name <- @names, do: {:node_starts, name}) ++ [{:advance, 300_000}]

      world = Enum.reduce(heal, world, &ModelWorld.run(&2, &1))
      by_rank = Enum.sort_by(@names, &:erlang.phash2({"app@me", &1}, 4_294_967_296))
      {preferred, others} = Enum.split(by_rank, links)
      assert MapSet.subset?(MapSet.new(preferred), world.connected)
      # A connection stays if the topology does not know that it has opened it.
      assert for(name <- others, world.membership.peers[name].opened, do: name) == []
    end)
  end

  defp links_options do
    [links: Enum.random(0..5), release_links: Enum.random([true, true, false])]
  end

  test "the invariants hold after each of 3,000 random commands" do
    Property.check(2, 3_000..3_000, &command/0, &run/1)
  end

  test "each live node in DNS is connected in the end, after any commands" do
    Property.check(150, 1..80, &command/0, fn commands ->
      world = run(commands)

      heal =
        [:resume] ++
          for(source <- 0..(@sources - 1), do: {:dns, source, {:answer, @names, true}}) ++
          for(name <- @names, do: {:node_starts, name}) ++ [{:advance, 180_000}]

      world = Enum.reduce(heal, world, &ModelWorld.run(&2, &1))
      assert Enum.sort(world.connected) == Enum.sort(@names)
      assert Enum.sort(Membership.connected(world.membership)) == Enum.sort(@names)
    end)
  end

  test "all nodes are connected in the end if the server answers with random parts of its records" do
    Property.check(20, 1..40, &command/0, fn commands ->
      world = run(commands)

      heal =
        [:resume, {:dns, 0, {:subset, @names, 3}}, {:dns, 1, :timeout}] ++
          for(name <- @names, do: {:node_starts, name}) ++ [{:advance, 400_000}]

      world = Enum.reduce(heal, world, &ModelWorld.run(&2, &1))
      assert Enum.sort(world.connected) == Enum.sort(@names)
    end)
  end

  test "endless new names make no more atoms than :max_new_names allows" do
    invent = fn -> {:dns, 0, {:answer, invented(), true}} end

    Property.check(3, 40..60, invent, fn commands ->
      options = [
        max_nodes: 50,
        max_new_names: 100,
        keep: 1_000,
        poll_interval: 60_000,
        min_interval: 60_000
      ]

      commands = Enum.flat_map(commands, &[&1, {:advance, Enum.random([60_000, 3_600_000])}])
      world = run(commands, options)
      # ModelWorld checks each day. This is the sum of all days.
      days = div(world.now + 500_000, 86_400_000) + 1
      assert length(world.dialled_new) <= 100 * days
    end)
  end

  test "without available atoms, no new name is dialled, and known nodes are still connected" do
    Property.check(50, 1..60, &command/0, fn commands ->
      world = run(commands)
      world = ModelWorld.run(world, {:atoms_available, false})
      before = world.atoms

      world =
        Enum.reduce(
          [
            {:dns, 0, {:answer, ["app-new@host" | @names], true}},
            {:node_starts, "app-new@host"},
            :resume
          ] ++
            for(name <- @names, do: {:node_starts, name}) ++ [{:advance, 180_000}],
          world,
          &ModelWorld.run(&2, &1)
        )

      assert world.atoms == before
      assert MapSet.subset?(MapSet.intersection(before, MapSet.new(@names)), world.connected)
    end)
  end

  defp invented, do: for(_ <- 1..100, do: "app-#{:rand.uniform(1_000_000_000)}@host")
end
