defmodule Caravan.Cluster.AtomTableTest do
  @moduledoc "A node whose atom table fills up."
  use ExUnit.Case, async: true

  import Caravan.Test.Cluster

  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Test.Host
  alias Caravan.Test.Knot
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag(:knotd)

  @atoms 65_536

  # On the node.
  @fill """
  for n <- :erlang.system_info(:atom_count)..trunc(share * :erlang.system_info(:atom_limit)),
      do: String.to_atom("fill \#{n}")

  :ok
  """

  @limited [:caravan, :membership, :limit]

  test "takes in no new names from four fifths on, and still connects the known" do
    knot = start_supervised!({Knot, zone: zone(), records: []})
    node = start_alone(args: ["+t", "#{@atoms}"])
    peer = start_alone()
    telemetry = :telemetry |> :code.which() |> Path.dirname() |> String.to_charlist()
    true = PeerNode.call(node, :code, :add_path, [telemetry])
    :ok = PeerNode.call(node, Caravan.Test.Witness, :attach, [[@limited]])

    # Whether the name was about to be connected.
    atom? = fn port ->
      PeerNode.call(node, NodeAtom, :existing, ["app-#{port}@127.0.0.1"]) != :error
    end

    # Nobody is there.
    [known, new] = for _ <- 1..2, do: Host.free_port()
    record = &"_app._tcp 1 SRV 0 0 #{&1} host"

    :ok = PeerNode.eval(node, @fill, share: 0.77)
    Knot.put_records(knot, [record.(known)])
    start_strategy(node, knot)
    Host.await(fn -> atom?.(known) end, "a name below four fifths")

    :ok = PeerNode.eval(node, @fill, share: 0.81)
    Knot.put_records(knot, [record.(known), record.(new), record.(PeerNode.port(peer))])
    limits = fn -> for {@limited, said} <- report(node).events, do: said.limit end
    Host.await(fn -> limits.() != [] end, "the limit")
    assert Enum.uniq(limits.()) == [:atom_table]
    refute atom?.(new)
    refute atom?.(PeerNode.port(peer))

    # The other side dials, as it has room: the name is an atom then.
    start_strategy(peer, knot)
    Knot.put_records(knot, for(each <- [node, peer], do: record.(PeerNode.port(each))))
    await_mesh([node, peer])
  end
end
