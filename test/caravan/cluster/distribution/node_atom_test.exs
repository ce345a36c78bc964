defmodule Caravan.Cluster.Distribution.NodeAtomTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Distribution.NodeAtom

  test "existing/1 finds a node that has an atom, and creates no atom" do
    assert NodeAtom.existing("node_atom_test@known") == {:ok, :node_atom_test@known}
    name = "node_atom_test" <> "@unknown"
    assert NodeAtom.existing(name) == :error
    assert NodeAtom.existing(name) == :error
  end

  test "create/1 creates the atom, which existing/1 finds from then on" do
    name = "node_atom_test" <> "@created"
    node = NodeAtom.create(name)
    assert NodeAtom.existing(name) == {:ok, node}
    assert NodeAtom.to_name(node) == name
  end

  test "existing/1 refuses names that are too long for an atom" do
    assert NodeAtom.existing(String.duplicate("a", 256)) == :error
  end
end
