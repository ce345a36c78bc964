defmodule Caravan.Hosts.ReturnTest do
  @moduledoc "Runs two nodes on separate hosts that lose each other. Only one of them runs a strategy."
  use ExUnit.Case, async: true

  alias Caravan.Test.Host
  alias Caravan.Test.Hosts
  alias Caravan.Test.Netns
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag([:netns, :knotd])

  setup do
    # Without `dist_auto_connect never`, messages of `global` would make OTP connect the nodes too.
    args = ~w(-kernel net_ticktime 4 dist_auto_connect never)
    hosts = Hosts.start!(2, args: fn _n -> args end)
    :ok = Hosts.put_addresses(hosts, [1, 2])

    # The next lookup is an hour away, so that it cannot be the reason for a connection.
    options = Hosts.options(hosts, poll_interval: 3_600_000, min_interval: 3_600_000)
    Hosts.discover(Map.take(hosts.nodes, [1]), options)

    Host.await(fn -> Hosts.mesh?(hosts.nodes) end, "the connection")
    %{net: hosts.net, nodes: hosts.nodes}
  end

  for {title, fault} <- [
        {"TCP packets", {:silent, [{10, 77, 0, 1}, {10, 77, 0, 2}]}},
        {"packets", {:cut, [1], [2]}}
      ] do
    test "a node is connected again after all #{title} were lost, and OTP does not try to connect it in the meantime",
         %{net: net, nodes: %{1 => watcher, 2 => node} = nodes} do
      :ok = Netns.set(net, [unquote(Macro.escape(fault))])
      Host.await(fn -> Hosts.peers(watcher) == [] end, "the nodedown", 30_000)

      # net_kernel has an entry for each node that is connected, or that it tries to connect.
      for _ <- 1..100 do
        assert PeerNode.call(watcher, :ets, :lookup, [:sys_dist, node.name]) == []
        Process.sleep(20)
      end

      :ok = Netns.set(net, [])
      start = System.monotonic_time(:millisecond)
      Host.await(fn -> Hosts.mesh?(nodes) end, "the connection", 10_000)

      IO.puts(
        "\nall #{unquote(title)} lost: healed in #{System.monotonic_time(:millisecond) - start} ms"
      )
    end
  end
end
