defmodule Caravan.Hosts.PartitionTest do
  @moduledoc "Runs nodes on separate hosts, which lose each other and their DNS server."
  use ExUnit.Case, async: true

  alias Caravan.Test.Host
  alias Caravan.Test.Hosts
  alias Caravan.Test.Netns
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements
  alias Caravan.Test.Witness

  @moduletag Requirements.tag([:netns, :knotd])

  @all [1, 2, 3, 4, 5, 6]
  @poll 2_000

  setup_all do
    # With this net_ticktime, a cut link is noticed within 6 to 10 seconds. The default takes 60. With a lower one, nodes
    # lose each other on a busy machine.
    hosts = Hosts.start!(length(@all), args: fn _n -> ~w(-kernel net_ticktime 8) end)
    :ok = Hosts.put_addresses(hosts, @all)
    {:ok, net: hosts.net, nodes: hosts.nodes, hosts: hosts}
  end

  # Each test begins with all nodes connected, and with no nodedown.
  setup %{net: net, nodes: nodes} = context do
    :ok = Netns.set(net, [])
    discover(context, @poll)
    await(fn -> Hosts.mesh?(nodes) end, 20_000, "the mesh")
    for {_n, node} <- nodes, do: :ok = PeerNode.call(node, Witness, :clear, [])
    :ok
  end

  defp discover(%{nodes: nodes, hosts: hosts}, poll_interval) do
    options = Hosts.options(hosts, lookup_timeout: 1_000, poll_interval: poll_interval)
    Hosts.discover(nodes, options)
  end

  defp await(condition, timeout, what), do: Host.await(condition, what, timeout)

  # Repairs the network, and counts the time from then on.
  defp assert_heals(net, nodes, what) do
    start = System.monotonic_time(:millisecond)
    :ok = Netns.set(net, [])
    await(fn -> Hosts.mesh?(nodes) end, 3 * @poll, "#{what}: the mesh, within three polls")
    took = System.monotonic_time(:millisecond) - start
    IO.puts("\n#{what}: healed in #{took} ms (three polls: #{3 * @poll})")
  end

  test "no node is disconnected while the DNS server is cut off for ten polls",
       %{net: net, nodes: nodes} = context do
    discover(context, 500)
    Netns.set(net, [{:cut, [:dns], @all}])
    # Waits for the whole time, because nothing may happen in it.
    Process.sleep(10 * 500)
    assert Hosts.downs(nodes) == []
    assert Hosts.mesh?(nodes)

    # A nodedown in that time is followed by a nodeup, without DNS.
    PeerNode.call(nodes[1], :erlang, :disconnect_node, [nodes[2].name])
    await(fn -> Hosts.mesh?(nodes) end, 3 * @poll, "the mesh, without DNS")
  end

  test "one host that was cut off is connected again", %{net: net, nodes: nodes} do
    Netns.set(net, [{:cut, [1], [:dns | @all]}])
    {alone, others} = Map.split(nodes, [1])

    await(
      fn -> Hosts.mesh?(alone) and Hosts.mesh?(others) end,
      30_000,
      "host 1 alone, the others without it"
    )

    assert_heals(net, nodes, "one of six hosts cut off")
  end

  test "two halves that were cut apart are connected again", %{net: net, nodes: nodes} do
    {left, right} = Enum.split(@all, 3)
    Netns.set(net, [{:cut, [:dns | left], right}])
    {left, right} = Map.split(nodes, left)
    await(fn -> Hosts.mesh?(left) and Hosts.mesh?(right) end, 30_000, "two halves")
    assert_heals(net, nodes, "three of six hosts cut off")
  end

  test "hosts that were all cut off from each other are connected again", %{
    net: net,
    nodes: nodes
  } do
    all = [:dns | @all]
    Netns.set(net, [{:cut, all, all}])

    await(
      fn -> Enum.all?(nodes, fn {_, node} -> Hosts.peers(node) == [] end) end,
      30_000,
      "six alone"
    )

    assert_heals(net, nodes, "all hosts cut off")
  end

  test "nodes connect although a tenth of all packets is lost", %{net: net, nodes: nodes} do
    Netns.set(net, [{:lose, 10}])

    for {_host, node} <- nodes,
        other <- Hosts.peers(node),
        do: PeerNode.call(node, :erlang, :disconnect_node, [other])

    await(fn -> Hosts.mesh?(nodes) end, 40_000, "the mesh, though packets get lost")
    assert_heals(net, nodes, "a tenth of all packets lost")
  end
end
