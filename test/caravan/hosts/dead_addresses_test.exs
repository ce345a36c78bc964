defmodule Caravan.Hosts.DeadAddressesTest do
  @moduledoc "Starts ten nodes at the same time, without and with ten addresses that drop all packets."
  use ExUnit.Case, async: true

  alias Caravan.Test.Host
  alias Caravan.Test.Hosts
  alias Caravan.Test.Netns
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements
  alias Caravan.Test.Witness

  @moduletag Requirements.tag([:netns, :knotd])

  @live Enum.to_list(1..10)
  @dead Enum.to_list(101..110)

  # Milliseconds by which two measurements may differ. A connect to one dead address takes longer.
  @noise 80

  # Milliseconds by which a connect to a dead address delays the next one.
  @patience 100

  setup_all do
    # Otherwise `global` makes some of the connections.
    args = fn _n -> ~w(-connect_all false) end
    {:ok, hosts: Hosts.start!(length(@live), more: [dead: @dead], args: args)}
  end

  test "ten dead addresses do not delay live nodes", %{hosts: hosts} do
    :ok = Netns.set(hosts.net, [{:silent, for(n <- @dead, do: {10, 77, 0, n})}])
    refute reachable?(hosts.nodes[1], 101)

    # With four connects at a time, the ten dead addresses take all four slots two or three times.
    kinds = [
      without: {@live, []},
      with: {@dead ++ @live, []},
      scarce: {@dead ++ @live, [max_connects: 4]}
    ]

    # Takes the best of five rounds, or of up to 20, because other tests run at the same time. Dead addresses that delay
    # nodes would do so in each round.
    [without, with_dead, scarce] =
      Enum.reduce_while(1..20, [:infinity, :infinity, :infinity], fn round, best ->
        times = for {_what, {records, options}} <- kinds, do: join(hosts, records, options)
        best = Enum.zip_with(best, times, &min/2)
        {if(round >= 5 and undelayed?(best), do: :halt, else: :cont), best}
      end)

    ratio = Float.round(with_dead / without, 2)

    IO.puts(
      "\nten live nodes joined in #{without} ms, with ten dead addresses in #{with_dead} ms: " <>
        "#{ratio} times; with four connects at once in #{scarce} ms"
    )

    assert undelayed?([without, with_dead, scarce])
  end

  defp undelayed?([without, with_dead, scarce]) do
    with_dead <= 1.2 * without + @noise and
      scarce <= 1.2 * without + @noise + 3 * @patience
  end

  # Returns the milliseconds from the start to the last connection of the mesh.
  defp join(hosts, numbers, options) do
    :ok = Hosts.put_addresses(hosts, numbers)
    start = Hosts.discover(hosts.nodes, Hosts.options(hosts, options))
    Host.await(fn -> Hosts.mesh?(hosts.nodes) end, "the mesh of ten", 30_000)
    others = length(@live) - 1

    # The witness of a node gets its nodeups a moment later.
    complete_at = fn {_n, node} -> PeerNode.call(node, Witness, :complete_at, [others]) end
    Host.await(fn -> Enum.all?(hosts.nodes, complete_at) end, "the nodeups of all nodes")
    times = for node <- hosts.nodes, do: complete_at.(node) - start

    part(hosts.nodes)
    Enum.max(times)
  end

  defp part(nodes) do
    :ok = Hosts.stop_discovery(nodes)

    # A connect may still be in progress, so this repeats until the node has no peers.
    alone? = fn {_n, node} ->
      for other <- Hosts.peers(node), do: PeerNode.call(node, :erlang, :disconnect_node, [other])
      :ok = PeerNode.call(node, Witness, :clear, [])
      Hosts.peers(node) == []
    end

    Host.await(fn -> Enum.all?(nodes, alone?) end, "all nodes without peers")
  end

  defp reachable?(node, n) do
    arguments = [~c"#{Hosts.ip(:inet, n)}", 4370, [], 300]
    PeerNode.call(node, :gen_tcp, :connect, arguments) != {:error, :timeout}
  end
end
