defmodule Caravan.MigratingTest do
  @moduledoc """
  For each library in guides/migrating.md, starts two nodes that have the names of this library and the configuration that
  the guide says to use, and a nameserver with the records that the library needs.
  """
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Config
  alias Caravan.Test.Cluster, as: Nodes
  alias Caravan.Test.DnsServer
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  @guide "guides/migrating.md"

  # The blocks of Elixir under each heading.
  @blocks @guide
          |> File.read!()
          |> String.split(~r/^## /m)
          |> Map.new(fn section ->
            [heading | _] = String.split(section, "\n", parts: 2)
            blocks = Regex.scan(~r/^```elixir\n(.*?)^```/ms, section, capture: :all_but_first)
            {heading, List.flatten(blocks)}
          end)

  @external_resource @guide

  @addresses [{127, 0, 0, 1}, {127, 0, 0, 2}]

  setup do
    on_exit(fn -> Application.delete_env(:my_app, :dns_cluster_query) end)
  end

  test "dns_cluster" do
    Application.put_env(:my_app, :dns_cluster_query, ["app.internal"])
    assert_cluster("dns_cluster", "my_app@", addresses("app.internal"))
  end

  test "dns_cluster with a basename, and nothing to look up" do
    Application.put_env(:my_app, :dns_cluster_query, {"other", "app.internal"})
    assert_cluster("dns_cluster", "other@", addresses("app.internal"))

    Application.delete_env(:my_app, :dns_cluster_query)
    {_module, options} = configuration("dns_cluster")
    assert %{sources: []} = Config.new!(options)
  end

  test "libcluster's DNSPoll" do
    assert_cluster("libcluster's DNSPoll", "my-app@", addresses("my-app.example.com"))
  end

  test "libcluster's Kubernetes.DNS" do
    records = addresses("myapp-headless.default.svc.cluster.local")
    assert_cluster("libcluster's Kubernetes.DNS", "myapp@", records)
  end

  test "libcluster's Kubernetes.DNSSRV" do
    service = "myapp-headless.default.svc.cluster.local"
    hosts = ["myapp-0.#{service}", "myapp-1.#{service}"]
    records = targets(service, hosts, [4000, 4000])
    assert_cluster("libcluster's Kubernetes.DNSSRV", Enum.map(hosts, &"myapp@#{&1}"), records)
  end

  test "libcluster's Kubernetes" do
    records = addresses("myapp.my_namespace.svc.cluster.local")
    assert_cluster("libcluster's Kubernetes", "myapp@", records)
  end

  test "libcluster_dynamic_srv" do
    service = "my-service-name.service.consul"
    ports = [Host.free_port(), Host.free_port()]
    records = targets(service, ["node-0.#{service}", "node-1.#{service}"], ports)
    names = ["node-0@#{service}", "node-1@#{service}"]
    env = for port <- ports, do: [{"CARAVAN_LISTEN_PORT", to_string(port)}]
    assert_cluster("libcluster_dynamic_srv", names, records, env)
  end

  test "Caravan 1.0" do
    ports = [Host.free_port(), Host.free_port()]
    hosts = ["a.prod.socialmedia.consul", "b.prod.socialmedia.consul"]
    records = targets("likes-service-dist.service.consul", hosts, ports)
    names = for {port, host} <- Enum.zip(ports, hosts), do: "profile-service-#{port}@#{host}"
    assert_cluster("Caravan 1.0", names, records)
  end

  test "each option of the other libraries is explained" do
    in_guide =
      for {_heading, ["# before\n" <> _ = before, _after]} <- @blocks,
          {[strategy: _strategy, config: config], []} <- [Code.eval_string(before)],
          {option, _value} <- config,
          do: option

    # The options of dns_cluster, of Cluster.Strategy.Epmd and of Cluster.Strategy.Gossip.
    others = [:name, :resource_types, :interval, :log, :resolver, :hosts, :multicast_addr]

    for option <- Enum.uniq(in_guide ++ others) -- [:query, :node_basename] do
      error = catch_error(Config.new!([{option, "x"}]))
      assert error.message =~ ~r/unknown option #{inspect(option)} \(given "x"\)\. Caravan /
    end
  end

  # The configuration under a heading of the guide. Without libcluster, it is a child.
  defp configuration(heading) do
    {configuration, []} = @blocks |> Map.fetch!(heading) |> List.last() |> Code.eval_string()
    configuration
  end

  # The nodes have the same port. Each listens on its own address.
  defp assert_cluster(heading, names, records, env \\ [[], []])

  defp assert_cluster(heading, prefix, records, env) when is_binary(prefix),
    do: assert_cluster(heading, for(ip <- @addresses, do: prefix <> ntoa(ip)), records, env)

  defp assert_cluster(heading, names, records, env) do
    configuration = configuration(heading)
    server = start_supervised!({DnsServer, answers: records}, id: make_ref())
    port = {"CARAVAN_BASE_PORT", to_string(Host.free_port())}

    nodes =
      for {name, ip, env} <- Enum.zip([names, @addresses, env]) do
        interface = ["-kernel", "inet_dist_use_interface", inspect(ip)]
        node = Nodes.start_alone(name: name, env: [port | env], args: interface)
        options = options(configuration, DnsServer.address(server))
        :ok = PeerNode.call(node, Nodes, :run_strategy, [options])
        node
      end

    assert Nodes.await_mesh(nodes)
  end

  defp options({Caravan.Cluster.DnsStrategy, options}, nameserver),
    do: [nameservers: [nameserver]] ++ options

  # What `Cluster.Supervisor` gives to the strategy.
  defp options([strategy: Caravan.Cluster.DnsStrategy, config: config], nameserver) do
    [
      %Cluster.Strategy.State{
        topology: :app,
        connect: {:net_kernel, :connect_node, []},
        disconnect: {:erlang, :disconnect_node, []},
        list_nodes: {:erlang, :nodes, [:connected]},
        config: [nameservers: [nameserver]] ++ config
      }
    ]
  end

  defp addresses(name), do: [{name, :a, @addresses}, {name, :aaaa, :empty}]

  defp targets(name, hosts, ports) do
    services = for {host, port} <- Enum.zip(hosts, ports), do: {0, 0, port, host}

    [
      {name, :srv, services}
      | for({host, ip} <- Enum.zip(hosts, @addresses), do: {host, :a, [ip]})
    ]
  end

  defp ntoa(ip), do: ip |> :inet.ntoa() |> to_string()
end
