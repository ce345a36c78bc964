defmodule Caravan.Cluster.Distribution.Drain do
  # Effect. Leaving the cluster, and staying out of it.
  #
  # OTP has no switch for that. net_kernel:allow/1 cannot be taken back. A node that is disconnected again
  # whenever it connects comes and goes for all its peers. So a drain does three things:
  #
  #   * It puts each peer into quarantine by cookie. A peer that dials this node then fails in the handshake
  #     and never sees a nodeup, with Caravan or without. So does a connection that OTP sets up because a
  #     process here sends a message. Hidden nodes that are not members are not peers: a remote console
  #     can still connect.
  #   * It tells the strategies of its peers. They then dial this node once a minute, and not at once.
  #   * It calls global:disconnect/0 (OTP 25.1), which reports no lost connections to other nodes. Because of
  #     such reports, prevent_overlapping_partitions makes them disconnect healthy nodes.
  #
  # A node that another strategy of this VM knows is exempt, unless that strategy is drained too. Each leave
  # asks all strategies for these names, because what a strategy knows ends with it. If a strategy cannot
  # answer in time, its nodes are put into quarantine, and its next connects release them.
  @moduledoc false

  alias Caravan.Cluster.Distribution.ConnectAll
  alias Caravan.Cluster.Distribution.Cookies
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Topologies

  @typedoc """
  The name under which the strategy is registered. It is the same on all nodes that start the same
  strategies, so it is also the name under which a peer's strategy is called.
  """
  @type key :: Cookies.key()

  # Milliseconds to wait for the replies of other strategies, here and on peers.
  @reply_timeout 1_000

  # Milliseconds that `leave/2` takes at most.
  @deadline 10_000

  # Milliseconds to wait until the nodes that :global.disconnect/0 disconnects are no longer listed.
  @retry_after 50

  @doc "Returns how many milliseconds `leave/2` takes at most."
  @spec deadline() :: pos_integer
  def deadline, do: @deadline

  @doc "Returns whether the strategy is drained."
  @spec drained?(key) :: boolean
  def drained?(key), do: key in Cookies.drained()

  @doc "Marks the strategy as drained. A crash of the strategy does not change that."
  @spec start(key) :: :ok
  def start(key), do: Cookies.add_key(key)

  @doc "Marks the strategy as not drained. When all strategies have resumed, all peers can connect again."
  @spec resume(key) :: :ok
  def resume(key), do: Cookies.delete_key(key)

  @doc """
  Tells the peers that this node leaves, and disconnects them, until only exempt nodes are connected. Returns the exempt
  nodes.

  `known` are the names that the strategy knows. Their nodes are put into quarantine even if they are not connected.
  Run it as a job.
  """
  @spec leave(key, known :: [String.t()]) :: exempt :: [node]
  def leave(key, known) do
    if Node.alive?() and drained?(key) do
      exempt = Topologies.all() |> call_all(:peer_names) |> List.flatten() |> nodes()
      :ok = Cookies.quarantine(key, Enum.uniq(Node.list() ++ nodes(known)) -- exempt)

      case to_disconnect(exempt) do
        [] ->
          exempt

        nodes ->
          peers = for key <- Cookies.drained(), node <- nodes, do: {key, node}
          _ = call_all(peers, {:draining, node()})
          disconnect(nodes)
          leave(key, known)
      end
    else
      []
    end
  end

  @doc "Returns whether a node is connected that has to be disconnected. `exempt` are nodes that may be connected."
  @spec unexpected_connections?(exempt :: [node]) :: boolean
  def unexpected_connections?(exempt), do: to_disconnect(exempt) != []

  @doc """
  Releases a node, if the drain of another strategy has put it into quarantine.

  A strategy that is not drained calls this before it connects the node.
  """
  @spec release(key, String.t()) :: :ok
  def release(key, name) do
    {:ok, node} = NodeAtom.existing(name)
    Cookies.release(key, node)
  end

  # A hidden node that is in quarantine is a member with a hidden connection.
  defp to_disconnect(exempt),
    do: (Node.list() ++ Enum.filter(Node.list(:hidden), &Cookies.quarantined?/1)) -- exempt

  # Returns the replies that come in time.
  defp call_all(servers, request) do
    deadline = System.monotonic_time(:millisecond) + @reply_timeout
    requests = for server <- servers, do: :gen_server.send_request(server, request)

    for id <- requests,
        {:reply, reply} <- [:gen_server.receive_response(id, {:abs, deadline})],
        do: reply
  end

  # :global.disconnect/0 disconnects all nodes. The other strategies dial exempt nodes again at once. If only some nodes
  # of a mesh were disconnected, `global` would close connections between the other nodes.
  defp disconnect(nodes) do
    visible = Enum.any?(Node.list(), &(&1 in nodes))
    mesh = visible and ConnectAll.in_force()
    _ = if mesh and function_exported?(:global, :disconnect, 0), do: :global.disconnect()

    # `global` does not know nodes that are hidden, or that came up a moment ago.
    _ = if mesh and still_connected(nodes) != [], do: Process.sleep(@retry_after)
    Enum.each(still_connected(nodes), &Node.disconnect/1)
  end

  defp still_connected(nodes), do: Enum.filter(Node.list(:connected), &(&1 in nodes))

  # A name without an atom has never been connected.
  defp nodes(names), do: for(name <- names, {:ok, node} <- [NodeAtom.existing(name)], do: node)
end
