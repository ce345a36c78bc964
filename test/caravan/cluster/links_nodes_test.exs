defmodule Caravan.Cluster.LinksNodesTest do
  @moduledoc "Runs the option `:links` on real nodes: core nodes with a full mesh, and edge nodes with few links."
  use ExUnit.Case, async: true

  import Caravan.Test.Cluster

  alias Caravan.Cluster.DnsStrategy.Jobs
  alias Caravan.Test.Eventually
  alias Caravan.Test.Host
  alias Caravan.Test.Knot
  alias Caravan.Test.LinkFleet
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements
  alias Caravan.Test.Witness

  @moduletag Requirements.tag(:knotd)

  @args ~w(-connect_all false)
  @links 2

  setup do
    %{knot: start_supervised!({Knot, zone: zone(), records: []})}
  end

  defp start_core(knot, options \\ []), do: start_node(knot, [args: @args] ++ options)

  # DNS does not name the edge nodes.
  defp start_edge(knot) do
    edge = start_alone(args: @args)
    :ok = attach(edge)
    start_strategy(edge, knot, links: @links)
    edge
  end

  # Makes the witness record the telemetry events about nodes.
  defp attach(node) do
    telemetry = :telemetry |> :code.which() |> Path.dirname() |> String.to_charlist()
    true = PeerNode.call(node, :code, :add_path, [telemetry])
    events = for event <- [:up, :down, :release], do: [:caravan, :node, event]
    PeerNode.call(node, Witness, :attach, [events])
  end

  defp events(node),
    do: for({event, metadata} <- report(node).events, do: {List.last(event), metadata})

  defp downs(node), do: for({node, _at} <- report(node).downs, do: node)

  # Returns the core nodes in the order in which the edge node prefers them.
  defp ranked(edge, cores) do
    names = for core <- cores, do: Atom.to_string(core.name)
    for name <- LinkFleet.preferred("#{edge.name}", names, length(names)), do: :"#{name}"
  end

  defp await_peers(node, names) do
    wanted = Enum.sort(names)

    # On a busy machine, a preferred node may reply after 300 ms. Then its stand-in stays for a minute.
    _ = Eventually.true?(fn -> peers(node) == wanted end, 100_000)
    assert peers(node) == wanted
  end

  # On a busy machine, there may be another stand-in too.
  defp await_linked(node, names),
    do: Host.await(fn -> names -- peers(node) == [] end, "#{node.name} to see #{inspect(names)}")

  # The strategy emits an event after the VM has the connection, or has lost it.
  defp await_event(node, event),
    do: Host.await(fn -> event in events(node) end, "the event #{inspect(event)}")

  # Makes the strategy see the preferred nodes as connected for a minute.
  defp let_a_minute_pass(node) do
    [strategy] = PeerNode.call(node, Caravan.Cluster.Topologies, :whereis, [:caravan])

    PeerNode.eval(
      node,
      """
      :sys.replace_state(strategy, fn state ->
        update_in(state.membership.links, &%{&1 | full_since: &1.full_since - 60_000})
      end)

      send(strategy, :tick)
      """,
      strategy: strategy
    )
  end

  test "an edge node keeps two links when core nodes die, return and leave", context do
    cores = for _ <- 1..4, do: start_core(context.knot)
    names = Enum.map(cores, & &1.name)
    put_records(context.knot, cores)
    await_mesh(cores)

    edges = for _ <- 1..3, do: start_edge(context.knot)
    preferred = Map.new(edges, &{&1, Enum.take(ranked(&1, cores), @links)})
    for edge <- edges, do: await_peers(edge, preferred[edge])

    for core <- cores do
      await_peers(
        core,
        (names -- [core.name]) ++
          for(edge <- edges, core.name in preferred[edge], do: edge.name)
      )
    end

    # On a busy machine, the edge nodes may have given up stand-ins until now.
    for edge <- edges, do: :ok = PeerNode.call(edge, Witness, :clear, [])

    # A core node dies. The edge nodes that prefer it connect the next one by their rank.
    [edge | _] = edges
    [first, second, stand_in | _] = ranked(edge, cores)
    {[victim], _others} = Enum.split_with(cores, &(&1.name == first))
    killed = System.os_time(:millisecond)
    signal(victim, "KILL")
    await_linked(edge, [second, stand_in])
    {^stand_in, at} = List.keyfind(report(edge).ups, stand_in, 0)
    IO.puts("\na stand-in is connected #{at - killed} ms after kill -9")
    await_event(edge, {:up, %{node: stand_in, link: :stand_in, topology: :caravan}})

    for other <- edges, first not in preferred[other] do
      assert {peers(other), downs(other)} == {Enum.sort(preferred[other]), []}
    end

    # The core node returns under the same name. The edge node connects it, and gives up the stand-in after a minute.
    again = start_core(context.knot, name: Atom.to_string(first))
    cores = [again | cores -- [victim]]
    await_linked(edge, [first, second, stand_in])

    Host.await(fn -> Enum.all?(cores, &(names -- peers(&1) == [&1.name])) end, "the cores' mesh")
    await_full(edge)
    let_a_minute_pass(edge)
    await_peers(edge, [first, second])
    await_event(edge, {:release, %{node: stand_in, topology: :caravan}})
    await_event(edge, {:down, %{node: stand_in, link: :released, topology: :caravan}})
    assert [^first | released] = downs(edge)
    assert stand_in in released and second not in released

    # The core node leaves, so the edge node needs a stand-in again.
    :ok = PeerNode.call(again, Caravan.Cluster, :drain, [:caravan])
    await_linked(edge, [second, stand_in])
    Host.await(fn -> first not in peers(edge) end, "#{first} to leave")
  end

  test "a node with `links: 0` connects members on demand, without DNS",
       context do
    strategy = [links: 0, ports: :srv, node_name: "{host_label}@127.0.0.1"]

    start = fn name ->
      port = Host.free_port()
      args = @args ++ ["-caravan", "listen_port", "#{port}"]
      node = start_node(context.knot, name: "#{name}@127.0.0.1", args: args, strategy: strategy)
      {node, "_app._tcp 1 SRV 0 0 #{port} #{name}"}
    end

    {[a, b], records} = Enum.unzip([start.("a"), start.("b")])
    Knot.put_records(context.knot, records)

    # Node a has published the address of b.
    Host.await(
      fn -> length(PeerNode.call(a, Caravan.Epmd.Peers, :list, [])) == 1 end,
      "the address of b"
    )

    assert {peers(a), peers(b)} == {[], []}
    stop_supervised!(Knot)
    call = [:erpc, :call, [b.name, :erlang, :node, []]]
    {time, name} = PeerNode.call(a, :timer, :tc, call)
    assert name == b.name
    IO.puts("\nthe first call to a node without a link takes #{div(time, 1_000)} ms")
    assert {peers(a), peers(b)} == {[b.name], [a.name]}
  end

  test "two cells are each a full mesh, and each node keeps a link to the other cell", context do
    # The parameter does the same as the flag of the other tests.
    args = ~w(-kernel connect_all false)
    cells = Map.new(["eu", "us"], &{&1, for(_ <- 1..3, do: start_alone(args: args))})

    records =
      for {cell, nodes} <- cells,
          node <- nodes,
          do: "_#{cell}._tcp 1 SRV 0 0 #{PeerNode.port(node)} host"

    Knot.put_records(context.knot, records)
    query = &"_#{&1}._tcp.#{zone()}"

    for {cell, other} <- [{"eu", "us"}, {"us", "eu"}], node <- cells[cell] do
      start_strategy(node, context.knot, topology: :here, query: query.(cell))
      start_strategy(node, context.knot, topology: :there, query: query.(other), links: 1)
    end

    # A node may have more links than these: others have dialled it, or a connect was slow, and has a stand-in.
    await = fn node, cell, others ->
      [preferred] = LinkFleet.preferred("#{node.name}", Enum.map(others, &"#{&1.name}"), 1)
      wanted = [:"#{preferred}" | Enum.map(cell -- [node], & &1.name)]
      Host.await(fn -> wanted -- peers(node) == [] end, "#{node.name} to see #{inspect(wanted)}")
    end

    %{"eu" => eu, "us" => us} = cells
    for node <- eu, do: await.(node, eu, us)
    for node <- us, do: await.(node, us, eu)
    crossing = fn -> for a <- eu, b <- us, b.name in peers(a), do: {a, b} end
    # On a busy machine, there may be stand-ins, which stay for a minute.
    Host.await(fn -> length(crossing.()) < 9 end, "fewer links than a full mesh", 100_000)
    for node <- eu ++ us, do: :ok = PeerNode.call(node, Witness, :clear, [])

    # A node dies. The nodes of the other cell that prefer it connect another node of its cell. No other link is lost.
    [victim | alive] = us
    signal(victim, "KILL")
    us_names = Enum.map(us, & &1.name)

    for node <- eu do
      linked? = fn -> Enum.any?(peers(node) -- [victim.name], &(&1 in us_names)) end
      Host.await(linked?, "a link from #{node.name} to a live node of the other cell")
    end

    for node <- eu ++ alive, do: assert(downs(node) -- [victim.name] == [])
  end

  # With `connect_all`, global reports a disconnect to the other nodes, and these would disconnect healthy nodes.
  test "a stand-in is not disconnected where connect_all is in force", context do
    edge = start_alone()
    :ok = attach(edge)
    names = for _ <- 1..2, do: PeerNode.name("app")
    [preferred, stand_in] = LinkFleet.preferred("#{edge.name}", names, 2)
    put_records(context.knot, names)
    start_strategy(edge, context.knot, links: 1)
    Host.await(fn -> strategy_state(edge).membership.peers != %{} end, "the first answer")

    %{name: stand_in} = start_alone(name: stand_in)
    await_peers(edge, [stand_in])
    %{name: preferred} = start_alone(name: preferred)
    await_peers(edge, [preferred, stand_in])

    await_full(edge)
    assert strategy_state(edge).membership.peers["#{stand_in}"].opened
    let_a_minute_pass(edge)

    Host.await(
      fn -> not strategy_state(edge).membership.peers["#{stand_in}"].opened end,
      "the end of the stand-in"
    )

    Host.await(fn -> strategy_state(edge).jobs == Jobs.new() end, "the end of the release")
    assert {peers(edge), downs(edge)} == {Enum.sort([preferred, stand_in]), []}
  end

  defp await_full(edge),
    do: Host.await(fn -> strategy_state(edge).membership.links.full_since != nil end, "all links")

  defp strategy_state(node) do
    [strategy] = PeerNode.call(node, Caravan.Cluster.Topologies, :whereis, [:caravan])
    PeerNode.call(node, :sys, :get_state, [strategy])
  end
end
