defmodule Caravan.Cluster.AtomTableTest do
  @moduledoc "Runs the strategy on a node whose atom table is nearly full."
  use ExUnit.Case, async: true

  import Caravan.Test.Cluster

  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Test.Host
  alias Caravan.Test.Knot
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag(:knotd)

  @atoms 65_536

  # Runs on the node.
  @fill """
  for n <- :erlang.system_info(:atom_count)..trunc(share * :erlang.system_info(:atom_limit)),
      do: String.to_atom("fill \#{n}")

  :ok
  """

  @limited [:caravan, :membership, :limit]

  test "from 80 % on, new names are not connected, and known names still are" do
    knot = start_supervised!({Knot, zone: zone(), records: []})
    node = start_alone(args: ["+t", "#{@atoms}"])
    peer = start_alone()
    telemetry = :telemetry |> :code.which() |> Path.dirname() |> String.to_charlist()
    true = PeerNode.call(node, :code, :add_path, [telemetry])
    :ok = PeerNode.call(node, Caravan.Test.Witness, :attach, [[@limited]])

    # Returns whether the name was dialled.
    atom? = fn port ->
      PeerNode.call(node, NodeAtom, :existing, ["app-#{port}@127.0.0.1"]) != :error
    end

    # No node listens on these ports.
    [known, new] = for _ <- 1..2, do: Host.free_port()
    record = &"_app._tcp 1 SRV 0 0 #{&1} host"

    :ok = PeerNode.eval(node, @fill, share: 0.77)
    Knot.put_records(knot, [record.(known)])
    start_strategy(node, knot)
    Host.await(fn -> atom?.(known) end, "a name below 80 %")

    :ok = PeerNode.eval(node, @fill, share: 0.81)
    Knot.put_records(knot, [record.(known), record.(new), record.(PeerNode.port(peer))])
    limits = fn -> for {@limited, metadata} <- report(node).events, do: metadata.limit end
    Host.await(fn -> limits.() != [] end, "the limit")
    assert Enum.uniq(limits.()) == [:atom_table]
    refute atom?.(new)
    refute atom?.(PeerNode.port(peer))

    # The peer has free atoms, so it dials the node. Then its name is an atom on the node.
    start_strategy(peer, knot)
    Knot.put_records(knot, for(each <- [node, peer], do: record.(PeerNode.port(each))))
    await_mesh([node, peer])
  end
end
