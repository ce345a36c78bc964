defmodule Caravan.Hosts.PartitionTest do
  @moduledoc "Nodes on hosts of their own, which lose each other and their DNS server."
  use ExUnit.Case, async: true

  alias Caravan.Test.Host
  alias Caravan.Test.Knot
  alias Caravan.Test.Netns
  alias Caravan.Test.NodeEvents
  alias Caravan.Test.PeerNode

  @moduletag :hosts
  @moduletag timeout: 120_000
  if reason = Netns.missing(), do: @moduletag(skip: reason)

  @hosts [:h1, :h2, :h3, :h4, :h5, :h6]
  @dns "10.77.0.250"

  # A link that is cut for longer than this is noticed: within 3 to 5 seconds.
  @ticktime ~w(-kernel net_ticktime 4)
  @poll 2_000

  setup_all do
    addresses = for {host, n} <- Enum.with_index(@hosts, 1), into: %{}, do: {host, "10.77.0.#{n}"}
    hosts = for {host, ip} <- Map.put(addresses, :dns, @dns), into: %{}, do: {host, ["#{ip}/24"]}
    net = start_supervised!({Netns, hosts: hosts})

    dns = PeerNode.start!(epmd: false, wrapper: Netns.wrapper(net, :dns))
    knot = [zone: "caravan.test", ip: {10, 77, 0, 250}, port: 53]
    {:ok, _pid} = PeerNode.call(dns, GenServer, :start, [Knot, knot, [name: :knot]])
    records = for {_host, ip} <- addresses, do: "app 1 A #{ip}"
    :ok = PeerNode.call(dns, Knot, :put_records, [:knot, records])

    nodes =
      for host <- @hosts, into: %{} do
        name = "app@#{addresses[host]}"
        node = PeerNode.start!(name: name, wrapper: Netns.wrapper(net, host), args: @ticktime)
        {:ok, _} = PeerNode.call(node, :application, :ensure_all_started, [:logger])
        :ok = PeerNode.call(node, :logger, :set_primary_config, [:level, :none])
        :ok = PeerNode.call(node, NodeEvents, :start, [])
        {host, node}
      end

    {:ok, net: net, nodes: nodes}
  end

  # Each test begins with all nodes connected, and nobody dropped yet.
  setup %{net: net, nodes: nodes} do
    Netns.set(net, [])
    discover(nodes, poll_interval: @poll)
    await(fn -> mesh?(nodes) end, 20_000, "the mesh")
    for {_host, node} <- nodes, do: PeerNode.call(node, NodeEvents, :clear, [])
    :ok
  end

  @discover """
  if pid = Process.whereis(:discovery), do: Process.exit(pid, :kill)

  spawn(fn ->
    Process.register(self(), :discovery)
    {:ok, _} = Caravan.Cluster.DnsStrategy.start_link(options)
    Process.sleep(:infinity)
  end)
  """

  # From now on the nodes discover each other with these options, and not with those before.
  defp discover(nodes, options) do
    options =
      [
        query: "app.caravan.test",
        type: :a,
        node_sname: "app",
        nameservers: [@dns],
        lookup_timeout: 1_000,
        connect_timeout: 2_000
      ] ++ options

    for {_host, node} <- nodes, do: PeerNode.eval(node, @discover, options: options)
  end

  defp peers(node), do: PeerNode.call(node, :erlang, :nodes, [])

  # Each of these sees the others of these, and nobody else.
  defp mesh?(nodes) do
    names = for {_host, node} <- nodes, do: node.name

    Enum.all?(nodes, fn {_host, node} ->
      Enum.sort([node.name | peers(node)]) == Enum.sort(names)
    end)
  end

  defp downs(nodes),
    do:
      for(
        {host, node} <- nodes,
        down <- PeerNode.call(node, NodeEvents, :downs, []),
        do: {host, down}
      )

  defp await(condition, timeout, what), do: Host.await(condition, what, timeout)

  # The network is whole again; the time is counted from then.
  defp assert_heals(net, nodes, what) do
    start = System.monotonic_time(:millisecond)
    Netns.set(net, [])
    await(fn -> mesh?(nodes) end, 3 * @poll, "#{what}: the mesh, within three polls")
    took = System.monotonic_time(:millisecond) - start
    IO.puts("#{what}: healed in #{took} ms (three polls: #{3 * @poll})")
  end

  test "the DNS server cut off for ten polls drops nobody", %{net: net, nodes: nodes} do
    discover(nodes, poll_interval: 500)
    Netns.set(net, [{:cut, [:dns], @hosts}])
    # Not a wait for something to happen: nothing may.
    Process.sleep(10 * 500)
    assert downs(nodes) == []
    assert mesh?(nodes)

    # Who goes down meanwhile is back without DNS.
    PeerNode.call(nodes.h1, :erlang, :disconnect_node, [nodes.h2.name])
    await(fn -> mesh?(nodes) end, 3 * @poll, "the mesh, without DNS")
  end

  test "one host that was cut off is back", %{net: net, nodes: nodes} do
    Netns.set(net, [{:cut, [:h1], [:dns | @hosts]}])
    {alone, others} = Map.split(nodes, [:h1])
    await(fn -> mesh?(alone) and mesh?(others) end, 30_000, "h1 alone, the others without it")
    assert_heals(net, nodes, "one of six hosts cut off")
  end

  test "two halves that were cut apart are one again", %{net: net, nodes: nodes} do
    {left, right} = Enum.split(@hosts, 3)
    Netns.set(net, [{:cut, [:dns | left], right}])
    {left, right} = Map.split(nodes, left)
    await(fn -> mesh?(left) and mesh?(right) end, 30_000, "two halves")
    assert_heals(net, nodes, "three of six hosts cut off")
  end

  test "all that were cut off from all are together again", %{net: net, nodes: nodes} do
    all = [:dns | @hosts]
    Netns.set(net, [{:cut, all, all}])
    await(fn -> Enum.all?(nodes, fn {_, node} -> peers(node) == [] end) end, 30_000, "six alone")
    assert_heals(net, nodes, "all hosts cut off")
  end

  test "a tenth of all packets lost keeps nobody away", %{net: net, nodes: nodes} do
    Netns.set(net, [{:lose, 10}])

    for {_host, node} <- nodes,
        other <- peers(node),
        do: PeerNode.call(node, :erlang, :disconnect_node, [other])

    await(fn -> mesh?(nodes) end, 40_000, "the mesh, though packets get lost")
    assert_heals(net, nodes, "a tenth of all packets lost")
  end
end
