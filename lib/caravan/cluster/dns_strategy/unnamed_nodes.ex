defmodule Caravan.Cluster.DnsStrategy.UnnamedNodes do
  # Owner-state. Reports visible nodes that are connected although no query names them.
  #
  # A new node may connect before this node has looked up its record, or while a nameserver still returns the records from
  # before. So a node is reported only if it is still connected a minute after its nodeup, and once per nodeup.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.DnsStrategy.Status
  alias Caravan.Cluster.Report
  alias Caravan.Cluster.Topologies
  alias Caravan.Epmd.Peers

  @enforce_keys [:config, :key]
  defstruct @enforce_keys ++ [waiting: %{}]

  @typedoc "`:key` is the registered name of the strategy, and `:waiting` the nodes with the times of their nodeups."
  @opaque t :: %__MODULE__{config: Config.t(), key: atom, waiting: %{node => integer}}

  # Milliseconds from a nodeup to the report.
  @patience 60_000

  @spec new(Config.t(), key :: atom) :: t
  def new(%Config{} = config, key), do: %__MODULE__{config: config, key: key}

  @doc "Adds the visible nodes that are connected already."
  @spec start(t, now :: integer) :: t
  def start(%__MODULE__{} = unnamed, now),
    do: Enum.reduce(:erlang.nodes(:visible), unnamed, &nodeup(&2, &1, [node_type: :visible], now))

  @doc "Adds the node of a nodeup, if it is visible. `info` is that of `:net_kernel.monitor_nodes/2`."
  @spec nodeup(t, node, info :: term, now :: integer) :: t
  def nodeup(%__MODULE__{} = unnamed, node, [node_type: :visible], now),
    do: put_in(unnamed.waiting[node], now)

  def nodeup(%__MODULE__{} = unnamed, _node, _info, _now), do: unnamed

  @spec nodedown(t, node) :: t
  def nodedown(%__MODULE__{} = unnamed, node),
    do: %{unnamed | waiting: Map.delete(unnamed.waiting, node)}

  @doc """
  Reports the nodes that came up at least a minute ago and that no query of this VM names. Call it when
  `Caravan.Epmd.Peers` has all nodes that the queries of the topology name.
  """
  @spec report(t, now :: integer) :: t
  def report(%__MODULE__{} = unnamed, now) do
    {due, waiting} = Enum.split_with(unnamed.waiting, fn {_node, at} -> now - at >= @patience end)
    others = Topologies.all() -- [unnamed.key]
    others = for key <- others, %{sources: [_ | _]} <- [Status.config(key)], do: key

    cond do
      due == [] ->
        unnamed

      # If the peer table lacks nodes of another topology, a query of that topology may name the nodes that are due.
      not Enum.all?(others, &Status.complete?/1) ->
        unnamed

      # Several strategies see the same nodes. The first one reports them.
      Enum.min([unnamed.key | others]) == unnamed.key ->
        names = for {node, _at} <- due, do: NodeAtom.to_name(node)
        named = for {name, _port, _addresses} <- Peers.list(), do: name
        :ok = Report.unnamed(unnamed.config, names -- named)
        %{unnamed | waiting: Map.new(waiting)}

      true ->
        %{unnamed | waiting: Map.new(waiting)}
    end
  end
end
