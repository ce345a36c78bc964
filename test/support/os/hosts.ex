defmodule Caravan.Test.Hosts do
  @moduledoc """
  Nodes on separate hosts (`Caravan.Test.Netns`), and a `Knot` on another host.

      hosts = Hosts.start!(3)
      Hosts.put_addresses(hosts, [1, 2, 3])
      Hosts.discover(hosts.nodes, Hosts.options(hosts))
      Host.await(fn -> Hosts.mesh?(hosts.nodes) end, "the mesh")

  Host `n` (1, 2, …) has the address 10.77.0.n or fd77::n and the node `app@ADDRESS`. The host of the `Knot` is
  `:dns`.
  """

  import ExUnit.Callbacks, only: [start_supervised!: 1]

  alias Caravan.Test.Host
  alias Caravan.Test.Knot
  alias Caravan.Test.Netns
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Witness

  @enforce_keys [:net, :dns, :family, :nodes]
  defstruct [:net, :dns, :family, :nodes]

  @type t :: %__MODULE__{
          net: pid,
          dns: PeerNode.t(),
          family: :inet | :inet6,
          nodes: %{pos_integer => PeerNode.t()}
        }

  @zone "caravan.test"
  @prefix %{inet: "10.77.0.", inet6: "fd77::"}
  @length %{inet: 24, inet6: 64}

  # Runs on a node. Afterwards the registered name is free.
  @stop """
  if pid = Process.whereis(:discovery) do
    ref = Process.monitor(pid)
    Process.exit(pid, :kill)
    receive do {:DOWN, ^ref, _, _, _} -> :ok end
  end
  """

  # Runs on a node. It ends an earlier discovery and starts a new one at a moment that all nodes share.
  @discover """
  #{@stop}
  spawn(fn ->
    Process.register(self(), :discovery)
    Process.sleep(max(0, start_at - System.os_time(:millisecond)))
    {:ok, _} = Caravan.Cluster.DnsStrategy.start_link(options)
    Process.sleep(:infinity)
  end)
  """

  @doc """
  Starts the nodes and the `Knot`. Options:

    * `family`, `:inet` or `:inet6`
    * `more`, additional hosts with their addresses
    * `name`, a function from the number of a node to its name
    * `args`, a function from the number of a node to its VM arguments
  """
  @spec start!(pos_integer, keyword) :: t
  def start!(count, opts \\ []) do
    family = Keyword.get(opts, :family, :inet)
    name = Keyword.get(opts, :name, &"app@#{ip(family, &1)}")
    args = Keyword.get(opts, :args, fn _n -> [] end)

    hosts = for n <- 1..count, into: %{dns: [cidr(family, 250)]}, do: {n, [cidr(family, n)]}

    more =
      for {host, ns} <- Keyword.get(opts, :more, []), do: {host, Enum.map(ns, &cidr(family, &1))}

    net = start_supervised!({Netns, hosts: Map.merge(hosts, Map.new(more))})

    dns = PeerNode.start!(epmd: false, wrapper: Netns.wrapper(net, :dns))
    knot = [zone: @zone, ip: parse(ip(family, 250)), port: 53]
    {:ok, _pid} = PeerNode.call(dns, GenServer, :start, [Knot, knot, [name: :knot]])

    nodes = for n <- 1..count, into: %{}, do: {n, node!(net, n, name.(n), family, args.(n))}
    %__MODULE__{net: net, dns: dns, family: family, nodes: nodes}
  end

  @doc "Returns the address of host `n` as text."
  @spec ip(:inet | :inet6, pos_integer) :: String.t()
  def ip(family, n), do: parse(@prefix[family] <> to_string(n)) |> :inet.ntoa() |> to_string()

  @doc "Returns the address of the `Knot` in the form of the option `:nameservers`."
  @spec dns(t) :: String.t()
  def dns(%__MODULE__{dns: dns}), do: PeerNode.call(dns, Knot, :address, [:knot])

  @doc "Replaces the records of #{@zone}."
  @spec put_records(t, [String.t()]) :: :ok
  def put_records(%__MODULE__{dns: dns}, records),
    do: PeerNode.call(dns, Knot, :put_records, [:knot, records])

  @doc "Gives app.#{@zone} the IPv4 addresses of these hosts, in place of all other records."
  @spec put_addresses(t, [pos_integer]) :: :ok
  def put_addresses(%__MODULE__{} = hosts, numbers),
    do: put_records(hosts, for(n <- numbers, do: "app 1 A #{ip(:inet, n)}"))

  @doc "Returns the options of a strategy that finds the nodes of `put_addresses/2`. They end with the options `more`."
  @spec options(t, keyword) :: keyword
  def options(%__MODULE__{} = hosts, more \\ []) do
    [query: "app.#{@zone}", type: :a, node_sname: "app", nameservers: [dns(hosts)]] ++ more
  end

  @doc """
  Starts discovery with these options on all nodes at the same moment, in place of an earlier discovery.

  Returns that moment, in milliseconds of `System.os_time/1`, when each node has had a first answer.
  """
  @spec discover(%{pos_integer => PeerNode.t()}, keyword) :: integer
  def discover(nodes, options) do
    start_at = System.os_time(:millisecond) + 50 + 20 * map_size(nodes)

    for {_n, node} <- nodes,
        do: PeerNode.eval(node, @discover, options: options, start_at: start_at)

    for {_n, node} <- nodes,
        do: Host.await(fn -> answered?(node, start_at) end, "the first answer of #{node.name}")

    start_at
  end

  @doc "Ends discovery. Connections stay."
  @spec stop_discovery(%{pos_integer => PeerNode.t()}) :: :ok
  def stop_discovery(nodes) do
    for {_n, node} <- nodes, do: PeerNode.eval(node, @stop)
    :ok
  end

  @doc "Returns the nodes that a node is connected to."
  @spec peers(PeerNode.t()) :: [node]
  def peers(node), do: PeerNode.call(node, :erlang, :nodes, [])

  @doc "Returns whether each of the nodes is connected to the others and to no other node."
  @spec mesh?(%{pos_integer => PeerNode.t()}) :: boolean
  def mesh?(nodes) do
    names = Enum.sort(for {_n, node} <- nodes, do: node.name)
    Enum.all?(nodes, fn {_n, node} -> Enum.sort([node.name | peers(node)]) == names end)
  end

  @doc "Returns the nodedowns that the nodes have seen: the number of the node, and the name of the other one."
  @spec downs(%{pos_integer => PeerNode.t()}) :: [{pos_integer, node}]
  def downs(nodes),
    do: for({n, node} <- nodes, down <- PeerNode.call(node, Witness, :downs, []), do: {n, down})

  defp answered?(node, start_at) do
    System.os_time(:millisecond) > start_at and
      PeerNode.call(node, Caravan.Cluster, :await, [:caravan, [timeout: 60_000]]) == :ok
  end

  defp node!(net, n, name, family, args) do
    proto = if family == :inet6, do: ~w(-proto_dist inet6_tcp), else: []
    node = PeerNode.start!(name: name, wrapper: Netns.wrapper(net, n), args: proto ++ args)
    {:ok, _} = PeerNode.call(node, :application, :ensure_all_started, [:logger])
    # The log of the nodes would mix with the results of the tests.
    :ok = PeerNode.call(node, :logger, :set_primary_config, [:level, :none])
    :ok = PeerNode.call(node, Witness, :start, [])
    node
  end

  defp cidr(family, n), do: "#{ip(family, n)}/#{@length[family]}"

  defp parse(text) do
    {:ok, ip} = text |> String.to_charlist() |> :inet.parse_address()
    ip
  end
end
