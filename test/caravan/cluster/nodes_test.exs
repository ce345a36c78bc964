defmodule Caravan.Cluster.NodesTest do
  @moduledoc "The strategy on real nodes, driven by the records of a real DNS server."
  use ExUnit.Case, async: true

  import Caravan.Test.Cluster

  alias Caravan.Cluster.DnsStrategy
  alias Caravan.Test.Host
  alias Caravan.Test.Knot
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag(:knotd)
  @moduletag timeout: 180_000

  setup do
    %{knot: start_supervised!({Knot, zone: zone(), records: []})}
  end

  defp drain(node), do: PeerNode.call(node, Caravan.Cluster, :drain, [:caravan])
  defp resume(node), do: PeerNode.call(node, Caravan.Cluster, :resume, [:caravan])

  # What the strategy on `node` knows of another one.
  defp known(node, other) do
    [strategy] = PeerNode.call(node, Caravan.Cluster.Topologies, :whereis, [:caravan])
    state = PeerNode.call(node, :sys, :get_state, [strategy])
    state.membership.peers[Atom.to_string(other.name)]
  end

  # Who was seen to go down by `node`, once for each time.
  defp downs(node), do: Enum.map(report(node).downs, &elem(&1, 0))

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
    for node <- [a, b, newcomer], do: assert(downs(node) == [c.name])
  end

  test "twenty join at the same moment: all 190 links stand, each of them once", context do
    nodes = for _ <- 1..20, do: start_alone()
    put_records(context.knot, nodes)
    started = System.monotonic_time(:millisecond)

    nodes
    |> Enum.map(&Task.async(fn -> start_strategy(&1, context.knot) end))
    |> Task.await_many(30_000)

    await_mesh(nodes, 60_000)
    IO.puts("\n20 nodes, 190 links: #{System.monotonic_time(:millisecond) - started} ms")

    ports = MapSet.new(nodes, &PeerNode.port/1)

    for node <- nodes do
      connections = Host.connections(node.os_pid)
      own = PeerNode.port(node)
      links = for {local, remote} <- connections, local == own or remote in ports, do: local
      assert length(links) == 19
    end
  end

  test "a node that was killed and started again under its name is back", context do
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

  # With OTP's defaults, `global` may have a and b part for a moment when c, which lost both, comes back:
  # seen in one of eight runs, and healed in a tenth of a second. So there the mesh is what counts. Without
  # `global` and what messages connect, it is Caravan that has c back, and that parts nobody.
  for {title, settings} <- [
        "with OTP's defaults": [],
        "by Caravan alone": ~w(prevent_overlapping_partitions false dist_auto_connect never)
      ] do
    test "a node that hung is back when it goes on, #{title}", context do
      args = ~w(-kernel net_ticktime 6) ++ unquote(settings)
      [a, b, c] = nodes = for _ <- 1..3, do: start_node(context.knot, args: args)
      put_records(context.knot, nodes)
      await_mesh(nodes)

      signal(c, "STOP")
      await_mesh([a, b])
      signal(c, "CONT")
      # Not a mesh of the connections of before.
      Host.await(fn -> [a.name, b.name] -- downs(c) == [] end, "c to have lost both")
      await_mesh(nodes)

      if unquote(settings) != [] do
        refute b.name in downs(a)
        refute a.name in downs(b)
      end
    end
  end

  test "two that lost their connection find each other with no lookup", context do
    strategy = [poll_interval: 3_600_000, min_interval: 3_600_000]
    [a, b] = nodes = for _ <- 1..2, do: start_alone()
    put_records(context.knot, nodes)
    for node <- nodes, do: start_strategy(node, context.knot, strategy)
    await_mesh(nodes)
    stop_dns(nodes)

    # One of a few tries: the machine is busy.
    assert Enum.any?(1..5, fn _try ->
             took = reconnect(a, b)
             IO.puts("\nnodedown to nodeup: #{took} ms")
             took < 1_000
           end)
  end

  # Who was connected by the other may not have asked yet.
  defp stop_dns(nodes) do
    for node <- nodes,
        do: :ok = PeerNode.call(node, Caravan.Cluster, :await, [:caravan, [timeout: 20_000]])

    stop_supervised!(Knot)
  end

  # Milliseconds from nodedown to nodeup, as `b` sees them.
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

  # One that goes down sooner after it came is dialled later each time.
  defp steady?(node, other) do
    now = PeerNode.call(node, :erlang, :monotonic_time, [:millisecond])

    match?(
      %{connected_since: since} when is_integer(since) and now - since > 5_000,
      known(node, other)
    )
  end

  test "so do two whose connection is a hidden one", context do
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

  test "a node that went and came while the strategy was busy was down for it, too", context do
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
    Host.await(fn -> length(report(a).ups) == 2 end, "b to be back")
    :ok = PeerNode.call(a, :sys, :resume, [strategy])
    Host.await(fn -> known(a, b).connected_since not in [nil, before] end, "b to be up anew")
  end

  test "all nodes replaced one by one, while each sends: nobody else is ever lost", context do
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
        leave(leaving, rem(index, 3))
        nodes = [newcomer | List.delete(nodes, leaving)]
        put_records(context.knot, nodes)
        await_mesh(nodes)

        for node <- nodes, do: assert(downs(node) -- [leaving.name | replaced] == [])
        {nodes, [leaving.name | replaced]}
      end)

    names = nodes |> Enum.map(& &1.name) |> Enum.sort()

    for node <- nodes do
      report = report(node)
      assert report.members == names
      assert Enum.uniq(downs(node)) == downs(node)
      assert downs(node) -- replaced == []
    end

    # Each hears of each other.
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
    test "leaves, stays out whatever dials it or is sent by it, and comes back", context do
      [a, b, c] = nodes = for _ <- 1..3, do: start_node(context.knot)
      put_records(context.knot, nodes)
      await_mesh(nodes)

      # By DNS too, and not by their connections alone.
      for node <- [a, b], do: Host.await(fn -> known(node, c) end, "c to be known")

      assert drain(c) == :ok
      assert peers(c) == []
      await_mesh([a, b])

      # The others were told, and leave it in peace.
      for node <- [a, b], do: assert(known(node, c).draining)

      # The others dial it, it sends to them, and a node comes that it has never heard of.
      refute PeerNode.call(a, :net_kernel, :connect_node, [c.name])
      PeerNode.call(c, :erlang, :send, [{Caravan.Test.Witness, b.name}, {:hello, c.name}])
      newcomer = start_node(context.knot)
      put_records(context.knot, [a, b, c, newcomer])
      await_mesh([a, b, newcomer])

      # It may get in, once.
      Host.await(
        fn -> not PeerNode.call(newcomer, :net_kernel, :connect_node, [c.name]) end,
        "the newcomer to be refused"
      )

      Host.await(fn -> peers(c) == [] end, "c to be alone")

      # Its strategy crashes.
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

      # A console comes in.
      console = PeerNode.start!(name: PeerNode.name("console"), args: ["-hidden"])
      assert PeerNode.call(console, :net_kernel, :connect_node, [c.name])
      assert peers(c) == []
      assert PeerNode.call(c, :erlang, :nodes, [:hidden]) == [console.name]

      assert resume(c) == :ok
      await_mesh([a, b, c, newcomer])

      # Nobody else was lost meanwhile; the newcomer may have seen c for a moment.
      for node <- [a, b], do: assert(downs(node) == [c.name])
      assert downs(newcomer) -- [c.name] == []
    end
  end

  test "waiting for nodes", context do
    [a, b] = for _ <- 1..2, do: start_node(context.knot)
    await = fn options -> PeerNode.call(a, Caravan.Cluster, :await, [:caravan, options]) end
    assert await.([]) == :ok
    assert await.(nodes: 1, timeout: 100) == {:error, :timeout}
    put_records(context.knot, [a, b])
    assert await.(nodes: 1, timeout: 20_000) == :ok
  end

  test "ports from SRV records: names without any, on ports of which no name tells", context do
    strategy = [ports: :srv, node_name: "{host_label}@127.0.0.1"]

    start = fn name, port ->
      args = ["-caravan", "listen_port", "#{port}"]
      node = start_node(context.knot, name: "#{name}@127.0.0.1", args: args, strategy: strategy)
      {node, "_app._tcp 1 SRV 0 0 #{port} #{name}"}
    end

    {nodes, records} = Enum.unzip(for n <- 1..3, do: start.("n#{n}", Host.free_port()))
    Knot.put_records(context.knot, records)
    await_mesh(nodes)

    # One comes back on another port.
    [first | others] = nodes
    PeerNode.stop!(first)
    {again, record} = start.("n1", Host.free_port())
    Knot.put_records(context.knot, [record | tl(records)])
    await_mesh([again | others])

    assert {:ok, names} = PeerNode.call(again, :net_adm, :names, [~c"127.0.0.1"])
    assert Enum.sort(for {name, _port} <- names, do: name) == [~c"n1", ~c"n2", ~c"n3"]
  end

  test "why a node cannot be connected is told apart", context do
    node = start_node(context.knot)
    find = &PeerNode.call(node, Caravan.Cluster.Distribution.Diagnosis, :find, [&1])

    closed = Host.free_port()
    assert find.("app-#{closed}@127.0.0.1") == {:refused, "127.0.0.1:#{closed}"}

    # Of another cookie, as an example of what fails after the connection stands.
    other = PeerNode.start!(name: PeerNode.name("other"), args: ["-setcookie", "other"])
    refute PeerNode.call(node, :net_kernel, :connect_node, [other.name])
    where = "127.0.0.1:#{PeerNode.port(other)}"
    assert find.(Atom.to_string(other.name)) == {:accepted, where}

    # No resolver is asked for such a name.
    host = String.duplicate("a", 64) <> ".test"
    assert find.("app-4001@#{host}") == {:unresolvable, host}
    assert find.("app-70000@127.0.0.1") == {:no_port, "app-70000@127.0.0.1"}

    # OTP lets no short name meet a long one, whoever listens.
    refute PeerNode.call(node, :net_kernel, :connect_node, [:"app-#{closed}@localhost"])
    assert find.("app-#{closed}@localhost") == {:name_type, "localhost"}
    short = PeerNode.start!(name: "app-#{Host.free_port()}")
    refute PeerNode.call(short, :net_kernel, :connect_node, [node.name])
    long = Atom.to_string(node.name)

    assert {:name_type, host} =
             PeerNode.call(short, Caravan.Cluster.Distribution.Diagnosis, :find, [long])

    assert host == "127.0.0.1"
  end

  test "and logged, once", context do
    closed = Host.free_port()
    other = PeerNode.start!(name: PeerNode.name("app"), args: ["-setcookie", "other"])

    Knot.put_records(
      context.knot,
      for(port <- [closed, PeerNode.port(other)], do: "_app._tcp 1 SRV 0 0 #{port} host")
    )

    node = start_alone()
    file = Path.join(System.tmp_dir!(), "caravan-#{PeerNode.port(node)}.log")
    on_exit(fn -> File.rm(file) end)
    handler = %{config: %{file: String.to_charlist(file)}, formatter: {:logger_formatter, %{}}}
    :ok = PeerNode.call(node, :logger, :add_handler, [:file, :logger_std_h, handler])
    # OTP's, and that of Logger before Elixir 1.15.
    for handler <- [:default, Logger],
        do: PeerNode.call(node, :logger, :remove_handler, [handler])

    :ok = PeerNode.call(node, :logger, :set_primary_config, [:level, :info])

    telemetry = :telemetry |> :code.which() |> Path.dirname() |> String.to_charlist()
    true = PeerNode.call(node, :code, :add_path, [telemetry])
    diagnosis = [:caravan, :node, :connect, :diagnosis]
    :ok = PeerNode.call(node, Caravan.Test.Witness, :attach, [[diagnosis]])
    start_strategy(node, context.knot)

    lines = fn text ->
      file |> File.read!() |> String.split("\n") |> Enum.filter(&(&1 =~ text))
    end

    refused = "cannot connect to app-#{closed}@127.0.0.1: nothing listens on 127.0.0.1:#{closed}"
    accepted = "cannot connect to #{other.name}: 127.0.0.1:#{PeerNode.port(other)} accepts"

    for text <- [refused, accepted] do
      Host.await(fn -> lines.(text) != [] end, text)
    end

    assert [_] = lines.(refused)
    assert [_] = lines.(accepted)

    found = for {^diagnosis, found} <- report(node).events, do: {found.node, found.finding}

    assert Enum.sort(found) ==
             [{:"app-#{closed}@127.0.0.1", :refused}, {other.name, :accepted}] |> Enum.sort()
  end

  test "records of dead addresses, ahead of the others, keep nobody from joining", context do
    [a, b] = nodes = for _ <- 1..2, do: start_node(context.knot)
    dead = for port <- 1..9, do: "_app._tcp 1 SRV 0 0 #{port} host"
    live = for node <- nodes, do: "_app._tcp 1 SRV 1 0 #{PeerNode.port(node)} host"
    Knot.put_records(context.knot, dead ++ live)
    await_mesh([a, b])
  end

  test "a node whose distribution starts after the strategy does not dial itself", context do
    port = Host.free_port()
    name = :"app-#{port}@127.0.0.1"
    Knot.put_records(context.knot, ["_app._tcp 1 SRV 0 0 #{port} host"])
    node = PeerNode.start!(name: nil, epmd: true)
    {:ok, _} = PeerNode.call(node, :application, :ensure_all_started, [:logger])
    :ok = PeerNode.call(node, :logger, :set_primary_config, [:level, :none])
    start_strategy(node, context.knot)

    # By its name: its pid is another one for us as soon as the node has a name.
    strategy = :"Caravan.Cluster.DnsStrategy:caravan"
    known = fn -> Map.keys(PeerNode.call(node, :sys, :get_state, [strategy]).membership.peers) end

    Host.await(fn -> known.() == [Atom.to_string(name)] end, "the record")
    {:ok, _} = PeerNode.call(node, :net_kernel, :start, [[name, :longnames]])
    Host.await(fn -> known.() == [] end, "the node to know itself")
  end

  test "its documentation holds: the module is a child of any supervisor", context do
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
