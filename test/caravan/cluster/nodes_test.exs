defmodule Caravan.Cluster.NodesTest do
  @moduledoc "The strategy on real nodes, driven by the records of a real DNS server."
  use ExUnit.Case, async: true

  alias Caravan.Cluster.DnsStrategy
  alias Caravan.Test.Host
  alias Caravan.Test.Knot
  alias Caravan.Test.PeerNode

  @query "_app._tcp.caravan.test"

  setup do
    %{knot: start_supervised!({Knot, zone: "caravan.test", records: []})}
  end

  defp start_node(knot, name \\ PeerNode.name("app")) do
    node = PeerNode.start!(name: name)

    options = [
      query: @query,
      node_sname: "app",
      # The host of every name is this machine, which no SRV target can say.
      node_name: "{name}-{port}@127.0.0.1",
      nameservers: [Knot.address(knot)],
      lookup_timeout: 500,
      poll_interval: 200
    ]

    {:ok, _} = PeerNode.call(node, :application, :ensure_all_started, [:logger])
    # What they log would stand among the results of the tests.
    :ok = PeerNode.call(node, :logger, :set_primary_config, [:level, :none])

    start = "{:ok, _} = Caravan.Cluster.DnsStrategy.start_link(options)"
    code = "spawn(fn -> #{start}; Process.sleep(:infinity) end)"
    pid = PeerNode.eval(node, code, options: options)
    assert is_pid(pid)
    node
  end

  defp put_records(knot, nodes) do
    Knot.put_records(
      knot,
      for(node <- nodes, do: "_app._tcp 1 SRV 0 0 #{PeerNode.port(node)} host")
    )
  end

  defp peers(node), do: node |> PeerNode.call(:erlang, :nodes, []) |> Enum.sort()

  defp await_mesh(nodes) do
    for node <- nodes do
      others = Enum.sort(for(other <- nodes, other != node, do: other.name))
      Host.await(fn -> peers(node) == others end, "#{node.name} to see #{inspect(others)}")
    end
  end

  test "nodes find each other, stay together whatever DNS does, and take in a newcomer",
       context do
    [a, b, c] = nodes = for _ <- 1..3, do: start_node(context.knot)
    put_records(context.knot, nodes)
    await_mesh(nodes)

    # A part of the records, then none: nobody is dropped, which the newcomer's arrival dates.
    put_records(context.knot, [a])
    put_records(context.knot, [])
    newcomer = start_node(context.knot)
    put_records(context.knot, [newcomer])
    await_mesh([a, b, c, newcomer])

    # No DNS server at all.
    stop_supervised!(Knot)
    PeerNode.stop!(c)
    await_mesh([a, b, newcomer])
  end

  test "a node that was killed and started again under its name is back", context do
    [a, b] = nodes = for _ <- 1..2, do: start_node(context.knot)
    put_records(context.knot, nodes)
    await_mesh(nodes)

    {_, 0} = System.cmd("kill", ["-9", b.os_pid])
    Host.await(fn -> peers(a) == [] end, "#{a.name} to notice")
    again = start_node(context.knot, Atom.to_string(b.name))
    await_mesh([a, again])
  end

  test "records of dead addresses, ahead of the others, keep nobody from joining", context do
    [a, b] = nodes = for _ <- 1..2, do: start_node(context.knot)
    dead = for port <- 1..9, do: "_app._tcp 1 SRV 0 0 #{port} host"
    live = for node <- nodes, do: "_app._tcp 1 SRV 1 0 #{PeerNode.port(node)} host"
    Knot.put_records(context.knot, dead ++ live)
    await_mesh([a, b])
  end

  test "its documentation holds: the module is a child of any supervisor", context do
    child =
      {DnsStrategy, query: @query, node_sname: "app", nameservers: [Knot.address(context.knot)]}

    {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one)

    assert [{{DnsStrategy, @query}, pid, :worker, [DnsStrategy]}] =
             Supervisor.which_children(supervisor)

    assert Process.alive?(pid)
    Supervisor.stop(supervisor)
  end
end
