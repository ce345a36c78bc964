defmodule Caravan.Doctor.Checks.Cluster do
  # Effect. The checks of the cluster as a whole: its topologies, the number of connected nodes, and what these say of
  # their connections and settings.
  @moduledoc false

  alias Caravan.Cluster.Distribution.ConnectAll
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.NameList
  alias Caravan.Doctor.Check
  alias Caravan.Doctor.Context
  alias Caravan.LinkMap
  alias Caravan.LinkMap.Matrix

  # Milliseconds that connected nodes have to answer.
  @rpc_timeout 2_000

  # The maximum number of nodes that are asked for their links, and the maximum number of nodes in one finding.
  @asked 32
  @shown 5

  @doc "Returns the checks. `nodes` is the number of nodes that are to be connected."
  @spec checks(Context.t(), nodes :: non_neg_integer) :: [Check.t()]
  def checks(%Context{mode: :project} = context, _nodes),
    do: [Check.new("cluster.topology", [grounds: ["node.nif"]], fn -> known(context) end)]

  def checks(context, nodes) do
    alive = [grounds: ["node.alive"]]
    loaded = [grounds: ["node.alive", "node.nif"]]

    [
      Check.new("cluster.topology", loaded, fn -> known(context) end),
      Check.new("cluster.nodes", alive, fn -> enough(context, nodes) end),
      Check.new("cluster.mesh", loaded, fn -> mesh(context) end),
      Check.new("cluster.connect_all", alive, fn -> connect_all(context) end)
    ]
  end

  defp known(%{stopped: [{{app, _role} = place, topology} | _], mode: :node}) do
    {:failed,
     "the topology #{inspect(topology)} of the configuration of #{inspect(app)} does not run",
     "a strategy that runs", "#{child(place)} in the children of the application's supervisor"}
  end

  # In development, :query is usually :ignore. The node has no name there, so node.alive fails, and this check is skipped.
  defp known(%{ignored: [topology | _], mode: mode}) do
    seen = "the topology #{inspect(topology)} looks up nothing, because its :query is :ignore"

    if mode == :project,
      do: {:skipped, seen},
      else:
        {:warning, seen, "a DNS name as :query",
         "the environment variable from which config/runtime.exs takes :query, such as CARAVAN_QUERY=app.internal"}
  end

  defp known(%{topologies: [], mode: :project}),
    do: {:skipped, "the configuration has no topology. mix caravan.lookup looks up a name"}

  # No strategy runs in eval. Options that are written in a supervisor, and not in the configuration, are unknown here.
  defp known(%{topologies: [], mode: :eval}) do
    {:warning, "the configuration has no topology, so no lookup and no member is checked",
     "config :app, Caravan.Cluster.DnsStrategy, query: \"app.internal\" in config/runtime.exs, or libcluster's :topologies",
     "Caravan.doctor!(strategy: [query: \"app.internal\"])"}
  end

  defp known(%{topologies: []}) do
    {:warning, "no topology runs in this VM, and the configuration has none",
     "a Caravan.Cluster.DnsStrategy",
     ~s({Caravan.Cluster.DnsStrategy, query: "app.internal"} in the children of the application's supervisor)}
  end

  defp known(%{topologies: topologies}),
    do: {:ok, Enum.map_join(topologies, ", ", &Context.topology_name/1)}

  defp child({:libcluster, _role}),
    do: "{Cluster.Supervisor, [topologies, [name: App.ClusterSupervisor]]}"

  # With roles, the configuration has the options of each role under its name (Caravan.Gen.RuntimeExs).
  defp child({app, role}) do
    of_role = if role, do: "[#{inspect(role)}]"

    "{Caravan.Cluster.DnsStrategy, Application.fetch_env!(#{inspect(app)}, Caravan.Cluster.DnsStrategy)#{of_role}}"
  end

  defp enough(%{mode: :eval}, _nodes), do: {:skipped, "this VM is not the node"}

  defp enough(_context, nodes) do
    case length(Node.list()) do
      connected when connected >= nodes ->
        {:ok, "#{connected} nodes are connected"}

      connected ->
        {:failed, "#{connected} nodes are connected", "#{nodes} nodes at least",
         "see the other findings"}
    end
  end

  # Asks the connected nodes.
  defp connect_all(%{mode: :eval}), do: {:skipped, "this VM is not the node"}

  defp connect_all(_context) do
    own = ConnectAll.in_force()

    case for {node, value} <- ConnectAll.of(Node.list(), @rpc_timeout), value != own, do: node do
      [] ->
        {:ok, "connect_all is #{own} on the connected nodes that answer"}

      differing ->
        {:warning,
         "connect_all is #{own} here, and #{not own} on #{length(differing)} connected nodes",
         "the same value on all nodes", ConnectAll.advice(differing)}
    end
  end

  # A link that neither node wants, because of the option :links, is not missing.
  defp mesh(%{mode: :eval}), do: {:skipped, "this VM is not the node"}

  defp mesh(context) do
    nodes = LinkMap.nodes(:visible)
    asked = Enum.take_random(nodes, @asked)
    views = LinkMap.views(asked, @rpc_timeout)
    replies = Enum.count(views, fn {_name, view} -> view != nil end)
    seen = "#{replies} of #{length(asked)} connected nodes that were asked have replied"

    case nodes |> Enum.map(&NodeAtom.to_name/1) |> groups(context) |> Matrix.lacking(views) do
      [] ->
        {:ok, "#{seen}. They have the links that this node has"}

      lacking ->
        texts = for {name, lacks} <- lacking, do: "#{name} has no link to #{shown(lacks)}"

        {:warning, "#{seen}. #{shown(texts)}", "links to the nodes to which this node has one",
         "the doctor on that node says why: bin/app rpc 'Caravan.doctor!()'. IO.puts(Caravan.map()) shows all links"}
    end
  end

  # With `connect_all`, all nodes are to be connected with each other. Without it, those of each topology are.
  defp groups(names, %{topologies: topologies} = context) do
    if ConnectAll.in_force() or topologies == [] do
      [names]
    else
      for config <- topologies do
        members = MapSet.new(Context.members(context, config))
        Enum.filter(names, &(&1 in members))
      end
    end
  end

  defp shown(texts), do: NameList.text(texts, @shown)
end
