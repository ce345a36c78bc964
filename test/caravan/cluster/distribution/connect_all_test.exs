defmodule Caravan.Cluster.Distribution.ConnectAllTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Distribution.ConnectAll
  alias Caravan.Test.Host
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

  test "if `global` has not stored the kernel parameter, the flag decides" do
    node = PeerNode.start!(args: ~w(-connect_all false))
    :ok = PeerNode.call(node, :application, :unset_env, [:kernel, :connect_all])
    refute PeerNode.call(node, ConnectAll, :in_force, [])
  end

  describe "connected nodes" do
    # A node that runs nothing of Caravan or Elixir. It finds no other node, so the other nodes connect to it.
    defp plain_node(args \\ []) do
      name = PeerNode.name("plain")
      args = ["-erl_epmd_port", to_string(PeerNode.port(name)) | args]
      PeerNode.start!(name: name, path: [], epmd: false, args: args)
    end

    defp connected(others) do
      node = PeerNode.start!(name: PeerNode.name("app"))

      for other <- others,
          do: true = PeerNode.call(node, :net_kernel, :connect_node, [other.name])

      node
    end

    test "are asked for their value, even if they do not run Caravan" do
      off = plain_node(~w(-connect_all false))
      on = plain_node()
      flag_only = plain_node(~w(-connect_all false))
      :ok = PeerNode.call(flag_only, :application, :unset_env, [:kernel, :connect_all])
      wrong = plain_node()
      :ok = PeerNode.call(wrong, :application, :set_env, [:kernel, :connect_all, :some])
      nodes = [off, on, flag_only, wrong]

      asked =
        PeerNode.call(connected(nodes), ConnectAll, :of, [Enum.map(nodes, & &1.name), 5_000])

      assert asked == %{off.name => false, on.name => true, flag_only.name => false}
    end

    test "are left out if they do not answer in time" do
      [silent, other] = nodes = [plain_node(), plain_node()]
      node = connected(nodes)
      Host.suspend(silent.os_pid)

      names = Enum.map(nodes, & &1.name)
      assert PeerNode.call(node, ConnectAll, :of, [names, 5_000]) == %{other.name => true}
    end

    test "are named with their value, and with the line to add" do
      node = connected([])
      nodes = for n <- 1..12, do: :"app-#{n}@h"

      advice = PeerNode.call(node, ConnectAll, :advice, [[:b@h, :a@h]])
      assert advice =~ "connect_all is true on this node and false on a@h, b@h."
      assert advice =~ "\n    -connect_all false\n"

      assert PeerNode.call(node, ConnectAll, :advice, [nodes]) =~ "app-7@h and 2 more."
    end
  end
end
