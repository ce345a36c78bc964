defmodule Caravan.Hosts.Ipv6Test do
  @moduledoc "Runs nodes and a DNS server on hosts that have only IPv6 addresses."
  use ExUnit.Case, async: true

  alias Caravan.Epmd.Peers
  alias Caravan.Test.Host
  alias Caravan.Test.Hosts
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag([:netns, :knotd])

  @all [1, 2, 3]

  defp discover(hosts, options) do
    common = [node_sname: "app", nameservers: [Hosts.dns(hosts)], poll_interval: 500]
    Hosts.discover(hosts.nodes, common ++ options)
    Host.await(fn -> Hosts.mesh?(hosts.nodes) end, "the mesh")
  end

  test "AAAA records connect nodes that are named by their addresses" do
    hosts = Hosts.start!(length(@all), family: :inet6)
    :ok = Hosts.put_records(hosts, for(n <- @all, do: "app AAAA #{Hosts.ip(:inet6, n)}"))
    discover(hosts, query: "app.caravan.test", type: :aaaa)
  end

  test "SRV records connect nodes whose hosts and ports are known only to DNS" do
    hosts =
      Hosts.start!(length(@all),
        family: :inet6,
        name: &"app@host#{&1}.caravan.test",
        args: &~w(-caravan listen_port #{25_000 + &1})
      )

    # The resolvers of the hosts do not know these names.
    [a, b, _c] = Map.values(hosts.nodes)
    refute PeerNode.call(a, :net_kernel, :connect_node, [b.name])

    :ok =
      Hosts.put_records(
        hosts,
        for n <- @all do
          "_app._tcp SRV 0 0 #{25_000 + n} host#{n}\nhost#{n} AAAA #{Hosts.ip(:inet6, n)}"
        end
      )

    discover(hosts, query: "_app._tcp.caravan.test", type: :srv, ports: :srv)

    assert {"app@host2.caravan.test", 25_002, [{0xFD77, 0, 0, 0, 0, 0, 0, 2}]} in PeerNode.call(
             a,
             Peers,
             :list,
             []
           )

    assert PeerNode.call(a, :net_adm, :names, [~c"host2.caravan.test"]) ==
             {:ok, [{~c"app", 25_002}]}
  end
end
