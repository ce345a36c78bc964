defmodule CaravanTest do
  use ExUnit.Case, async: true

  alias Caravan.Test.PeerNode

  @flags ["-epmd_module Elixir.Caravan.Epmd", "-start_epmd false"]

  describe "check/0" do
    test "returns :ok on a node that runs on Caravan.Epmd" do
      node = PeerNode.start!(name: PeerNode.name("app"))
      assert PeerNode.call(node, Caravan, :check, []) == :ok
    end

    test "advises a VM that is not alive what to add to a release" do
      node = PeerNode.start!()
      assert {:error, {:not_alive, advice}} = PeerNode.call(node, Caravan, :check, [])
      assert advice =~ "not alive"
      assert advice =~ "RELEASE_DISTRIBUTION"
      for flag <- @flags, do: assert(advice =~ flag)

      # The name that the platform sets is kept, and a container uses its address.
      assert advice =~ ~S|export RELEASE_NODE="${RELEASE_NODE:-app-4001@$(hostname -f)}"|
      assert advice =~ "$(hostname -i)"
    end

    test "names the module of a node that runs on another one, and the missing flags" do
      node = PeerNode.start!(name: "app@127.0.0.1", epmd: false, args: ~w(-dist_listen false))
      assert {:error, {:other_epmd_module, advice}} = PeerNode.call(node, Caravan, :check, [])
      assert advice =~ "runs on :erl_epmd in place of Caravan.Epmd"
      for flag <- @flags, do: assert(advice =~ flag)
    end

    test "names flags with which a VM runs on Caravan.Epmd" do
      node = PeerNode.start!()
      {:error, {:not_alive, advice}} = PeerNode.call(node, Caravan, :check, [])
      [flags] = Regex.run(~r/--erl "(.+)"/, advice, capture: :all_but_first)

      name = PeerNode.name("app")
      node = PeerNode.start!(name: name, epmd: false, args: String.split(flags))
      assert PeerNode.call(node, Caravan, :check, []) == :ok
    end
  end
end
