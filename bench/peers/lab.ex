# A network namespace with a nameserver and VMs, each VM with its own loopback address, and the strategies to compare.

for file <- ["nodes.ex", "../test/support/nodes/fake_nodes.ex"],
    do: Code.require_file("../#{file}", __DIR__)

for file <- ["dns_server/wire.ex", "dns_server/message.ex", "dns_server.ex"],
    do: Code.require_file("../../test/support/servers/#{file}", __DIR__)

defmodule Bench.Lab do
  alias Bench.Nodes
  alias Caravan.Test.Knot

  @zone "svc.test"
  @dns {127, 0, 0, 53}
  @libraries [:caravan, :libcluster, :dns_cluster]

  def libraries, do: @libraries
  def zone, do: @zone
  def dns, do: @dns

  @doc """
  Prepares the network namespace, and starts the nameserver. `peers` is the directory of the compiled libraries. Raises if
  this is not a separate namespace, or if a library is missing.
  """
  def open(peers) do
    {links, 0} = System.cmd("ip", ~w(-brief link))

    if length(String.split(links, "\n", trim: true)) > 1,
      do: raise("this is not a network namespace of its own; start it with unshare --net")

    {_, 0} = System.cmd("ip", ~w(link set lo up))

    # Packets are dropped when they arrive: if they were dropped when they are sent, the sender would get an error.
    nft("""
    table inet bench {
      set dropped { type ipv4_addr; }
      chain input {
        type filter hook input priority 0;
        ip saddr @dropped drop
        ip daddr @dropped drop
      }
    }
    """)

    paths = for app <- [:telemetry, :libcluster, :dns_cluster], do: "#{peers}/#{app}/ebin"
    for path <- paths, do: File.dir?(path) || raise("#{path} is no directory")
    :persistent_term.put(__MODULE__, paths)
    :ets.new(__MODULE__, [:public, :named_table])
    {:ok, knot} = Knot.start_link(zone: @zone, records: [], ip: @dns, port: 53)
    knot
  end

  @doc "Drops all packets from and to these addresses."
  def drop(ips), do: nft("add element inet bench dropped { #{elements(ips)} }")

  @doc "Lets the packets of these addresses pass again. Returns the time in µs."
  def pass(ips) do
    nft("delete element inet bench dropped { #{elements(ips)} }")
    now()
  end

  defp elements(ips), do: Enum.map_join(ips, ", ", &ntoa/1)

  defp nft(text) do
    {output, status} = System.cmd("nft", [text], stderr_to_stdout: true)
    if status != 0, do: raise("nft: #{output}")
    :ok
  end

  @doc "Returns A records of one name."
  def records(name, ips, ttl), do: for(ip <- ips, do: "#{name} #{ttl} A #{ntoa(ip)}")

  @doc "Returns an address that no VM has had."
  def fresh_ip do
    n = :ets.update_counter(__MODULE__, :addresses, 1, {:addresses, 0})
    {127, 4, div(n, 250), rem(n, 250)}
  end

  @doc "Starts a VM on each address."
  def vms(ips, args \\ []) do
    ips
    |> Task.async_stream(&vm(&1, args), max_concurrency: 2, timeout: 120_000)
    |> Enum.map(fn {:ok, vm} -> vm end)
  end

  @doc "Starts a VM. All VMs listen on the same port, so each listens on its own address only."
  def vm(ip, args \\ [], options \\ []) do
    name = :"#{options[:basename] || "app"}@#{options[:host] || ntoa(ip)}"
    interface = ["-kernel", "inet_dist_use_interface", "{#{Enum.join(Tuple.to_list(ip), ",")}}"]
    paths = Enum.flat_map(:persistent_term.get(__MODULE__), &["-pa", &1])
    vm = Nodes.start_named(name, ~w(-connect_all false) ++ interface ++ paths ++ args)
    :ets.insert(__MODULE__, {vm.peer})
    call = fn module, function, args -> :peer.call(vm.peer, module, function, args, 60_000) end
    {:ok, _} = call.(:application, :ensure_all_started, [:telemetry])

    for app <- [:telemetry, :libcluster, :dns_cluster] do
      _ = call.(:application, :load, [app])
      {:ok, modules} = call.(:application, :get_key, [app, :modules])
      :ok = call.(:code, :ensure_modules_loaded, [modules])
    end

    # The resolver of OTP, which the other libraries use.
    :ok = call.(:inet_db, :set_lookup, [[:dns]])
    :ok = call.(:inet_db, :set_resolv_conf, [~c""])
    :ok = call.(:inet_db, :res_option, [:nameservers, [{options[:dns] || @dns, 53}]])
    vm
  end

  def stop(vm) do
    :ets.delete(__MODULE__, vm.peer)
    :peer.stop(vm.peer)
  end

  def kill(vm) do
    :ets.delete(__MODULE__, vm.peer)
    Nodes.kill(vm)
  end

  @doc "Stops all VMs that still run, and lets all packets pass."
  def clear do
    for {peer} <- :ets.tab2list(__MODULE__), do: stop(%{peer: peer})
    nft("flush set inet bench dropped")
  end

  @doc "Returns the strategy of a library, for `Bench.Node.discover/2`. `poll` is its longest wait in milliseconds."
  def strategy(library, name, poll, more \\ [])

  def strategy(:caravan, name, poll, more) do
    config = [
      query: "#{name}.#{@zone}",
      type: :a,
      node_sname: "app",
      poll_interval: poll,
      nameservers: [ntoa(@dns)],
      log_level: :none
    ]

    Keyword.merge(config, more)
  end

  def strategy(:libcluster, name, poll, more) do
    config = [query: "#{name}.#{@zone}", node_basename: "app", polling_interval: poll]
    {Cluster.Strategy.DNSPoll, [libcluster_state(Keyword.merge(config, more))]}
  end

  def strategy(:dns_cluster, name, poll, more) do
    # dns_cluster takes the basename from the name of its own node.
    config = [query: "#{name}.#{@zone}", interval: poll, connect_timeout: 60_000]
    {DNSCluster, Keyword.merge(config ++ [resource_types: [:a]], more)}
  end

  @doc "Returns the argument of a strategy of libcluster, as its supervisor makes it."
  def libcluster_state(config) do
    %{
      __struct__: Cluster.Strategy.State,
      topology: :bench,
      connect: {:net_kernel, :connect_node, []},
      disconnect: {:erlang, :disconnect_node, []},
      list_nodes: {:erlang, :nodes, [:connected]},
      meta: nil,
      config: config
    }
  end

  @doc "Prints the medians, and Caravan's divided by the others."
  def print(title, results, wanted) do
    caravan = Nodes.median(results[:caravan])

    cells =
      for column <- @libraries ++ [:bare] do
        case results[column] do
          nil -> ""
          values when column == :caravan -> cell(values)
          values -> cell(values) <> ratio(caravan, Nodes.median(values))
        end
      end

    IO.puts("| #{Enum.join([title | cells] ++ [wanted], " | ")} |")
  end

  def header do
    IO.puts("| | Caravan | libcluster | dns_cluster | bare | wanted |\n|---|---|---|---|---|---|")
  end

  defp cell([value]), do: number(value)

  defp cell(values) do
    [median, least, most] =
      for value <- [Nodes.median(values), Enum.min(values), Enum.max(values)], do: number(value)

    "#{median} (#{least} to #{most})"
  end

  defp ratio(_caravan, other) when other == 0, do: ""
  defp ratio(caravan, other), do: "; #{:erlang.float_to_binary(caravan / other, decimals: 2)}"

  defp number(value) when is_float(value) and abs(value) < 100,
    do: :erlang.float_to_binary(value, decimals: 2)

  defp number(value), do: Integer.to_string(round(value))

  def now, do: System.os_time(:microsecond)
  def ntoa(ip), do: to_string(:inet.ntoa(ip))
end
