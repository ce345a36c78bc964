defmodule Caravan.Cluster.Distribution.DrainNodesTest do
  @moduledoc "Drains and resumes real nodes, some with several topologies."
  use ExUnit.Case, async: true

  import Caravan.Test.Cluster

  alias Caravan.Cluster.Topologies
  alias Caravan.Test.DnsServer
  alias Caravan.Test.Host
  alias Caravan.Test.Knot
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements
  alias Caravan.Test.Witness

  @moduletag Requirements.tag(:knotd)

  @two [topology: :two, query: "_two._tcp.caravan.test"]

  setup do
    %{knot: start_supervised!({Knot, zone: zone(), records: []})}
  end

  defp drain(node, topology \\ :caravan),
    do: PeerNode.call(node, Caravan.Cluster, :drain, [topology])

  defp resume(node, topology \\ :caravan),
    do: PeerNode.call(node, Caravan.Cluster, :resume, [topology])

  defp whereis(node, topology), do: PeerNode.call(node, Topologies, :whereis, [topology])

  defp call_strategy(node, topology \\ :caravan, function) do
    [strategy] = whereis(node, topology)
    :ok = PeerNode.call(node, :sys, function, [strategy])
  end

  defp disconnect(node, other), do: PeerNode.call(node, :erlang, :disconnect_node, [other.name])
  defp connect(node, other), do: PeerNode.call(node, :net_kernel, :connect_node, [other.name])

  # Waits until `node` has lost `other`. Then asserts that `other` refuses a connection of `node`.
  defp assert_refused(node, other, connect \\ :connect_node) do
    connected = fn -> PeerNode.call(node, :erlang, :nodes, [:connected]) end
    Host.await(fn -> other.name not in connected.() end, "#{node.name} to lose #{other.name}")
    refute PeerNode.call(node, :net_kernel, connect, [other.name])
  end

  defp hidden(node), do: PeerNode.call(node, :erlang, :nodes, [:hidden])
  defp table(node), do: PeerNode.call(node, Caravan.Epmd.Peers, :list, [])
  defp downs(node), do: Enum.map(report(node).downs, &elem(&1, 0))

  # Returns whether `node` uses its own cookie for `other`.
  defp true_cookie?(node, other) do
    PeerNode.call(node, :erlang, :get_cookie, [other.name]) ==
      PeerNode.call(node, :erlang, :get_cookie, [])
  end

  # Waits until the strategy knows these nodes by DNS, and not only by their connections.
  defp await_known(node, topology, others) do
    names = Enum.sort(for other <- others, do: Atom.to_string(other.name))

    for strategy <- whereis(node, topology) do
      Host.await(
        fn ->
          membership = PeerNode.call(node, :sys, :get_state, [strategy]).membership
          Enum.sort(Caravan.Cluster.Membership.peers(membership)) == names
        end,
        "#{inspect(topology)} to know #{inspect(names)}"
      )
    end
  end

  # Starts two nodes. Each has two topologies with both nodes.
  defp start_with_both(knot) do
    [a, b] = nodes = for _ <- 1..2, do: start_alone()
    put_services(knot, for(node <- nodes, do: {node, [:app, :two]}))

    for node <- nodes do
      start_strategy(node, knot, topology: :one)
      start_strategy(node, knot, @two)
    end

    await_mesh(nodes)
    for topology <- [:one, :two], do: await_known(b, topology, [a])
    nodes
  end

  # Starts two nodes that know each other. The distribution of the second one can be stopped. OTP permits that only if
  # distribution was started at run time.
  defp start_with_stoppable(knot, protocol) do
    args = if protocol == "TLS", do: PeerNode.tls_args(), else: []
    a = start_node(knot, args: args)
    b = %{start_alone(name: nil, args: args) | name: String.to_atom(PeerNode.name("app"))}
    start_distribution(b)
    start_strategy(b, knot)
    put_records(knot, [a, b])
    await_mesh([a, b])
    await_known(b, :caravan, [a])
    [a, b]
  end

  # If the two nodes dialled each other at the same time over TLS, processes of :ssl (OTP 25) outlive net_kernel:stop/0
  # by five seconds. Meanwhile net_kernel:start/1 fails.
  defp start_distribution(node) do
    start = fn -> PeerNode.call(node, :net_kernel, :start, [[node.name, :longnames]]) end
    Host.await(fn -> match?({:ok, _pid}, start.()) end, "the distribution of #{node.name}")
    true = PeerNode.call(node, :erlang, :set_cookie, [:caravan_test])
  end

  # Starts the topology :one on the first and the third node, and :two on the second and the third.
  # Waits until the third node knows the other two.
  defp start_different(knot, [a, b, c]) do
    put_services(knot, [{a, [:app]}, {b, [:two]}, {c, [:app, :two]}])
    for node <- [a, c], do: start_strategy(node, knot, topology: :one)
    for node <- [b, c], do: start_strategy(node, knot, @two)
    await_known(c, :one, [a])
    await_known(c, :two, [b])
  end

  # Starts three nodes with the topology :two. The third one also has the topology :one, which is drained.
  defp start_with_drained(knot, args \\ []) do
    [_a, _b, c] = nodes = for _ <- 1..3, do: start_alone(args: args)
    put_services(knot, for(node <- nodes, do: {node, [:app, :two]}))
    for node <- nodes, do: start_strategy(node, knot, @two)
    start_strategy(c, knot, topology: :one)
    await_mesh(nodes)
    for topology <- [:one, :two], do: await_known(c, topology, nodes -- [c])
    assert drain(c, :one) == :ok
    # `global` has disconnected the nodes for a moment.
    await_mesh(nodes)
    nodes
  end

  # Calls `fun`, which makes a connection to the node, and waits until a job of its drained topology has ended.
  defp await_job(node, topology, fun) do
    departure = fn ->
      [strategy] = whereis(node, topology)
      PeerNode.call(node, :sys, :get_state, [strategy]).departure
    end

    Host.await(fn -> match?(%{job: nil, check: nil}, departure.()) end, "no job to run")
    fun.()
    Host.await(fn -> departure.().check != nil end, "a job to end")
  end

  defp connect_console(node) do
    console = PeerNode.start!(name: PeerNode.name("console"), args: ["-hidden"])
    assert connect(console, node)
  end

  defp clear(nodes), do: for(node <- nodes, do: PeerNode.call(node, Witness, :clear, []))

  # Puts an SRV record for each node into each of its services.
  defp put_services(knot, nodes) do
    Knot.put_records(
      knot,
      for({node, services} <- nodes, service <- services) do
        "_#{service}._tcp 1 SRV 0 0 #{PeerNode.port(node)} host"
      end
    )
  end

  describe "two topologies" do
    test "with the same nodes: a node leaves when both are drained, and returns when one resumes",
         context do
      [a, b] = nodes = start_with_both(context.knot)

      # The other topology has the node a. So a stays connected, and is connected again after a loss.
      assert drain(b, :one) == :ok
      assert peers(b) == [a.name]
      assert true_cookie?(b, a)
      disconnect(b, a)
      await_mesh(nodes)

      assert drain(b, :two) == :ok
      assert peers(b) == []
      assert_refused(a, b)

      # One topology that resumes is enough.
      assert resume(b, :one) == :ok
      await_mesh(nodes)
      assert resume(b, :two) == :ok
      assert true_cookie?(b, a)
      disconnect(b, a)
      await_mesh(nodes)
    end

    test "of one name are drained together", context do
      [a, b] = nodes = for _ <- 1..2, do: start_alone()
      put_services(context.knot, for(node <- nodes, do: {node, [:app, :two]}))

      for node <- nodes do
        start_strategy(node, context.knot)
        start_strategy(node, context.knot, query: @two[:query])
      end

      await_mesh(nodes)
      await_known(b, :caravan, [a])
      assert drain(b) == :ok
      assert peers(b) == []
      assert_refused(a, b)
      assert resume(b) == :ok
      await_mesh(nodes)
      assert true_cookie?(b, a)
    end

    test "of one name are drained together although a query of one of them has had no answer",
         context do
      server = start_supervised!(DnsServer)
      DnsServer.put_default(server, :silent)
      [a, b] = nodes = for _ <- 1..2, do: start_alone()
      put_records(context.knot, nodes)
      for node <- nodes, do: start_strategy(node, context.knot)
      start_strategy(b, context.knot, nameservers: [DnsServer.address(server)])
      await_mesh(nodes)
      assert drain(b) == :ok
      assert peers(b) == []
      assert_refused(a, b)
    end

    test "with different nodes: only the nodes of the drained topology are disconnected",
         context do
      [a, b, c] = nodes = for _ <- 1..3, do: start_alone()
      start_different(context.knot, nodes)
      # `global` connects a and b as well.
      await_mesh(nodes)
      sync_global(nodes)

      assert drain(c, :one) == :ok
      refute a.name in peers(c)

      # Without :global.disconnect/0, c would report a loss to b, and b would disconnect a or c.
      Host.await(fn -> peers(c) == [b.name] end, "c to be with b alone")
      Host.await(fn -> peers(b) == Enum.sort([a.name, c.name]) end, "b to have both")
      assert_refused(a, c)
      assert downs(a) == [c.name]
      refute a.name in downs(b)

      # The nodes of :one stay in quarantine when :two resumes.
      assert drain(c, :two) == :ok
      assert peers(c) == []
      assert resume(c, :two) == :ok
      Host.await(fn -> peers(c) == [b.name] end, "c to be with b again")
      assert_refused(a, c)

      # Now the topology :two has the node a as well.
      put_services(context.knot, [{a, [:app, :two]}, {b, [:two]}, {c, [:app, :two]}])
      await_mesh(nodes)
      assert resume(c, :one) == :ok
      assert true_cookie?(c, a)
    end

    test "with different nodes and without connect_all: the nodes of the other topology stay connected",
         context do
      args = ["-connect_all", "false"]
      [a, b, c] = nodes = for _ <- 1..3, do: start_alone(args: args)
      start_different(context.knot, nodes)
      Host.await(fn -> peers(c) == Enum.sort([a.name, b.name]) end, "c to have both")
      assert drain(c, :one) == :ok
      assert peers(c) == [b.name]
      assert_refused(a, c)
      assert downs(c) == [a.name]
      assert downs(b) == []
    end

    test "of which one has ended: its nodes are disconnected, whatever other code has published",
         context do
      [a, b] = nodes = start_with_both(context.knot)
      entry = {Atom.to_string(a.name), nil, []}
      :ok = PeerNode.call(b, Caravan.Epmd.Peers, :put, [:mine, [entry]])

      # Kills the supervisor too, so that the strategy is not restarted.
      [two] = whereis(b, :two)
      {:links, [supervisor]} = PeerNode.call(b, Process, :info, [two, :links])
      true = PeerNode.call(b, Process, :exit, [supervisor, :kill])
      Host.await(fn -> whereis(b, :two) == [] end, "the strategy to end")

      assert drain(b, :one) == :ok
      assert peers(b) == []
      assert_refused(a, b)
      assert resume(b, :one) == :ok
      await_mesh(nodes)
    end
  end

  describe "while one topology is drained and the other" do
    test "does not reply, a connection of a console harms no node", context do
      [_a, _b, c] = nodes = start_with_drained(context.knot)
      clear(nodes)
      call_strategy(c, :two, :suspend)
      await_job(c, :one, fn -> connect_console(c) end)
      for node <- nodes, do: assert(downs(node) == [])
      call_strategy(c, :two, :resume)
    end

    test "has had no answer since a crash, a connection of a console harms no node", context do
      [_a, _b, c] = nodes = start_with_drained(context.knot)
      clear(nodes)
      stop_supervised!(Knot)
      [two] = whereis(c, :two)
      PeerNode.call(c, Process, :exit, [two, :kill])
      Host.await(fn -> whereis(c, :two) not in [[], [two]] end, "another strategy")
      await_job(c, :one, fn -> connect_console(c) end)
      for node <- nodes, do: assert(downs(node) == [])
    end

    test "has nodes in a mesh, a new node that these nodes connect is left alone", context do
      [a, _b, c] = nodes = start_with_drained(context.knot)
      clear(nodes)
      new = start_alone()
      # `global` connects it to all nodes.
      await_job(c, :one, fn -> assert connect(new, a) end)
      await_mesh([new | nodes])
      for node <- [new | nodes], do: assert(downs(node) == [])
    end

    test "does not name two new nodes yet, the one that has this topology stays, and the one without it is put out",
         context do
      args = ["-connect_all", "false"]
      [a, b, c] = nodes = start_with_drained(context.knot, args)
      clear(nodes)
      [new, stranger] = for _ <- 1..2, do: start_alone(args: args)

      # The strategy of `new` dials all nodes. DNS does not name `new` yet.
      await_job(c, :one, fn ->
        start_strategy(new, context.knot, @two)
        Host.await(fn -> length(peers(new)) == 3 end, "the new node to have all")
      end)

      await_job(c, :one, fn -> assert connect(stranger, c) end)
      assert_refused(stranger, c)
      assert peers(c) == Enum.sort([a.name, b.name, new.name])
      for node <- [new, a, b], do: assert(downs(node) == [])
      assert downs(c) == [stranger.name]
    end
  end

  test "a drain disconnects no node while another topology does not reply, and continues then",
       context do
    [a, b, c] = nodes = for _ <- 1..3, do: start_alone()
    start_different(context.knot, nodes)
    await_mesh(nodes)

    call_strategy(c, :two, :suspend)
    assert drain(c, :one) == {:error, :timeout}
    for node <- nodes, do: assert(downs(node) == [])
    call_strategy(c, :two, :resume)
    Host.await(fn -> peers(c) == [b.name] end, "c to be with b alone")
    assert_refused(a, c)
  end

  test "a drain disconnects a node whose strategy did not reply as soon as it replies", context do
    [a, b, c] = nodes = for _ <- 1..3, do: start_alone(args: ["-connect_all", "false"])
    start_different(context.knot, nodes)
    # On the node a, the topology :two finds no node.
    start_strategy(a, context.knot, topology: :two, query: "_none._tcp.caravan.test")
    Host.await(fn -> peers(c) == Enum.sort([a.name, b.name]) end, "c to have both")
    PeerNode.call(a, Caravan.Cluster, :await, [:two, [nodes: 0]])

    call_strategy(a, :two, :suspend)
    assert drain(c, :one) == :ok
    assert a.name in peers(c)
    call_strategy(a, :two, :resume)
    Host.await(fn -> peers(c) == [b.name] end, "c to be with b alone")
    assert_refused(a, c)
  end

  for connect_all <- [true, false] do
    test "with connect_all #{connect_all}, a drain disconnects a node whose topology has had no answer as soon as it has one",
         context do
      server = start_supervised!(DnsServer)
      none = "_none._tcp.caravan.test"
      DnsServer.put(server, none, :srv, :silent)
      two = [topology: :two, query: none]

      [a, b] =
        nodes = for _ <- 1..2, do: start_alone(args: ~w(-connect_all #{unquote(connect_all)}))

      put_records(context.knot, nodes)
      for node <- nodes, do: start_strategy(node, context.knot, topology: :one)
      start_strategy(a, context.knot, two ++ [nameservers: [DnsServer.address(server)]])
      start_strategy(b, context.knot, two)
      await_mesh(nodes)
      await_known(b, :one, [a])
      :ok = PeerNode.call(b, Caravan.Cluster, :await, [:two, [nodes: 0]])

      await_job(b, :one, fn -> assert drain(b, :one) == :ok end)
      assert peers(b) == [a.name]
      DnsServer.put(server, none, :srv, :nxdomain)
      Host.await(fn -> peers(b) == [] end, "b to be alone")
      assert_refused(a, b)
    end
  end

  test "a topology with a few links that resumes takes its members out of quarantine, while another one is drained",
       context do
    [a, b, c] = nodes = for _ <- 1..3, do: start_alone(args: ["-connect_all", "false"])
    put_services(context.knot, for(node <- nodes, do: {node, [:app, :two]}))
    start_strategy(c, context.knot, topology: :one)
    start_strategy(c, context.knot, @two ++ [links: 1])
    await_known(c, :one, [a, b])
    await_known(c, :two, [a, b])
    for topology <- [:one, :two], do: assert(drain(c, topology) == :ok)
    for node <- [a, b], do: refute(true_cookie?(c, node))
    assert resume(c, :two) == :ok
    for node <- [a, b], do: assert(true_cookie?(c, node))
  end

  test "after many drains at once, with a strategy that crashes, all cookies are restored",
       context do
    [a, b | others] = nodes = for _ <- 1..4, do: start_node(context.knot)
    put_records(context.knot, nodes)
    await_mesh(nodes)

    drain_all = """
    tasks = for _ <- 1..16, do: Task.async(fn -> Caravan.Cluster.drain(:caravan) end)
    if crash do
      [strategy] = Caravan.Cluster.Topologies.whereis(:caravan)
      Process.exit(strategy, :kill)
    end
    Task.await_many(tasks, 20_000)
    """

    for round <- 1..20 do
      crash = rem(round, 4) == 0
      await_known(b, :caravan, nodes -- [b])
      results = PeerNode.eval(b, drain_all, crash: crash)
      Host.await(fn -> whereis(b, :caravan) != [] end, "a strategy")
      unless crash, do: assert(Enum.uniq(results) == [:ok])

      # The crash may have ended the calls before. This one ends normally.
      assert drain(b) == :ok
      assert peers(b) == []
      assert resume(b) == :ok
      for node <- [a | others], do: assert(true_cookie?(b, node), "round #{round}")
      await_mesh(nodes)
    end
  end

  test "members with hidden connections are disconnected and stay out, a console stays",
       context do
    strategy = [connect: {:net_kernel, :hidden_connect_node, []}]
    [a, b] = nodes = for _ <- 1..2, do: start_node(context.knot, strategy: strategy)
    console = PeerNode.start!(name: PeerNode.name("console"), args: ["-hidden"])
    assert connect(console, b)
    put_records(context.knot, nodes)
    await = fn names -> Host.await(fn -> Enum.sort(hidden(b)) == names end, inspect(names)) end
    await.(Enum.sort([a.name, console.name]))
    await_known(b, :caravan, [a])

    assert drain(b) == :ok
    assert hidden(b) == [console.name]
    assert_refused(a, b, :hidden_connect_node)
    assert resume(b) == :ok
    await.(Enum.sort([a.name, console.name]))
  end

  test "with ports from SRV records, a node that resumes knows the ports at once", context do
    strategy = [ports: :srv, node_name: "{host_label}@127.0.0.1"]

    {nodes, records} =
      Enum.unzip(
        for name <- ["m1", "m2"] do
          port = Host.free_port()
          args = ["-caravan", "listen_port", "#{port}"]

          node =
            start_node(context.knot, name: "#{name}@127.0.0.1", args: args, strategy: strategy)

          {node, "_app._tcp 1 SRV 0 0 #{port} #{name}"}
        end
      )

    Knot.put_records(context.knot, records)
    await_mesh(nodes)
    [_a, b] = nodes
    Host.await(fn -> length(table(b)) == 1 end, "the table")
    before = table(b)

    assert drain(b) == :ok
    assert table(b) == []
    # From now on, DNS does not answer.
    stop_supervised!(Knot)
    assert resume(b) == :ok
    assert table(b) == before
    await_mesh(nodes)
  end

  for protocol <- ["TCP", "TLS"] do
    test "over #{protocol}, a node whose distribution is restarted is connected again", context do
      [a, b] = start_with_stoppable(context.knot, unquote(protocol))

      for round <- 1..3 do
        :ok = PeerNode.call(b, :net_kernel, :stop, [])
        Host.await(fn -> peers(a) == [] end, "#{a.name} to lose #{b.name}, round #{round}")
        start_distribution(b)
        await_mesh([a, b])
      end
    end

    test "over #{protocol}, a drained node whose distribution is restarted stays out", context do
      [a, b] = start_with_stoppable(context.knot, unquote(protocol))
      assert drain(b) == :ok
      refute true_cookie?(b, a)

      # A restart of distribution forgets the cookies of single nodes. Caravan.Epmd sets them again.
      :ok = PeerNode.call(b, :net_kernel, :stop, [])
      assert drain(b) == :ok
      start_distribution(b)
      assert drain(b) == :ok
      refute true_cookie?(b, a)
      assert_refused(a, b)
      assert resume(b) == :ok
      await_mesh([a, b])
    end

    test "over #{protocol}, a drained node whose distribution starts again refuses connections at once",
         context do
      [a, b] = start_with_stoppable(context.knot, unquote(protocol))
      assert drain(a) == :ok
      assert drain(b) == :ok
      :ok = PeerNode.call(b, :net_kernel, :stop, [])
      assert resume(a) == :ok
      # From now on only this test connects the nodes.
      for node <- [a, b], do: call_strategy(node, :suspend)

      start_distribution(b)
      refute connect(a, b)
      refute connect(b, a)
      for node <- [a, b], do: call_strategy(node, :resume)
      assert resume(b) == :ok
      await_mesh([a, b])
    end
  end
end
