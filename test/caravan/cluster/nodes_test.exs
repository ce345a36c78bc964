defmodule Caravan.Cluster.NodesTest do
  @moduledoc "Runs the strategy on real nodes with a real DNS server."
  use ExUnit.Case, async: true

  import Caravan.Test.Cluster

  alias Caravan.Cluster.DnsStrategy
  alias Caravan.Test.DnsServer
  alias Caravan.Test.DnsServer.Wire
  alias Caravan.Test.Host
  alias Caravan.Test.Knot
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag(:knotd)

  setup do
    %{knot: start_supervised!({Knot, zone: zone(), records: []})}
  end

  defp drain(node), do: PeerNode.call(node, Caravan.Cluster, :drain, [:caravan])
  defp resume(node), do: PeerNode.call(node, Caravan.Cluster, :resume, [:caravan])

  # Returns what the strategy on `node` knows about another node.
  defp known(node, other) do
    [strategy] = PeerNode.call(node, Caravan.Cluster.Topologies, :whereis, [:caravan])
    state = PeerNode.call(node, :sys, :get_state, [strategy])
    state.membership.peers[Atom.to_string(other.name)]
  end

  # Lets the witness on `node` keep the events of this name.
  defp attach(node, event) do
    telemetry = :telemetry |> :code.which() |> Path.dirname() |> String.to_charlist()
    true = PeerNode.call(node, :code, :add_path, [telemetry])
    PeerNode.call(node, Caravan.Test.Witness, :attach, [[event]])
  end

  # Returns the nodes of all nodedowns on `node`.
  defp downs(node), do: Enum.map(report(node).downs, &elem(&1, 0))

  test "nodes find each other, stay connected whatever DNS returns, and connect a new node",
       context do
    [a, b, c] = nodes = for _ <- 1..3, do: start_node(context.knot)
    put_records(context.knot, nodes)
    await_mesh(nodes)

    # DNS returns a part of the records, then none. When the new node has joined, these answers have been handled.
    put_records(context.knot, [a])
    put_records(context.knot, [])
    newcomer = start_node(context.knot)
    put_records(context.knot, [newcomer])
    await_mesh([a, b, c, newcomer])

    # DNS does not answer.
    stop_supervised!(Knot)
    PeerNode.stop!(c)
    await_mesh([a, b, newcomer])
    for node <- [a, b, newcomer], do: assert(downs(node) == [c.name])
  end

  test "twenty nodes that join at the same time have 190 connections, each of them once",
       context do
    nodes = for _ <- 1..20, do: start_alone()
    put_records(context.knot, nodes)
    started = System.monotonic_time(:millisecond)

    nodes
    |> Enum.map(&Task.async(fn -> start_strategy(&1, context.knot) end))
    |> Task.await_many(60_000)

    await_mesh(nodes, 60_000)
    IO.puts("\n20 nodes, 190 links: #{System.monotonic_time(:millisecond) - started} ms")

    ports = MapSet.new(nodes, &PeerNode.port/1)

    for node <- nodes do
      own = PeerNode.port(node)

      # If two nodes dial each other at once, one of the two connections is closed a moment later.
      links = fn ->
        for {local, remote} <- Host.connections(node.os_pid),
            local == own or remote in ports,
            do: local
      end

      Host.await(fn -> length(links.()) == 19 end, "19 links of #{node.name}")
    end
  end

  test "a node that was killed and restarted under the same name is connected again", context do
    [a, b, c] = nodes = for _ <- 1..3, do: start_node(context.knot)
    put_records(context.knot, nodes)
    await_mesh(nodes)

    signal(b, "KILL")
    await_mesh([a, c])
    again = start_node(context.knot, name: Atom.to_string(b.name))
    await_mesh([a, again, c])
    assert downs(a) == [b.name]
    assert downs(c) == [b.name]
  end

  test "nodes with different values of connect_all log a warning each, and once", context do
    values = [[], ~w(-connect_all false), ~w(-connect_all false)]
    [alone, b, c] = nodes = for args <- values, do: start_alone(args: args)
    put_records(context.knot, nodes)
    files = Enum.map(nodes, &log_to_file/1)
    # These two are connected before the strategies start.
    true = PeerNode.call(alone, :net_kernel, :connect_node, [b.name])
    Enum.each(nodes, &start_strategy(&1, context.knot))
    await_mesh(nodes)

    # The first questions begin five seconds after the connections. A question takes some milliseconds.
    asked? = fn ->
      Enum.all?(nodes, fn node ->
        [strategy] = PeerNode.call(node, Caravan.Cluster.Topologies, :whereis, [:caravan])
        settings = PeerNode.call(node, :sys, :get_state, [strategy]).warnings.peer_settings
        {settings.timer, settings.job} == {nil, nil}
      end)
    end

    Host.await(asked?, "the answers of all nodes")

    for {file, node} <- Enum.zip(files, nodes) do
      :ok = PeerNode.call(node, :logger_std_h, :filesync, [:file])

      assert [_, value, differing] =
               Regex.run(
                 ~r/connect_all is (\w+) on this node and (\w+ on \S+)\. /,
                 File.read!(file)
               )

      {own, others} = if node == alone, do: {"true", [b, c]}, else: {"false", [alone]}
      assert value == own
      assert differing in Enum.map(others, &"#{own != "true"} on #{&1.name}")
      assert length(Regex.scan(~r/connect_all is/, File.read!(file))) == 1
    end
  end

  test "a node that was killed is connected when it listens again, and is reported once if that takes longer",
       context do
    [watcher, node] = nodes = for _ <- 1..2, do: start_alone()
    put_records(context.knot, nodes)
    file = log_to_file(watcher)

    # This VM has booted already when it takes the name. A boot may take longer than ten seconds on a busy machine.
    spare = start_alone(name: nil)
    strategy = [poll_interval: 3_600_000, min_interval: 3_600_000]
    start_strategy(watcher, context.knot, strategy)
    await_mesh(nodes)

    lines = fn text ->
      :ok = PeerNode.call(watcher, :logger_std_h, :filesync, [:file])
      file |> File.read!() |> String.split("\n") |> Enum.filter(&(&1 =~ text))
    end

    failures = fn -> with %{connect_failures: failures} <- known(watcher, node), do: failures end

    # The node is back before ten seconds are over, so no failure is reported.
    signal(node, "KILL")
    Host.await(fn -> failures.() > 2 end, "probes")
    {:ok, _} = PeerNode.call(spare, :net_kernel, :start, [[node.name, :longnames]])
    true = PeerNode.call(spare, :erlang, :set_cookie, [:caravan_test])
    again = %{spare | name: node.name}
    await_mesh([watcher, again])
    Host.await(fn -> length(lines.("connected to #{node.name}")) == 2 end, "a line")
    assert [_up, down, _up_again] = lines.("#{node.name}")
    assert down =~ "lost #{node.name}"

    signal(again, "KILL")
    text = "cannot connect to #{node.name}"
    Host.await(fn -> lines.(text) != [] end, text)
    before = failures.()
    Host.await(fn -> failures.() > before + 5 end, "more probes")
    assert [line] = lines.(text)
    assert line =~ "nothing listens on 127.0.0.1:#{PeerNode.port(node)}"

    again = start_alone(name: Atom.to_string(node.name))
    await_mesh([watcher, again])

    Host.await(
      fn -> length(lines.("connected to #{node.name}")) == 3 end,
      "the line of the return"
    )

    assert [_] = lines.("cannot connect to #{node.name}")
  end

  # With OTP's defaults, `global` may disconnect a and b for a moment when c returns, which has lost both. That was
  # seen in one of eight runs, and lasted 100 ms. So with the defaults, only the mesh is checked. With the other
  # settings, neither `global` nor messages connect nodes. Then a and b must stay connected.
  for {title, settings} <- [
        "with OTP's defaults": [],
        "by Caravan alone": ~w(prevent_overlapping_partitions false dist_auto_connect never)
      ] do
    test "a node that was stopped and continued is connected again, #{title}", context do
      args = ~w(-kernel net_ticktime 6) ++ unquote(settings)
      [a, b, c] = nodes = for _ <- 1..3, do: start_node(context.knot, args: args)
      put_records(context.knot, nodes)
      await_mesh(nodes)

      signal(c, "STOP")
      await_mesh([a, b])
      signal(c, "CONT")
      # Otherwise the mesh could be that of the old connections.
      Host.await(fn -> [a.name, b.name] -- downs(c) == [] end, "c to have lost both")
      await_mesh(nodes)

      if unquote(settings) != [] do
        refute b.name in downs(a)
        refute a.name in downs(b)
      end
    end
  end

  test "two nodes that lost their connection connect again without a lookup", context do
    strategy = [poll_interval: 3_600_000, min_interval: 3_600_000]
    [a, b] = nodes = for _ <- 1..2, do: start_alone()
    put_records(context.knot, nodes)
    for node <- nodes, do: start_strategy(node, context.knot, strategy)
    await_mesh(nodes)
    stop_dns(nodes)

    # On a busy machine, one of five tries has to be fast.
    assert Enum.any?(1..5, fn _try ->
             took = reconnect(a, b)
             IO.puts("\nnodedown to nodeup: #{took} ms")
             took < 1_000
           end)
  end

  # Waits for the first answer of each node: a node that was connected by the other one may have none yet.
  defp stop_dns(nodes) do
    for node <- nodes,
        do: :ok = PeerNode.call(node, Caravan.Cluster, :await, [:caravan, [timeout: 20_000]])

    stop_supervised!(Knot)
  end

  # Returns the milliseconds from nodedown to nodeup on `b`.
  defp reconnect(a, b) do
    Host.await(fn -> steady?(a, b) and steady?(b, a) end, "a connection that lasts")
    ups = length(report(b).ups)
    true = PeerNode.call(a, :erlang, :disconnect_node, [b.name])
    Host.await(fn -> length(report(b).ups) > ups end, "b to see a again")
    await_mesh([a, b])
    %{ups: ups, downs: downs} = report(b)
    {_, up} = List.last(ups)
    {_, down} = List.last(downs)
    up - down
  end

  # A node that goes down within 5 s after its nodeup is dialled later each time.
  defp steady?(node, other) do
    now = PeerNode.call(node, :erlang, :monotonic_time, [:millisecond])

    match?(
      %{connected_since: since} when is_integer(since) and now - since > 5_000,
      known(node, other)
    )
  end

  test "two nodes that lost a hidden connection connect again without a lookup", context do
    hidden = {:net_kernel, :hidden_connect_node, []}
    strategy = [poll_interval: 3_600_000, min_interval: 3_600_000, connect: hidden]
    [a, b] = nodes = for _ <- 1..2, do: start_alone()
    put_records(context.knot, nodes)
    for node <- nodes, do: start_strategy(node, context.knot, strategy)
    for node <- nodes, do: Host.await(fn -> hidden(node) != [] end, "a connection", 60_000)
    stop_dns(nodes)
    true = PeerNode.call(a, :erlang, :disconnect_node, [b.name])
    Host.await(fn -> hidden(a) == [b.name] end, "a to see b again")
  end

  defp hidden(node), do: PeerNode.call(node, :erlang, :nodes, [:hidden])

  test "a strategy sees a nodedown and a nodeup that happened while it was busy", context do
    [a, b] = nodes = for _ <- 1..2, do: start_node(context.knot)
    put_records(context.knot, nodes)
    await_mesh(nodes)

    Host.await(
      fn -> match?(%{connected_since: since} when since != nil, known(a, b)) end,
      "b to be up"
    )

    %{connected_since: before} = known(a, b)

    [strategy] = PeerNode.call(a, Caravan.Cluster.Topologies, :whereis, [:caravan])
    :ok = PeerNode.call(a, :sys, :suspend, [strategy])
    true = PeerNode.call(a, :erlang, :disconnect_node, [b.name])
    Host.await(fn -> length(report(a).ups) >= 2 end, "b to be back")
    :ok = PeerNode.call(a, :sys, :resume, [strategy])
    Host.await(fn -> known(a, b).connected_since not in [nil, before] end, "b to be up again")
  end

  test "while all nodes are replaced one by one, no other node is lost", context do
    old = for _ <- 1..5, do: start_node(context.knot)
    put_records(context.knot, old)
    await_mesh(old)

    {nodes, replaced} =
      old
      |> Enum.with_index()
      |> Enum.reduce({old, []}, fn {leaving, index}, {nodes, replaced} ->
        newcomer = start_node(context.knot)
        put_records(context.knot, [newcomer | nodes])
        await_mesh([newcomer | nodes])
        sync_global([newcomer | nodes])
        leave(leaving, rem(index, 3))
        nodes = [newcomer | List.delete(nodes, leaving)]
        put_records(context.knot, nodes)
        await_mesh(nodes)

        for node <- nodes, do: assert(downs(node) -- [leaving.name | replaced] == [])
        {nodes, [leaving.name | replaced]}
      end)

    names = nodes |> Enum.map(& &1.name) |> Enum.sort()

    for node <- nodes do
      Host.await(fn -> report(node).members == names end, "the members of the group")
      assert Enum.uniq(downs(node)) == downs(node)
      assert downs(node) -- replaced == []
    end

    # Each node has messages of all others.
    for node <- nodes do
      Host.await(fn -> names -- Map.keys(report(node).received) == [] end, "messages of all")
    end
  end

  defp leave(node, 0), do: signal(node, "KILL")
  defp leave(node, 1), do: PeerNode.stop!(node)

  defp leave(node, 2) do
    assert drain(node) == :ok
    PeerNode.stop!(node)
  end

  describe "a drained node" do
    test "leaves, stays out although nodes dial it and it sends messages, and returns", context do
      [a, b, c] = nodes = for _ <- 1..3, do: start_node(context.knot)
      put_records(context.knot, nodes)
      await_mesh(nodes)

      # Waits until a and b know c by DNS, and not only by its connections.
      for node <- [a, b], do: Host.await(fn -> known(node, c) end, "c to be known")
      sync_global(nodes)

      assert drain(c) == :ok
      assert peers(c) == []
      await_mesh([a, b])

      # a and b know that c leaves.
      for node <- [a, b], do: assert(known(node, c).draining)

      # a dials c, c sends to b, and a node starts that c does not know.
      refute PeerNode.call(a, :net_kernel, :connect_node, [c.name])
      PeerNode.call(c, :erlang, :send, [{Caravan.Test.Witness, b.name}, {:hello, c.name}])
      newcomer = start_node(context.knot)
      put_records(context.knot, [a, b, c, newcomer])
      await_mesh([a, b, newcomer])

      # The new node may be connected once.
      Host.await(
        fn -> not PeerNode.call(newcomer, :net_kernel, :connect_node, [c.name]) end,
        "the newcomer to be refused"
      )

      Host.await(fn -> peers(c) == [] end, "c to be alone")

      # The strategy of c crashes.
      [strategy] = PeerNode.call(c, Caravan.Cluster.Topologies, :whereis, [:caravan])
      PeerNode.call(c, :erlang, :exit, [strategy, :kill])

      Host.await(
        fn ->
          strategies = PeerNode.call(c, Caravan.Cluster.Topologies, :whereis, [:caravan])
          strategies not in [[], [strategy]]
        end,
        "another strategy"
      )

      refute PeerNode.call(b, :net_kernel, :connect_node, [c.name])
      assert peers(c) == []

      # A remote console can connect.
      console = PeerNode.start!(name: PeerNode.name("console"), args: ["-hidden"])
      assert PeerNode.call(console, :net_kernel, :connect_node, [c.name])
      assert peers(c) == []
      assert PeerNode.call(c, :erlang, :nodes, [:hidden]) == [console.name]

      assert resume(c) == :ok
      await_mesh([a, b, c, newcomer])

      # No other node was lost. The new node may have seen c for a moment.
      for node <- [a, b], do: assert(downs(node) == [c.name])
      assert downs(newcomer) -- [c.name] == []
    end
  end

  test "await/2 waits for nodes", context do
    [a, b] = for _ <- 1..2, do: start_node(context.knot)
    await = fn options -> PeerNode.call(a, Caravan.Cluster, :await, [:caravan, options]) end
    assert await.(timeout: 20_000) == :ok
    assert await.(nodes: 1, timeout: 100) == {:error, :timeout}
    put_records(context.knot, [a, b])
    assert await.(nodes: 1, timeout: 20_000) == :ok
  end

  test "with ports from SRV records, names need no port and nodes can listen on any port",
       context do
    strategy = [ports: :srv, node_name: "{host_label}@127.0.0.1"]

    start = fn name, port ->
      args = ["-caravan", "listen_port", "#{port}"]
      node = start_node(context.knot, name: "#{name}@127.0.0.1", args: args, strategy: strategy)
      {node, "_app._tcp 1 SRV 0 0 #{port} #{name}"}
    end

    {nodes, records} = Enum.unzip(for n <- 1..3, do: start.("n#{n}", Host.free_port()))
    Knot.put_records(context.knot, records)
    await_mesh(nodes)

    # The first node returns on another port.
    [first | others] = nodes
    PeerNode.stop!(first)
    {again, record} = start.("n1", Host.free_port())
    Knot.put_records(context.knot, [record | tl(records)])
    await_mesh([again | others])

    # The others may have connected this node before its own first answer.
    names = fn ->
      {:ok, names} = PeerNode.call(again, :net_adm, :names, [~c"127.0.0.1"])
      Enum.sort(for {name, _port} <- names, do: name)
    end

    Host.await(fn -> names.() == [~c"n1", ~c"n2", ~c"n3"] end, "the names")
  end

  test "the reason why a node cannot be connected is logged once", context do
    closed = Host.free_port()
    other = PeerNode.start!(name: PeerNode.name("app"), args: ["-setcookie", "other"])

    Knot.put_records(
      context.knot,
      for(port <- [closed, PeerNode.port(other)], do: "_app._tcp 1 SRV 0 0 #{port} host")
    )

    node = start_alone()
    file = log_to_file(node)
    diagnosis = [:caravan, :node, :connect, :diagnosis]
    :ok = attach(node, diagnosis)
    start_strategy(node, context.knot)

    lines = fn text ->
      file |> File.read!() |> String.split("\n") |> Enum.filter(&(&1 =~ text))
    end

    refused = "cannot connect to app-#{closed}@127.0.0.1: nothing listens on 127.0.0.1:#{closed}"

    cookie =
      "cannot connect to #{other.name}: the node at 127.0.0.1:#{PeerNode.port(other)} refuses the cookie of this node"

    for text <- [refused, cookie] do
      Host.await(fn -> lines.(text) != [] end, text)
    end

    assert [_] = lines.(refused)
    assert [_] = lines.(cookie)

    # The event comes after the line.
    found = fn ->
      for {^diagnosis, found} <- report(node).events, do: {found.node, found.finding}
    end

    Host.await(fn -> length(found.()) >= 2 end, "the events")

    assert Enum.sort(found.()) ==
             [{:"app-#{closed}@127.0.0.1", :refused}, {other.name, :cookie}] |> Enum.sort()
  end

  test "a node that hangs is logged once, though attempts to connect it end in two ways",
       context do
    # Nothing replies on this socket. Some attempts end by :connect_timeout, others by OTP's net_setuptime.
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1}, backlog: 128)
    {:ok, port} = :inet.port(socket)
    Knot.put_records(context.knot, ["_app._tcp 1 SRV 0 0 #{port} host"])

    node = start_alone(args: ~w(-kernel net_setuptime 3))
    file = log_to_file(node)
    stop = [:caravan, :node, :connect, :stop]
    :ok = attach(node, stop)
    start_strategy(node, context.knot, connect_timeout: 1_300)

    # OTP continues the first attempt, which timed out here. The second one begins within 1.3 s, joins it, and ends
    # with it after 3 s.
    results = fn -> for {^stop, %{result: {:error, kind}}} <- report(node).events, do: kind end
    Host.await(fn -> [:timeout, :unreachable] -- Enum.drop(results.(), 1) == [] end, "both")

    diagnoses = fn ->
      [strategy] = PeerNode.call(node, Caravan.Cluster.Topologies, :whereis, [:caravan])
      state = PeerNode.call(node, :sys, :get_state, [strategy])

      Caravan.Cluster.DnsStrategy.Jobs.count(state.jobs, &match?({:diagnose, _, _}, &1))
    end

    Host.await(fn -> diagnoses.() == 0 end, "the end of the diagnoses")
    :ok = PeerNode.call(node, :logger_std_h, :filesync, [:file])
    lines = file |> File.read!() |> String.split("\n")
    assert [_] = Enum.filter(lines, &(&1 =~ "cannot connect to app-#{port}@127.0.0.1"))
    :ok = :gen_tcp.close(socket)
  end

  test "a node joins although the first records in DNS have dead addresses", context do
    [a, b] = nodes = for _ <- 1..2, do: start_node(context.knot)
    dead = for port <- 1..9, do: "_app._tcp 1 SRV 0 0 #{port} host"
    live = for node <- nodes, do: "_app._tcp 1 SRV 1 0 #{PeerNode.port(node)} host"
    Knot.put_records(context.knot, dead ++ live)
    await_mesh([a, b])
  end

  test "a node whose host has capital letters does not dial itself, and logs the name to use",
       context do
    node = start_alone(name: PeerNode.name("app", "Node1.Caravan.Test"))
    port = PeerNode.port(node)
    file = log_to_file(node, :warning)

    Knot.put_records(context.knot, [
      "_app._tcp 1 SRV 0 0 #{port} Node1",
      "Node1 1 A 127.0.0.1",
      # The record of a dead node, so that the strategy has a node to dial.
      "_app._tcp 1 SRV 0 0 1 node2",
      "node2 1 A 127.0.0.1"
    ])

    start_strategy(node, context.knot, node_name: "{name}-{port}@{host}")
    [strategy] = PeerNode.call(node, Caravan.Cluster.Topologies, :whereis, [:caravan])
    peers = fn -> Map.keys(PeerNode.call(node, :sys, :get_state, [strategy]).membership.peers) end
    Host.await(fn -> peers.() != [] end, "the records")
    assert peers.() == ["app-1@node2.caravan.test"]
    Host.await(fn -> File.read!(file) =~ "lower case" end, "a warning")
    assert File.read!(file) =~ "Node1.Caravan.Test"
  end

  test "a node whose first address in DNS does not answer is connected", context do
    args = ["-kernel", "inet_dist_use_interface", "{127,0,0,2}"]
    b = start_alone(name: PeerNode.name("app", "b.caravan.test"), args: args)

    Knot.put_records(context.knot, [
      "_app._tcp 1 SRV 0 0 #{PeerNode.port(b)} b",
      "b 1 A 127.0.0.1",
      "b 1 A 127.0.0.2"
    ])

    a =
      start_node(context.knot,
        name: PeerNode.name("app", "a.caravan.test"),
        strategy: [node_name: "{name}-{port}@{host}"]
      )

    Host.await(fn -> peers(a) == [b.name] end, "#{a.name} to connect #{b.name}")
  end

  test "over IPv6, a node is found although the SRV answer has only an IPv4 address for it" do
    server = start_supervised!(DnsServer)
    {port, other} = {Host.free_port(), Host.free_port()}

    glue = fn query, _transport ->
      Wire.response(query,
        answers: [Wire.srv(:question, other, ["node2", "test"])],
        additional: [Wire.a(["node2", "test"], {127, 0, 0, 1})]
      )
    end

    DnsServer.put(server, "_app._tcp.test", :srv, {:raw, glue})
    DnsServer.put(server, "node2.test", :aaaa, [{0, 0, 0, 0, 0, 0, 0, 1}])

    [a, b] =
      for {host, port} <- [{"node1.test", port}, {"node2.test", other}],
          do: start_alone(name: "app-#{port}@#{host}", args: ~w(-proto_dist inet6_tcp))

    options = [
      query: "_app._tcp.test",
      node_sname: "app",
      nameservers: [DnsServer.address(server)],
      poll_interval: 200
    ]

    :ok = PeerNode.call(a, Caravan.Test.Cluster, :run_strategy, [options])
    Host.await(fn -> peers(a) == [b.name] end, "#{a.name} to connect #{b.name}")
  end

  test "the strategy connects nodes once distribution has started", context do
    other = start_alone()
    put_records(context.knot, [other])
    node = start_nameless()
    start_strategy(node, context.knot, node_sname: nil)
    assert PeerNode.call(node, Caravan.Cluster, :await, [:caravan, [nodes: 0]]) == :ok

    name = :"app-#{Host.free_port()}@127.0.0.1"
    {:ok, _} = PeerNode.call(node, :net_kernel, :start, [[name, :longnames]])
    Host.await(fn -> name in peers(other) end, "#{name} to connect #{other.name}")
  end

  # Starts a VM that is not alive. Its strategy logs nothing.
  defp start_nameless(options \\ []) do
    node = PeerNode.start!([name: nil] ++ options)
    {:ok, _} = PeerNode.call(node, :application, :ensure_all_started, [:logger])
    :ok = PeerNode.call(node, :logger, :set_primary_config, [:level, :none])
    node
  end

  test "a node whose distribution starts after the strategy does not dial itself", context do
    port = Host.free_port()
    name = :"app-#{port}@127.0.0.1"
    Knot.put_records(context.knot, ["_app._tcp 1 SRV 0 0 #{port} host"])
    # Outside of a release, the strategy would look up nothing before.
    node = start_nameless(env: [{"RELEASE_NAME", "app"}])
    start_strategy(node, context.knot)

    # Uses the registered name, because the pid changes for this VM when the node gets its name.
    strategy = :"Caravan.Cluster.DnsStrategy:caravan"
    known = fn -> Map.keys(PeerNode.call(node, :sys, :get_state, [strategy]).membership.peers) end

    Host.await(fn -> known.() == [Atom.to_string(name)] end, "the record")
    {:ok, _} = PeerNode.call(node, :net_kernel, :start, [[name, :longnames]])
    Host.await(fn -> known.() == [] end, "the node to know itself")
  end

  test "the strategy is a child of any supervisor, as its documentation says", context do
    child =
      {DnsStrategy,
       query: "_app._tcp.caravan.test",
       node_sname: "app",
       nameservers: [Knot.address(context.knot)]}

    {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one)

    assert [{{DnsStrategy, "_app._tcp.caravan.test"}, pid, :worker, [DnsStrategy]}] =
             Supervisor.which_children(supervisor)

    assert Process.alive?(pid)
    Supervisor.stop(supervisor)
  end
end
