defmodule CaravanTest do
  use ExUnit.Case, async: true

  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  @flags ["-epmd_module Elixir.Caravan.Epmd", "-start_epmd false"]

  describe "check/0" do
    test "returns :ok on a node that runs on Caravan.Epmd" do
      node = PeerNode.start!(name: PeerNode.name("app"))
      assert PeerNode.call(node, Caravan, :check, []) == :ok
    end

    test "names the connected nodes whose connect_all differs" do
      [node, other] =
        for(
          args <- [[], ~w(-connect_all false)],
          do: PeerNode.start!(name: PeerNode.name("app"), args: args)
        )

      true = PeerNode.call(node, :net_kernel, :connect_node, [other.name])

      for {asked, text} <- [
            {node, "connect_all is true on this node and false on #{other.name}."},
            {other, "connect_all is false on this node and true on #{node.name}."}
          ] do
        assert {:error, {:connect_all, advice}} = PeerNode.call(asked, Caravan, :check, [])
        assert advice =~ text
        assert advice =~ "-connect_all false"
      end

      third = PeerNode.start!(name: PeerNode.name("app"))

      # A message of :global that is on its way may connect the other node again.
      alike? = fn ->
        PeerNode.call(node, :erlang, :disconnect_node, [other.name])
        true = PeerNode.call(node, :net_kernel, :connect_node, [third.name])
        PeerNode.call(node, Caravan, :check, []) == :ok
      end

      Host.await(alike?, "a check without the other node")
    end

    test "advises a VM that is not alive what to add to a release" do
      node = PeerNode.start!()
      assert {:error, {:not_alive, advice}} = PeerNode.call(node, Caravan, :check, [])
      assert advice =~ "not alive"
      assert advice =~ "RELEASE_DISTRIBUTION"
      for flag <- @flags, do: assert(advice =~ flag)

      # The advice keeps a name that the platform has set, and tells a container to use its address as the host.
      assert advice =~ ~S|export RELEASE_NODE="${RELEASE_NODE:-app-4001@$(hostname -f)}"|
      assert advice =~ "$(hostname -i)"
    end

    test "names the epmd module of a node that does not use Caravan.Epmd, and the missing flags" do
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

  describe "map/1" do
    setup do
      args = ~w(-connect_all false)
      {:ok, nodes: for(x <- ~w(a b c), do: PeerNode.start!(name: PeerNode.name(x), args: args))}
    end

    defp connect(from, to),
      do: assert(PeerNode.call(from, :net_kernel, :connect_node, [to.name]))

    defp states(node) do
      for %{nodes: nodes, state: state} <-
            PeerNode.call(node, Caravan, :map, [[format: :data]]).links,
          do: {Enum.map(nodes, &hd(String.split(&1, "-"))), state}
    end

    test "returns the links of all nodes, from their own replies", %{nodes: [a, b, c]} do
      connect(a, b)
      connect(a, c)

      expected = [{["a", "b"], "link"}, {["a", "c"], "link"}, {["b", "c"], "missing"}]
      # The node that accepts a connection may report it a moment later.
      Host.await(fn -> states(a) == expected end, "the links of three nodes")
      text = PeerNode.call(a, Caravan, :map, [])
      assert text =~ "3 nodes, 2 of 3 links. Asked by #{a.name}."
      assert text =~ "#{b.name} and #{c.name} are not connected"
      assert "<svg " <> _ = PeerNode.call(a, Caravan, :map, [[format: :svg]])
      assert PeerNode.call(b, :erlang, :nodes, [:connected]) == [a.name]
    end

    test "does not show a link as missing if no node wants it", %{nodes: [a, b, c]} do
      for node <- [a, b] do
        {:ok, _} = PeerNode.call(node, :application, :ensure_all_started, [:logger])
        options = [query: :ignore, links: 0, log_level: :none]
        :ok = PeerNode.call(node, Caravan.Test.Cluster, :run_strategy, [options])
        connect(c, node)
      end

      expected = [{["a", "b"], "not_wanted"}, {["a", "c"], "link"}, {["b", "c"], "link"}]
      Host.await(fn -> states(c) == expected end, "the links of three nodes")
    end

    test "leaves out a node that runs one command, and shows hidden links", %{nodes: [a, b, _c]} do
      command = PeerNode.start!(name: PeerNode.name("rpc-1f2e-app"), args: ~w(-hidden))
      connect(command, a)
      assert PeerNode.call(a, Caravan, :map, []) == "#{a.name} is connected to no node."

      true = PeerNode.call(b, :net_kernel, :hidden_connect_node, [a.name])
      Host.await(fn -> states(a) == [{["a", "b"], "hidden"}] end, "the hidden link")
    end

    test "asks nodes without Caravan too", %{nodes: [a, b, _c]} do
      name = PeerNode.name("plain")
      args = ["-erl_epmd_port", "#{PeerNode.port(name)}" | ~w(-connect_all false)]
      plain = PeerNode.start!(name: name, path: [], epmd: false, args: args)
      connect(a, b)
      connect(a, plain)

      expected = [{["a", "b"], "link"}, {["a", "plain"], "link"}, {["b", "plain"], "missing"}]
      Host.await(fn -> states(a) == expected end, "the links of three nodes")
      map = PeerNode.call(a, Caravan, :map, [[format: :data]])
      assert Enum.all?(map.nodes, & &1.replied)
    end

    test "shows which node did not reply in time", %{nodes: [a, b, _c]} do
      connect(a, b)
      Host.await(fn -> PeerNode.call(b, :erlang, :nodes, []) == [a.name] end, "both to see it")
      Host.suspend(b.os_pid)
      map = PeerNode.call(a, Caravan, :map, [[format: :data]])
      assert Enum.find(map.nodes, &(&1.node == "#{b.name}")).replied == false
      assert [%{state: "link"}] = map.links
      assert PeerNode.call(a, Caravan, :map, []) =~ "1 node did not reply."
    end

    test "is printed by mix caravan.map", %{nodes: [a, b, _c]} do
      connect(a, b)
      Host.await(fn -> length(states(a)) == 1 end, "the link of two nodes")

      cookie = ["--cookie", "#{PeerNode.call(a, :erlang, :get_cookie, [])}"]
      assert {0, text} = task(["#{a.name}" | cookie])
      assert text =~ "2 nodes, 1 of 1 links. Asked by #{a.name}."
      assert {0, "<svg " <> _} = task(["#{a.name}", "--format", "svg" | cookie])

      assert {2, text} = task(["#{a.name}", "--format", "png"])
      assert text =~ "mix caravan.map: expected --format to be text or svg, got: png"
      assert {2, text} = task([])
      assert text =~ "expected NODE [--cookie COOKIE] [--format text|svg], got: "
    end

    defp task(args) do
      {output, status} = System.cmd("mix", ["caravan.map" | args], stderr_to_stdout: true)
      {status, output}
    end

    test "raises for an unknown format" do
      message = ~r/Caravan.map\/1: expected :format to be one of :text, :svg, :data, got: :png/
      assert_raise ArgumentError, message, fn -> Caravan.map(format: :png) end
    end
  end
end
