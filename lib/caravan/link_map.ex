defmodule Caravan.LinkMap do
  # Effect. Asks the nodes of this cluster for their connections. It connects no node: only nodes that are connected
  # already are asked.
  @moduledoc false

  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.DnsStrategy.Status
  alias Caravan.Cluster.Job
  alias Caravan.Cluster.Topologies
  alias Caravan.Epmd.PortRule
  alias Caravan.LinkMap.Matrix

  @doc "Returns the links of this node and of all nodes that are connected to it, within `timeout` milliseconds."
  @spec collect(timeout :: pos_integer) :: Matrix.t()
  def collect(timeout) do
    views = views(nodes(:connected), timeout)
    Matrix.new(name(node()), Map.put(views, name(node()), own_view()))
  end

  @doc "Returns the connected nodes of this kind, without temporary nodes such as that of `bin/app rpc`."
  @spec nodes(:connected | :visible) :: [node]
  def nodes(kind), do: Enum.reject(Node.list(kind), &temporary?/1)

  @doc "Asks connected nodes for their links, within `timeout` milliseconds. Returns the answers by name."
  @spec views([node], timeout :: pos_integer) :: %{String.t() => Matrix.view()}
  def views(nodes, timeout) do
    # A process for each node, because a busy connection blocks the process that asks.
    jobs = for node <- nodes, do: {node, Job.start(fn -> ask(node, timeout) end, timeout)}
    for {node, job} <- jobs, into: %{}, do: {name(node), view(Job.await(job))}
  end

  @doc "Returns the links of this node."
  @spec own_view() :: Matrix.view()
  def own_view, do: view({:ok, {Node.list(:visible), Node.list(:hidden), wanted()}})

  defp ask(node, timeout) do
    [visible, hidden] =
      for type <- [:visible, :hidden], do: :erpc.call(node, :erlang, :nodes, [type], timeout)

    {visible, hidden, wanted(node, timeout)}
  end

  # A node without Caravan takes part in the full mesh.
  defp wanted(node, timeout) do
    :erpc.call(node, __MODULE__, :wanted, [], timeout)
  catch
    :error, {:exception, _undef, _stacktrace} -> :all
  end

  @doc """
  Returns the nodes that this node wants to be connected to: `:all`, or their names if a topology has the option
  `links: k`.
  """
  @spec wanted() :: :all | [String.t()]
  def wanted do
    topologies = for key <- Topologies.all(), config = Status.config(key), do: {key, config.links}

    if Enum.all?(topologies, fn {_key, links} -> links == :all end),
      do: :all,
      else: Enum.flat_map(topologies, fn {key, links} -> wanted_by(Status.read(key), links) end)
  end

  defp wanted_by({:ok, status}, :all), do: status.members

  defp wanted_by({:ok, status}, _k),
    do: status.links.preferred ++ Enum.map(status.missing, & &1.node)

  defp wanted_by({:error, :not_running}, _links), do: []

  defp view({:ok, {visible, hidden, wanted}}),
    do: %{visible: names(visible), hidden: names(hidden), wanted: wanted}

  defp view({:error, _reason}), do: nil

  defp names(nodes), do: for(node <- nodes, not temporary?(node), do: name(node))

  # A temporary node ends with its command.
  defp temporary?(node), do: PortRule.port(node) == {:error, :temporary}

  defp name(node), do: NodeAtom.to_name(node)
end
