defmodule Caravan.Hosts.DeadAddressesTest do
  @moduledoc "Ten nodes that start at the same moment, without and with ten addresses that drop all packets."
  use ExUnit.Case, async: true

  alias Caravan.Test.Host
  alias Caravan.Test.Hosts
  alias Caravan.Test.Netns
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements
  alias Caravan.Test.Witness

  @moduletag timeout: 120_000
  @moduletag Requirements.tag([:netns, :knotd])

  @live Enum.to_list(1..10)
  @dead Enum.to_list(101..110)

  # What one dead address costs that somebody waits for, cannot hide in here.
  @noise 80

  # How long a connect to a dead address keeps the next in line from its turn.
  @patience 100

  setup_all do
    # Else `global` connects whom Caravan does not.
    args = fn _n -> ~w(-connect_all false) end
    {:ok, hosts: Hosts.start!(length(@live), more: [dead: @dead], args: args)}
  end

  test "ten dead addresses delay nobody", %{hosts: hosts} do
    :ok = Netns.set(hosts.net, [{:silent, for(n <- @dead, do: {10, 77, 0, n})}])
    refute reachable?(hosts.nodes[1], 101)

    # With fewer connects at once than dead addresses, these have all of them two or three times.
    kinds = [
      without: {@live, []},
      with: {@dead ++ @live, []},
      scarce: {@dead ++ @live, [max_connects: 4]}
    ]

    # The best of a few, taken in turns: the machine is busy with other tests.
    times =
      for _round <- 1..5, {what, {records, options}} <- kinds do
        {what, join(hosts, records, options)}
      end

    [without, with_dead, scarce] =
      for what <- Keyword.keys(kinds), do: times |> Keyword.get_values(what) |> Enum.min()

    ratio = Float.round(with_dead / without, 2)

    IO.puts(
      "\nten live nodes joined in #{without} ms, with ten dead addresses in #{with_dead} ms: " <>
        "#{ratio} times; with four connects at once in #{scarce} ms"
    )

    assert with_dead <= 1.2 * without + @noise
    assert scarce <= 1.2 * without + @noise + 3 * @patience
  end

  # Milliseconds from the start to the last link of the mesh.
  defp join(hosts, numbers, options) do
    :ok = Hosts.put_records(hosts, for(n <- numbers, do: "app 1 A #{Hosts.ip(:inet, n)}"))

    start =
      Hosts.discover(
        hosts.nodes,
        [
          query: "app.caravan.test",
          type: :a,
          node_sname: "app",
          nameservers: [Hosts.dns(hosts)]
        ] ++ options
      )

    Host.await(fn -> Hosts.mesh?(hosts.nodes) end, "the mesh of ten", 30_000)
    others = length(@live) - 1

    # A moment after the node itself sees the others, it tells of them.
    complete_at = fn {_n, node} -> PeerNode.call(node, Witness, :complete_at, [others]) end
    Host.await(fn -> Enum.all?(hosts.nodes, complete_at) end, "the news of all")
    times = for node <- hosts.nodes, do: complete_at.(node) - start

    part(hosts.nodes)
    Enum.max(times)
  end

  defp part(nodes) do
    :ok = Hosts.stop_discovery(nodes)

    # A connect may still be under way: of who is there after that, the news must not have gone before.
    alone? = fn {_n, node} ->
      for other <- Hosts.peers(node), do: PeerNode.call(node, :erlang, :disconnect_node, [other])
      :ok = PeerNode.call(node, Witness, :clear, [])
      Hosts.peers(node) == []
    end

    Host.await(fn -> Enum.all?(nodes, alone?) end, "all alone again")
  end

  defp reachable?(node, n) do
    arguments = [~c"#{Hosts.ip(:inet, n)}", 4370, [], 300]
    PeerNode.call(node, :gen_tcp, :connect, arguments) != {:error, :timeout}
  end
end
