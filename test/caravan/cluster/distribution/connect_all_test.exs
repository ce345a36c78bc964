defmodule Caravan.Cluster.Distribution.ConnectAllTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Distribution.ConnectAll
  alias Caravan.Test.PeerNode

  for {args, in_force} <- [
        {[], true},
        {~w(-connect_all false), false},
        {~w(-connect_all true), true},
        {~w(-kernel connect_all false), false},
        {~w(-kernel connect_all true -connect_all false), true}
      ] do
    test "with the VM arguments #{inspect(args)}, connect_all is #{in_force}" do
      node = PeerNode.start!(args: unquote(args))
      assert PeerNode.call(node, ConnectAll, :in_force, []) == unquote(in_force)
    end
  end

  test "the flag counts where `global` has not stored its value" do
    node = PeerNode.start!(args: ~w(-connect_all false))
    :ok = PeerNode.call(node, :application, :unset_env, [:kernel, :connect_all])
    refute PeerNode.call(node, ConnectAll, :in_force, [])
  end
end
