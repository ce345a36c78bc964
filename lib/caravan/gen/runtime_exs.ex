defmodule Caravan.Gen.RuntimeExs do
  # Pure. The lines of Elixir that the user adds to the project.
  @moduledoc false

  alias Caravan.Gen.Options
  alias Caravan.Gen.Platform

  @doc "Returns the lines for `config/runtime.exs`. Without the variables, as in development, the strategy does nothing."
  @spec config(Options.t()) :: String.t()
  def config(%Options{app: app, roles: []} = options) do
    """
    config :#{app}, Caravan.Cluster.DnsStrategy,
      #{options |> topology(app, nil) |> Enum.join(",\n  ")}
    """
  end

  def config(%Options{app: app, roles: [core | others]} = options) do
    topologies =
      [{core, "links: links"} | for(role <- others, do: {role, "links: 0"})]
      |> Enum.map_join(",\n", fn {role, links} ->
        lines = topology(options, role, role) ++ [links]
        "  #{role}: [\n    #{Enum.join(lines, ",\n    ")}\n  ]"
      end)

    """
    # Each node looks up all nodes. The #{core} nodes connect to each other, and each other node to three of them. A VM of
    # another role, such as one that runs migrations, does as the other nodes do.
    links =
      case System.get_env("CARAVAN_ROLE", "#{core}") do
        "#{core}" -> :all
        _ -> 3
      end

    config :#{app}, Caravan.Cluster.DnsStrategy,
    #{topologies}
    """
  end

  @doc "Returns the children for the supervision tree."
  @spec child(Options.t()) :: String.t()
  def child(%Options{app: app} = options) do
    all = "Application.fetch_env!(:#{app}, Caravan.Cluster.DnsStrategy)"

    Enum.map_join(Options.roles(options), ",\n", fn role ->
      "{Caravan.Cluster.DnsStrategy, #{all}#{if role, do: "[:#{role}]"}}"
    end) <> "\n"
  end

  defp topology(options, name, role) do
    [
      "topology: :#{name}",
      ~s[query: System.get_env("#{Options.variable(role)}") || :ignore],
      "type: #{inspect(type(options))}"
    ] ++ more(options.platform)
  end

  # Each host of Nomad runs an agent of Consul. The SRV targets in its answers begin with the address of a node, as the hosts
  # of the node names do. Over UDP, the agent leaves out the records that do not fit, and does not say so: an answer has about
  # eleven records at most (trimUDPResponse in agent/dns.go).
  defp more(%Platform{name: "nomad"}),
    do: [
      ~s(node_name: "{name}-{port}@{host_label}.addr"),
      ~s(nameservers: ["tcp://127.0.0.1:8600"])
    ]

  defp more(_platform), do: []

  defp type(%Options{platform: %Platform{type: :a}, ipv6: true}), do: :aaaa
  defp type(%Options{platform: platform}), do: platform.type
end
