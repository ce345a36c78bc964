defmodule Caravan.Cluster.DnsStrategy.OwnRecordTest do
  @moduledoc "The name of a real node, compared with a real DNS server."
  use ExUnit.Case, async: true

  import Caravan.Test.Cluster

  alias Caravan.Test.Eventually
  alias Caravan.Test.Host
  alias Caravan.Test.Knot
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag(:knotd)

  # Matches the warnings and errors of OTP too.
  @warnings ~r/ (warning|error): /

  setup do
    %{knot: start_supervised!({Knot, zone: zone(), records: []}), port: Host.free_port()}
  end

  # Starts a node of this name with a strategy. Returns the node and the function of `run/3`. The option `:vm` has further
  # options of `PeerNode.start!/1`.
  defp start(context, name, options \\ []) do
    node = start_alone([name: name] ++ Keyword.get(options, :vm, []))
    {node, run(context, node, Keyword.delete(options, :vm))}
  end

  # Starts the strategy of a node, which logs to a file. Returns a function that returns the lines which match the option
  # `:log`.
  defp run(context, node, options) do
    file = log_to_file(node)

    options =
      Keyword.merge(
        # With this timeout, a lookup that is slow on a busy machine does not fail. A failure would be one more line.
        [node_name: "{name}-{port}@{host}", keep: 1_000, log: "DNS ", lookup_timeout: 20_000],
        options
      )

    start_strategy(node, context.knot, Keyword.delete(options, :log))
    fn -> file |> File.read!() |> String.split("\n") |> Enum.filter(&(&1 =~ options[:log])) end
  end

  # Waits for lines that match, in this order and without others. A text is the whole line behind the topology.
  defp await_lines(lines, patterns) do
    match? = fn ->
      lines = lines.()

      length(lines) == length(patterns) and
        Enum.all?(Enum.zip(lines, patterns), fn {line, pattern} -> matches?(line, pattern) end)
    end

    assert Eventually.true?(match?, 60_000),
           "expected #{inspect(patterns)}, got: #{inspect(lines.())}"
  end

  defp matches?(line, text) when is_binary(text),
    do: String.ends_with?(line, "[caravan:caravan] " <> text)

  defp matches?(line, pattern), do: line =~ pattern

  defp members(node) do
    {:ok, status} = PeerNode.call(node, Caravan.Cluster, :status, [:caravan])
    status.members
  end

  defp records(context, host, address, port) do
    Knot.put_records(context.knot, [
      "_app._tcp 1 SRV 0 0 #{port} #{host}",
      "#{host} 1 A #{address}",
      # A node elsewhere.
      "_app._tcp 1 SRV 0 0 1 elsewhere",
      "elsewhere 1 A 127.0.0.9"
    ])
  end

  # Nodes with these ports on two hosts, which both have the address of this one.
  defp two_hosts(context, port, peer_port) do
    Knot.put_records(context.knot, [
      "_app._tcp 1 SRV 0 0 #{port} node1",
      "_app._tcp 1 SRV 0 0 #{peer_port} node2",
      "node1 1 A 127.0.0.1",
      "node2 1 A 127.0.0.1"
    ])
  end

  test "a record of this node under another name gives one warning, and is not dialled",
       %{port: port} = context do
    records(context, "node1", "127.0.0.1", port)
    {node, lines} = start(context, "myapp-#{port}@localhost.caravan.test")

    text =
      ~r/ warning: .*DNS calls this node app-#{port}@node1.caravan.test, but its name is myapp-/

    await_lines(lines, [text])
    Host.await(fn -> members(node) == ["app-1@elsewhere.caravan.test"] end, "the members")

    # The record is now that of another host.
    records(context, "node1", "127.0.0.9", port)
    await_lines(lines, [text, ~r/DNS does not name this node, myapp-#{port}/])
    Host.await(fn -> length(members(node)) == 2 end, "the members")
  end

  test "a node that DNS does not name logs this once after the TTL, and logs when DNS names it",
       context do
    records(context, "node1", "127.0.0.9", context.port)
    started = System.monotonic_time(:millisecond)
    {node, lines} = start(context, "app-#{context.port}@node2.caravan.test")

    text = ~r/ info: .*DNS does not name this node, app-#{context.port}@node2/
    await_lines(lines, [text])
    assert System.monotonic_time(:millisecond) - started >= 1_000
    assert length(members(node)) == 2

    records(context, "node2", "127.0.0.9", context.port)
    await_lines(lines, [text, ~r/DNS names this node, app-#{context.port}@node2/])
  end

  test "a node that only some of the answers name logs nothing", context do
    own = "app-#{context.port}@node2.caravan.test"

    put = fn hosts ->
      records = for host <- hosts, do: "_app._tcp 1 SRV 0 0 #{context.port} #{host}"
      addresses = for host <- hosts, do: "#{host} 1 A 127.0.0.9"
      Knot.put_records(context.knot, records ++ addresses)
    end

    put.(["host1"])
    {node, lines} = start(context, own, keep: 600_000)
    count = fn n -> Host.await(fn -> length(members(node)) == n end, "answer #{n}") end
    count.(1)

    # These answers take longer than the TTL, after which a node that no answer has named would log a line.
    for n <- 2..8 do
      put.(["host#{n}"])
      count.(n)
    end

    put.(["node2", "host9"])
    count.(9)
    assert lines.() == []
  end

  test "a name that comes and goes with each answer is logged once", %{port: port} = context do
    own = "app-#{port}@node2.caravan.test"
    records(context, "node2", "127.0.0.1", port)
    {node, lines} = start(context, own)
    Host.await(fn -> members(node) == ["app-1@elsewhere.caravan.test"] end, "the first answer")

    called = ~r/DNS calls this node app-#{port}@node1.caravan.test, but its name is app-/
    named = ~r/DNS names this node, app-#{port}@node2/

    for {host, n} <- Enum.zip(Stream.cycle(["node1", "node2"]), 1..6) do
      Knot.put_records(context.knot, [
        "_app._tcp 1 SRV 0 0 #{port} #{host}",
        "#{host} 1 A 127.0.0.1",
        "_app._tcp 1 SRV 0 0 #{n} elsewhere",
        "elsewhere 1 A 127.0.0.9"
      ])

      Host.await(fn -> "app-#{n}@elsewhere.caravan.test" in members(node) end, "answer #{n}")
    end

    await_lines(lines, [called, named])
  end

  test "a record that names another port on this host gives a warning after the TTL", context do
    records(context, "node1", "127.0.0.1", 1)
    {node, lines} = start(context, "app-#{context.port}@node1.caravan.test")

    await_lines(lines, [
      ~r/DNS names app-1@node1.caravan.test on the host of this node, and not app-#{context.port}@/
    ])

    assert "app-1@node1.caravan.test" in members(node)
  end

  test "with A records, a node with a port in its name, which the records lack, logs a warning after the TTL",
       context do
    Knot.put_records(context.knot, ["_app._tcp 1 A 127.0.0.1"])
    name = "app-#{context.port}@127.0.0.1"
    {node, lines} = start(context, name, type: :a, node_name: "{name}@{ip}")

    await_lines(lines, [
      ~r/DNS names app@127.0.0.1 on the host of this node, and not #{name}.*or let the SRV record or :node_name give the port/
    ])

    assert members(node) == ["app@127.0.0.1"]
  end

  test "a node with another name than in DNS, and its peer, have one warning each", context do
    for {left, host} <- [{"myapp", "node1.caravan.test"}, {"app", "127.0.0.1"}] do
      [port, peer_port] = for _ <- 1..2, do: Host.free_port()

      two_hosts(context, port, peer_port)

      # Listens before its peer dials it. If nothing listened for two seconds, the peer would log that too.
      node = start_alone(name: "#{left}-#{port}@#{host}")
      peer = "app-#{peer_port}@node2.caravan.test"
      {peer_node, peer_lines} = start(%{context | port: peer_port}, peer, log: " warning: ")
      lines = run(%{context | port: port}, node, log: " warning: ")

      await_lines(lines, [
        ~r/DNS calls this node app-#{port}@node1.caravan.test, but its name is #{left}-#{port}@#{host}. Peers dial the first name and are refused. Set RELEASE_NODE=app-#{port}@node1/
      ])

      await_lines(peer_lines, [
        ~r/cannot connect to app-#{port}@node1.caravan.test: the node at 127.0.0.1:#{port} has the name #{left}-#{port}@#{host}. Set RELEASE_NODE there/
      ])

      # This node connects its peer, so both see each other in spite of the name.
      Host.await(fn -> peers(node) == [peer_node.name] end, "the connection")
      for node <- [node, peer_node], do: PeerNode.stop!(node)
    end
  end

  test "a node whose host has capital letters, and its peer, have one warning each", context do
    [port, peer_port] = for _ <- 1..2, do: Host.free_port()
    two_hosts(context, port, peer_port)
    {own, dns} = {"app-#{port}@Node1.caravan.test", "app-#{port}@node1.caravan.test"}

    # Listens before its peer dials it, as above.
    node = start_alone(name: own)
    peer = "app-#{peer_port}@node2.caravan.test"
    {peer_node, peer_lines} = start(%{context | port: peer_port}, peer, log: @warnings)
    lines = run(%{context | port: port}, node, log: @warnings)

    await_lines(lines, [
      "the host of this node, #{own}, has capital letters. Its peers take host names from DNS in lower case, so they cannot " <>
        "connect to it. Name it #{dns}, with RELEASE_NODE or --name"
    ])

    await_lines(peer_lines, [
      "cannot connect to #{dns}: the node at 127.0.0.1:#{port} has the name #{own}. " <>
        "Set RELEASE_NODE there to the name that DNS gives it, or correct the records or the option :node_name"
    ])

    Host.await(fn -> peers(node) == [peer_node.name] end, "the connection")
  end

  test "a node with the host localhost or without a dot cannot connect its peer, and both say so",
       context do
    for host <- ["localhost", "node1"] do
      [port, peer_port] = for _ <- 1..2, do: Host.free_port()

      Knot.put_records(context.knot, [
        "_app._tcp 1 SRV 0 0 #{port} node1",
        "_app._tcp 1 SRV 0 0 #{peer_port} node2",
        "node1 1 A 127.0.0.1",
        "node2 1 A 127.0.0.1"
      ])

      {own, dns, peer} =
        {"app-#{port}@#{host}", "app-#{port}@node1.caravan.test",
         "app-#{peer_port}@node2.caravan.test"}

      # Listens before its peer dials it, as above.
      node = start_alone(name: own)
      {peer_node, peer_lines} = start(%{context | port: peer_port}, peer, log: @warnings)
      lines = run(%{context | port: port}, node, log: @warnings)

      await_lines(lines, [
        "DNS calls this node #{dns}, but its name is #{own}. Peers dial the first name and are refused. " <>
          "Set RELEASE_DISTRIBUTION=name and RELEASE_NODE=#{dns}",
        "cannot connect to #{peer}: this node has a short name, but node2.caravan.test is the host of a long one. " <>
          "Start all nodes with -name, or all with -sname"
      ])

      await_lines(peer_lines, [
        "cannot connect to #{dns}: the node at 127.0.0.1:#{port} has the name #{own}. " <>
          "Set RELEASE_NODE there to the name that DNS gives it, or correct the records or the option :node_name"
      ])

      for node <- [node, peer_node], do: PeerNode.stop!(node)

      # The node with the name that the warning proposes.
      [fixed, peer_node] = for name <- [dns, peer], do: start_alone(name: name)
      lines = run(%{context | port: port}, fixed, log: @warnings)
      peer_lines = run(%{context | port: peer_port}, peer_node, log: @warnings)
      Host.await(fn -> peers(fixed) == [peer_node.name] end, "the connection")
      assert {lines.(), peer_lines.()} == {[], []}
      for node <- [fixed, peer_node], do: PeerNode.stop!(node)
    end
  end

  test "with A records, a node with a port in its name and its peer say which name or port is missing",
       context do
    [port, base_port] = for _ <- 1..2, do: Host.free_port()
    Knot.put_records(context.knot, ["_app._tcp 1 A 127.0.0.1", "_app._tcp 1 A 127.0.0.2"])
    own = "app-#{port}@127.0.0.1"

    [{peer, peer_lines}, {node, lines}] =
      for {port, name} <- [{base_port, "app@127.0.0.2"}, {port, own}] do
        # Else the peer would also listen on the address of this node.
        interface = name |> String.split("@") |> List.last() |> String.replace(".", ",")
        args = ["-kernel", "inet_dist_use_interface", "{#{interface}}"]
        vm = [args: args, env: [{"CARAVAN_BASE_PORT", "#{base_port}"}]]
        options = [type: :a, node_name: "{name}@{ip}", log: @warnings, vm: vm]
        start(%{context | port: port}, name, options)
      end

    refused =
      "cannot connect to app@127.0.0.1: nothing listens on 127.0.0.1:#{base_port}: the node is down, or has another port. " <>
        "This node has base_port #{base_port} and port_rule name, from which the port follows"

    await_lines(lines, [
      "DNS names app@127.0.0.1 on the host of this node, and not #{own}, which is its name. If the record is meant for " <>
        "this node: Set RELEASE_NODE=app@127.0.0.1, or let the SRV record or :node_name give the port of #{own}",
      refused
    ])

    await_lines(peer_lines, [refused])
    # This node connects its peer, so both see each other in spite of the name.
    Host.await(fn -> peers(node) == [peer.name] end, "the connection")
  end

  test "a node with a wrong SRV port, and its peer, have one warning each", context do
    [port, wrong, peer_port] = for _ <- 1..3, do: Host.free_port()

    two_hosts(context, wrong, peer_port)

    peer = "app-#{peer_port}@node2.caravan.test"
    {_peer, peer_lines} = start(%{context | port: peer_port}, peer, log: " warning: ")
    own = "app-#{port}@node1.caravan.test"
    {_node, lines} = start(%{context | port: port}, own, log: " warning: ")
    named = "app-#{wrong}@node1.caravan.test"
    refused = ~r/cannot connect to #{named}: nothing listens on 127.0.0.1:#{wrong}/
    await_lines(peer_lines, [refused])

    # This node takes the record for that of another node until one TTL is over.
    patterns = [~r/DNS names #{named} on the host of this node, and not #{own}/, refused]

    matched? =
      &Enum.all?(patterns, fn pattern -> Enum.any?(&1, fn line -> line =~ pattern end) end)

    Host.await(fn -> matched?.(lines.()) end, "both lines")
    assert length(lines.()) == 2
  end

  test "a node that is not registered, and its peer, have no warning", context do
    [port, peer_port] = for _ <- 1..2, do: Host.free_port()

    Knot.put_records(context.knot, [
      "_app._tcp 1 SRV 0 0 #{peer_port} node2",
      "node2 1 A 127.0.0.1"
    ])

    peer = "app-#{peer_port}@node2.caravan.test"
    {peer, peer_lines} = start(%{context | port: peer_port}, peer, log: "[caravan:")
    own = "app-#{port}@node1.caravan.test"
    {node, lines} = start(%{context | port: port}, own, log: "[caravan:")

    await_lines(lines, [
      ~r/this node is /,
      ~r/connected to #{peer.name}/,
      ~r/ info: .*DNS does not name this node, #{own}/
    ])

    assert peers(peer) == [node.name]
    await_lines(peer_lines, [~r/this node is /])
  end

  test "a node with its own record logs nothing", context do
    records(context, "node1", "127.0.0.1", context.port)
    {node, lines} = start(context, "app-#{context.port}@node1.caravan.test")
    Host.await(fn -> length(members(node)) == 1 end, "the members")
    [strategy] = PeerNode.call(node, Caravan.Cluster.Topologies, :whereis, [:caravan])
    record = fn -> PeerNode.call(node, :sys, :get_state, [strategy]).own_record end
    Host.await(fn -> record.().reported == :named end, "the comparison")
    assert lines.() == []
  end

  test "a node that does not listen connects a node with its host and the port of its name",
       context do
    env = [{"CARAVAN_PORT_RULE", "fixed"}, {"CARAVAN_BASE_PORT", "#{context.port}"}]
    app = start_alone(name: "app@127.0.0.1", env: env)
    admin = start_alone(name: "admin@127.0.0.1", env: env, args: ~w(-dist_listen false))
    Knot.put_records(context.knot, ["_app._tcp 1 A 127.0.0.1"])
    start_strategy(admin, context.knot, type: :a, node_sname: "app", node_name: "{name}@{ip}")
    # The connection is hidden, because one of the nodes does not listen.
    connected = fn -> PeerNode.call(admin, :erlang, :nodes, [:connected]) end
    Host.await(fn -> connected.() == [app.name] end, "the connection")
  end
end
