defmodule Caravan.Cluster.DnsStrategy.BothSidesTest do
  @moduledoc "What two or three real nodes log when one cannot connect to the other, or when they start together."
  use ExUnit.Case, async: true

  import Caravan.Test.Cluster

  alias Caravan.Test.Eventually
  alias Caravan.Test.Host
  alias Caravan.Test.Knot
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag(:knotd)

  # With this timeout, a lookup that is slow on a busy machine does not fail. A failure would be one more line.
  @strategy [lookup_timeout: 20_000]

  setup do
    %{knot: start_supervised!({Knot, zone: zone(), records: []})}
  end

  # Starts the strategies of the nodes. Returns a function for each node, which returns the lines of its log.
  defp run(context, nodes) do
    logs = Enum.map(nodes, &log_of(&1, :info))
    for node <- nodes, do: start_strategy(node, context.knot, @strategy)
    for log <- logs, do: fn -> log.() |> String.split("\n") |> Enum.filter(&told?/1) end
  end

  # Returns whether a line is one of Caravan, or a notice, warning or error of OTP.
  defp told?(line), do: line =~ "[caravan:" or line =~ ~r/ (notice|warning|error): /

  # Waits until the lines of a node are these and no others. A text is one line of Caravan without its time. A regular
  # expression is a line of OTP, which may log it many times.
  defp await_lines(lines, patterns) do
    texts = Enum.filter(patterns, &is_binary/1)

    expected? = fn ->
      {caravan, otp} = Enum.split_with(lines.(), &(&1 =~ "[caravan:"))

      Enum.sort(Enum.map(caravan, &text/1)) == Enum.sort(texts) and
        Enum.all?(otp, fn line -> Enum.any?(patterns -- texts, &(line =~ &1)) end) and
        Enum.all?(patterns -- texts, fn pattern -> Enum.any?(otp, &(&1 =~ pattern)) end)
    end

    assert Eventually.true?(expected?, 60_000),
           "expected #{inspect(patterns)}, got: #{inspect(lines.())}"
  end

  # Drops the time, which comes before the level.
  defp text(line) do
    [_time, text] = String.split(line, " ", parts: 2)
    text
  end

  defp info(text), do: "info: [caravan:caravan] #{text}"
  defp warning(text), do: "warning: [caravan:caravan] #{text}"

  # Returns the line of the start of the strategy.
  defp started(node, knot) do
    info(
      "this node is #{node.name} and listens on port #{PeerNode.port(node)} (from its name). " <>
        "Queries: _app._tcp.caravan.test (SRV). Nameservers: #{Knot.address(knot)}"
    )
  end

  # Returns how many times the strategy on `node` has failed to connect to another node since it was connected last.
  defp failures(node, other) do
    [strategy] = PeerNode.call(node, Caravan.Cluster.Topologies, :whereis, [:caravan])
    state = PeerNode.call(node, :sys, :get_state, [strategy])

    with %{connect_failures: failures} <- state.membership.peers["#{other.name}"],
         do: failures
  end

  defp await_failures(node, other, count) do
    # Before the first answer, there is no number.
    failed? = fn -> (failures(node, other) || 0) >= count end
    Host.await(failed?, "#{count} failures of #{node.name}", 60_000)
  end

  # Waits for further attempts to connect, which add no line of Caravan.
  defp await_more_failures(node, other),
    do: await_failures(node, other, failures(node, other) + 2)

  defp rejected(name),
    do:
      ~r/ error: \*\* Connection attempt from node '#{name}' rejected. Invalid challenge reply. \*\*$/

  test "two nodes with different cookies have one warning each, and OTP's line for each attempt",
       context do
    nodes = [a, b] = [start_alone(), start_alone(args: ~w(-setcookie other))]
    put_records(context.knot, nodes)
    [a_lines, b_lines] = run(context, nodes)

    lines = fn node, other ->
      [
        started(node, context.knot),
        warning(
          "cannot connect to #{other.name}: the node at 127.0.0.1:#{PeerNode.port(other)} refuses the cookie of this node. " <>
            "Set the same RELEASE_COOKIE on both nodes"
        ),
        # The attempts of the other node to connect, and its search for the cause.
        rejected(other.name),
        rejected("caravan-probe-\\d+@127.0.0.1")
      ]
    end

    assert_lines = fn ->
      await_lines(a_lines, lines.(a, b))
      await_lines(b_lines, lines.(b, a))
    end

    assert_lines.()
    await_more_failures(a, b)
    await_more_failures(b, a)
    assert_lines.()
  end

  test "a node with TLS and a node without have one warning each, and OTP's notice at the first",
       context do
    # For these seconds, the node without TLS waits for the rest of a message, and the other node for an answer.
    setup_time = ~w(-kernel net_setuptime 3)

    nodes =
      [tls, plain] =
      for args <- [PeerNode.tls_args(), []], do: start_alone(args: setup_time ++ args)

    put_records(context.knot, nodes)
    [tls_lines, plain_lines] = run(context, nodes)
    both = "Use -proto_dist inet_tls on both nodes or on neither"

    assert_lines = fn ->
      await_lines(tls_lines, [
        started(tls, context.knot),
        warning(
          "cannot connect to #{plain.name}: 127.0.0.1:#{PeerNode.port(plain)} does not speak TLS, and this node does. #{both}"
        ),
        ~r/ notice: TLS server: In state \w+ at \w+.erl:\d+ generated SERVER ALERT: Fatal - Unexpected Message/
      ])

      await_lines(plain_lines, [
        started(plain, context.knot),
        warning(
          "cannot connect to #{tls.name}: 127.0.0.1:#{PeerNode.port(tls)} speaks TLS, and this node does not. #{both}"
        )
      ])
    end

    assert_lines.()
    # The node without TLS has failed many times by then, because its attempts fail at once.
    await_more_failures(tls, plain)
    assert_lines.()
  end

  test "a node that listens on another address than DNS says has no warning, and its peer has one",
       context do
    a = start_alone()
    b = start_alone(args: ["-kernel", "inet_dist_use_interface", "{127,0,0,2}"])
    put_records(context.knot, [a, b])
    [a_lines] = run(context, [a])
    port = PeerNode.port(b)

    refused =
      warning(
        "cannot connect to #{b.name}: nothing listens on 127.0.0.1:#{port}: the node is down, or has another port"
      )

    await_lines(a_lines, [started(a, context.knot), refused])
    await_more_failures(a, b)
    # The node does connect its peer, so both see each other in spite of the address.
    [b_lines] = run(context, [b])
    await_mesh([a, b])
    await_lines(b_lines, [started(b, context.knot), info("connected to #{a.name}")])
    await_lines(a_lines, [started(a, context.knot), refused, info("connected to #{b.name}")])
  end

  test "two nodes have one warning each for a member that does not run, until it does", context do
    nodes = [a, b] = [start_alone(), start_alone()]
    name = PeerNode.name("app")
    port = PeerNode.port(name)

    Knot.put_records(
      context.knot,
      for(
        port <- [port | Enum.map(nodes, &PeerNode.port/1)],
        do: "_app._tcp 1 SRV 0 0 #{port} host"
      )
    )

    logs = run(context, nodes)

    lines = fn node, other ->
      [
        started(node, context.knot),
        info("connected to #{other.name}"),
        warning(
          "cannot connect to #{name}: nothing listens on 127.0.0.1:#{port}: the node is down, or has another port"
        )
      ]
    end

    expected = [lines.(a, b), lines.(b, a)]
    for {log, expected} <- Enum.zip(logs, expected), do: await_lines(log, expected)
    for node <- nodes, do: await_more_failures(node, %{name: name})

    c = start_alone(name: name)
    [c_log] = run(context, [c])
    await_mesh([a, b, c])

    for {log, expected} <- Enum.zip(logs, expected),
        do: await_lines(log, [info("connected to #{name}") | expected])

    connected = for node <- nodes, do: info("connected to #{node.name}")
    await_lines(c_log, [started(c, context.knot) | connected])
  end

  test "nodes that start within two seconds of each other have no warning", context do
    # On a busy machine, one of five tries has to be fast.
    assert Enum.any?(1..5, fn _try -> start_together(context) < 2_000 end)
  end

  # Starts three nodes, the first of which dials the others in vain before they listen. Returns the milliseconds until all
  # are connected. If these are fewer than two seconds, no node may have logged a warning.
  defp start_together(context) do
    # These VMs have booted already when they take their names. A boot may take longer than two seconds.
    vms = for _ <- 1..3, do: start_alone(name: nil)
    names = for _ <- vms, do: String.to_atom(PeerNode.name("app"))
    nodes = [first | others] = for {vm, name} <- Enum.zip(vms, names), do: %{vm | name: name}
    put_records(context.knot, nodes)
    began = System.monotonic_time(:millisecond)
    name!(first)
    [log] = run(context, [first])
    for other <- others, do: await_failures(first, other, 2)
    Enum.each(others, &name!/1)
    logs = [log | run(context, others)]
    await_mesh(nodes)
    took = System.monotonic_time(:millisecond) - began

    if took < 2_000 do
      for {node, log} <- Enum.zip(nodes, logs) do
        connected = for other <- nodes -- [node], do: info("connected to #{other.name}")
        await_lines(log, [started(node, context.knot) | connected])
      end
    end

    Enum.each(nodes, &PeerNode.stop!/1)
    took
  end

  defp name!(node) do
    {:ok, _} = PeerNode.call(node, :net_kernel, :start, [[node.name, :longnames]])
    true = PeerNode.call(node, :erlang, :set_cookie, [:caravan_test])
  end
end
