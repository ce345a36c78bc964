defmodule Caravan.Cluster.DnsStrategy.StartReport do
  # Effect. What the strategy logs when it starts: its queries and nameservers, and which settings of this VM are wrong.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.ConnectAll
  alias Caravan.Cluster.Distribution.Connector
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Distribution.OwnNode
  alias Caravan.Cluster.Distribution.Setup
  alias Caravan.Cluster.NameList
  alias Caravan.Cluster.NodeName
  alias Caravan.Cluster.Report

  @doc "Logs what the strategy starts with, or why it does nothing, and warns of settings that are wrong."
  @spec log(Config.t()) :: :ok
  def log(%Config{sources: []} = config),
    do: Report.log(config, :debug, "query: :ignore. The strategy does nothing")

  def log(config) do
    if Connector.idle?(config) do
      text = "this node is not alive. The strategy does nothing until distribution starts"
      Report.log(config, :info, text, check: "node.alive")
    else
      if Node.alive?(), do: Report.log(config, :info, start_text(config))
      warn_if_not_on_caravan_epmd(config)
      warn_if_host_has_capitals(config)
      warn_if_connect_all(config)
      warn_of_late_settings(config)
    end
  end

  defp start_text(config) do
    queries =
      for {query, type} <- config.sources,
          do: "#{query} (#{type |> Atom.to_string() |> String.upcase()})"

    "this node is #{node()} and #{OwnNode.port_text()}. Queries: #{NameList.sorted(queries)}. " <>
      "Nameservers: #{Report.nameservers(config)}"
  end

  defp warn_if_not_on_caravan_epmd(config) do
    needs_epmd =
      config.ports == :srv or
        Enum.any?(config.templates, fn {_type, template} -> :port in template end)

    case Setup.check() do
      {:error, {reason, advice}} when reason == :not_alive or needs_epmd ->
        check = if reason == :not_alive, do: "node.alive", else: "node.epmd_module"
        Report.log(config, :warning, advice, check: check)

      _ ->
        :ok
    end
  end

  defp warn_of_late_settings(config) do
    for {key, value, in_force} <- OwnNode.late_settings() do
      variable = "CARAVAN_#{key |> Atom.to_string() |> String.upcase()}"

      Report.log(
        config,
        :warning,
        "config :caravan, #{key}: #{inspect(value)} came too late: distribution has started with #{in_force}. A value " <>
          "in config/runtime.exs is read after that. Set #{variable}=#{value} in the environment of the node, such as " <>
          "in rel/env.sh.eex",
        check: "ports.rule"
      )
    end

    :ok
  end

  # The peers of this node would not look for it under such a name.
  defp warn_if_host_has_capitals(config) do
    from_record =
      Enum.any?(config.templates, fn {_type, template} -> NodeName.host_from_record?(template) end)

    case NodeName.aliases(NodeAtom.to_name(node())) do
      [name, lower] when from_record ->
        Report.log(
          config,
          :warning,
          "the host of this node, #{name}, has capital letters. Its peers take host names from DNS in " <>
            "lower case, so they cannot connect to it. Name it #{lower}, with RELEASE_NODE or --name",
          check: "node.host"
        )

      _ ->
        :ok
    end
  end

  # `global` connects this node to all nodes to which its peers are connected.
  defp warn_if_connect_all(%Config{links: :all}), do: :ok

  defp warn_if_connect_all(%Config{links: links} = config) do
    if ConnectAll.in_force() do
      Report.log(
        config,
        :warning,
        "links: #{links} limits the links of this node, but `global` connects it to all nodes to which its peers " <>
          "are connected. Add the line -connect_all false to rel/vm.args.eex and rel/remote.vm.args.eex, on all nodes",
        check: "cluster.connect_all"
      )
    else
      :ok
    end
  end
end
