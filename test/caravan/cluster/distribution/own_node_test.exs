defmodule Caravan.Cluster.Distribution.OwnNodeTest do
  @moduledoc "What a strategy logs about its node when it starts."
  use ExUnit.Case, async: true

  import Caravan.Test.Cluster

  alias Caravan.Cluster.Distribution.OwnNode
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  # Starts a strategy on a node, and returns the lines that match.
  defp lines(node, text, options \\ []) do
    file = log_to_file(node)

    options =
      Keyword.merge(
        [query: ["a.test", "b.test"], type: [:srv, :a], node_name: "{name}@x", node_sname: "app"] ++
          [nameservers: ["127.0.0.1:1"], poll_interval: 3_600_000, max_nodes: 1],
        options
      )

    :ok = PeerNode.call(node, Caravan.Test.Cluster, :run_strategy, [options])
    found = fn -> file |> File.read!() |> String.split("\n") |> Enum.filter(&(&1 =~ text)) end
    # The lookups fail after everything that the strategy logs when it starts.
    Host.await(fn -> File.read!(file) =~ "DNS lookup" end, "a failed lookup")
    found.()
  end

  test "the first line has the node, its port, the queries and the nameservers" do
    node = start_alone()
    assert [line] = lines(node, "this node is")

    assert line =~
             "this node is #{node.name} and listens on port #{PeerNode.port(node)} (from its name). Queries: " <>
               "a.test (A), a.test (SRV), b.test (A), b.test (SRV). Nameservers: 127.0.0.1:1"
  end

  test "the first line says where the port comes from" do
    for {name, env, origin} <- [
          {"app", [CARAVAN_BASE_PORT: 0], "the base port"},
          {"app-2", [CARAVAN_BASE_PORT: -2], "the base port + the number in its name"},
          {"app-01JEADXHQV7", [CARAVAN_BASE_PORT: -7],
           "the base port + the number in its name. If the name is generated, set CARAVAN_PORT_RULE=fixed"},
          {"app-4001", [CARAVAN_BASE_PORT: 0, CARAVAN_PORT_RULE: "fixed"],
           "the base port, because port_rule is fixed"},
          {"app-4001", [CARAVAN_LISTEN_PORT: 0], "the setting listen_port"}
        ] do
      port = Host.free_port()

      env =
        for {key, value} <- env,
            do: {"#{key}", "#{if is_integer(value), do: port + value, else: value}"}

      node = start_alone(name: "#{name}@127.0.0.1", env: env)
      assert PeerNode.call(node, OwnNode, :port_text, []) == "listens on port #{port} (#{origin})"
      PeerNode.stop!(node)
    end
  end

  test "a setting that came after the start of distribution is a warning with the variable to set" do
    node = start_alone()

    for {key, value} <- [base_port: 5_000, port_rule: :fixed, listen_port: 5_001],
        do: :ok = PeerNode.call(node, :application, :set_env, [:caravan, key, value])

    lines = lines(node, "came too late")

    for {text, variable} <- [
          {"config :caravan, base_port: 5000 came too late: distribution has started with 4370",
           "CARAVAN_BASE_PORT=5000"},
          {"config :caravan, port_rule: :fixed came too late: distribution has started with name",
           "CARAVAN_PORT_RULE=fixed"},
          {"config :caravan, listen_port: 5001 came too late: distribution has started with #{PeerNode.port(node)}",
           "CARAVAN_LISTEN_PORT=5001"}
        ],
        do: assert([_] = Enum.filter(lines, &(&1 =~ text and &1 =~ variable)))

    assert length(lines) == 3
  end

  test "settings that came in time are no warning" do
    port = Host.free_port()
    env = [{"CARAVAN_BASE_PORT", "2000"}, {"CARAVAN_LISTEN_PORT", "#{port}"}]
    node = start_alone(name: "app-4001@127.0.0.1", env: env)
    :ok = PeerNode.call(node, :application, :set_env, [:caravan, :base_port, 2_000])
    assert PeerNode.call(node, OwnNode, :late_settings, []) == []

    :ok = PeerNode.stop!(node)

    node =
      start_alone(
        name: "app-4001@127.0.0.1",
        env: [{"CARAVAN_PORT_RULE", "fixed"}, {"CARAVAN_BASE_PORT", "#{port}"}]
      )

    assert PeerNode.call(node, OwnNode, :late_settings, []) == []
  end
end
