defmodule Caravan.Hosts.CutPairTest do
  @moduledoc "Runs five nodes on separate hosts. The link between two of them is cut, and no other link."
  use ExUnit.Case, async: true

  alias Caravan.Test.Host
  alias Caravan.Test.Hosts
  alias Caravan.Test.Netns
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag([:netns, :knotd])

  @all [1, 2, 3, 4, 5]
  @poll 2_000

  # With this net_ticktime, a node notices a cut link after 6 to 10 seconds. With the default, it takes about 60 seconds.
  # With a lower net_ticktime, nodes lose each other on a busy machine.
  defp start(connect_all) do
    args = ~w(-kernel net_ticktime 8 -connect_all #{connect_all})
    hosts = Hosts.start!(length(@all), args: fn _n -> args end)
    :ok = Hosts.put_addresses(hosts, @all)
    options = Hosts.options(hosts, lookup_timeout: 1_000, poll_interval: @poll)
    Hosts.discover(hosts.nodes, options)
    Host.await(fn -> Hosts.mesh?(hosts.nodes) end, "the mesh")
    hosts
  end

  # Cuts the network between the hosts 1 and 2 until their nodes have noticed the cut, and for five polls more. Returns the
  # nodedowns of all nodes until then, and the time in milliseconds from the end of the cut until all nodes were connected.
  defp cut_pair(%{net: net, nodes: nodes}) do
    Netns.set(net, [{:cut, [1], [2]}])
    pair = [{1, nodes[2].name}, {2, nodes[1].name}]
    Host.await(fn -> pair -- Hosts.downs(nodes) == [] end, "the nodedowns of the pair")
    # Waits for the whole time, because nothing may happen in it.
    Process.sleep(5 * @poll)
    downs = Hosts.downs(nodes)

    start = System.monotonic_time(:millisecond)
    Netns.set(net, [])
    Host.await(fn -> Hosts.mesh?(nodes) end, "the mesh after the cut")
    {downs, System.monotonic_time(:millisecond) - start}
  end

  defp print(connect_all, downs, took) do
    IO.puts(
      "\none pair of five nodes cut, connect_all #{connect_all}: #{length(downs)} nodedowns, " <>
        "connected again after #{took} ms"
    )
  end

  test "with connect_all false, the cut pair loses its link and no other, and has it back soon after the cut" do
    %{nodes: nodes} = hosts = start(false)
    {downs, took} = cut_pair(hosts)
    print(false, downs, took)
    assert downs == [{1, nodes[2].name}, {2, nodes[1].name}]
    assert took < 3 * @poll
    assert Hosts.downs(nodes) == downs
  end

  test "with connect_all true, global may disconnect the pair from all nodes, and all are connected again after the cut" do
    %{nodes: nodes} = hosts = start(true)
    {downs, took} = cut_pair(hosts)
    print(true, downs, took)
    pair = [nodes[1].name, nodes[2].name]
    for {n, down} <- downs, do: assert(n in [1, 2] or down in pair)
  end
end
