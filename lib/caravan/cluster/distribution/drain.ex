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
  #   * It tells the strategies on the peers. They then dial this node only every 30 to 60 seconds.
  #   * It calls global:disconnect/0 (OTP 25.1), which reports no lost connections to other nodes. Because of
  #     such reports, prevent_overlapping_partitions makes them disconnect healthy nodes.
  #
  # A node that another strategy of this VM names is exempt, unless that strategy is drained too. A new node may look up
  # this node before this node looks up the new one. So a connected node is also exempt if it runs a strategy of the same
  # name as that other strategy, and this one wants a link to this node. Each job asks all strategies again, so a strategy
  # that has ended exempts no node. While a strategy of this VM does not reply or has had no answer yet, its nodes are
  # unknown, and no node is disconnected.
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

  # Milliseconds after which the job that runs `leave/2` is ended.
  @deadline 10_000

  # Milliseconds to wait until the nodes that :global.disconnect/0 disconnects are no longer listed, and before exempt
  # nodes that are unknown are asked for again.
  @retry_after 50

  @doc "Returns the deadline of the job that runs `leave/2`, in milliseconds. `leave/2` itself has none."
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

  A node whose strategy does not reply, or has had no answer yet, stays connected, but is not among the returned nodes.
  So the next check asks it again.

  `known` are the names that the strategy knows. Their nodes are put into quarantine even if they are not connected.
  Run the function as a job with `deadline/0`, because it has no deadline of its own.
  """
  @spec leave(key, known :: [String.t()]) :: exempt :: [node]
  def leave(key, known) do
    case exempt(key) do
      {:ok, exempt, unsure} ->
        if disconnect_all(key, known, exempt) == [], do: exempt -- unsure, else: leave(key, known)

      :unknown ->
        Process.sleep(@retry_after)
        leave(key, known)

      :not_drained ->
        []
    end
  end

  @doc """
  Disconnects the nodes that have connected after `leave/2`. Returns the nodes that may stay connected, or `[]` if they
  are unknown.

  If `connect_all` is in force and an exempt node is connected, all nodes stay connected. `:global.disconnect/0` would
  disconnect the exempt nodes too. Without `:global.disconnect/0`, `global` would close connections between healthy
  nodes. The result lacks the nodes whose strategy has not decided, as that of `leave/2` does. Run the function as a job.
  """
  @spec keep_out(key) :: [node]
  def keep_out(key) do
    case exempt(key) do
      {:ok, exempt, unsure} ->
        if ConnectAll.in_force() and Enum.any?(Node.list(), &(&1 in exempt)) do
          Node.list(:connected) -- unsure
        else
          _ = disconnect_all(key, [], exempt)
          exempt -- unsure
        end

      _unknown_or_not_drained ->
        []
    end
  end

  # Returns the nodes that were connected and not exempt.
  defp disconnect_all(key, known, exempt) do
    :ok = Cookies.quarantine(key, Enum.uniq(Node.list() ++ nodes(known)) -- exempt)
    nodes = to_disconnect(exempt)

    if nodes != [] do
      requests =
        for key <- Cookies.drained(), node <- nodes, do: {{key, node}, {:draining, node()}}

      _ = ask(requests)
      disconnect(nodes)
    end

    nodes
  end

  # Returns :not_drained if the strategy has resumed while the job runs, or if the VM is not alive, so that it has no
  # peers.
  defp exempt(key) do
    drained = Cookies.drained()

    if Node.alive?() and key in drained,
      do: exempt_of(Topologies.all() -- drained),
      else: :not_drained
  end

  defp exempt_of(others) do
    replies = ask(for other <- others, do: {other, :peer_names})

    if Enum.all?(replies, &match?({:reply, {:ok, _names}}, &1)) do
      named = nodes(for {:reply, {:ok, names}} <- replies, name <- names, do: name)
      {wanting, unsure} = wanting(to_disconnect(named), others)
      {:ok, named ++ wanting ++ unsure, unsure}
    else
      :unknown
    end
  end

  @doc "Returns whether a node is connected that has to be disconnected. `exempt` are nodes that may be connected."
  @spec unexpected_connections?(exempt :: [node]) :: boolean
  def unexpected_connections?(exempt), do: to_disconnect(exempt) != []

  @doc """
  Releases the nodes of these names that the drain of another strategy has put into quarantine.

  A strategy that is not drained calls this when its members change, and before it connects a node.
  """
  @spec release(key, [String.t()]) :: :ok | {:error, reason :: term}
  def release(key, names) do
    case Cookies.quarantined() do
      [] ->
        :ok

      quarantined ->
        names = MapSet.new(names)
        Cookies.release(key, Enum.filter(quarantined, &(NodeAtom.to_name(&1) in names)))
    end
  end

  # A hidden node that is in quarantine is a member with a hidden connection.
  defp to_disconnect(exempt) do
    quarantined = Cookies.quarantined()
    (Node.list() ++ Enum.filter(Node.list(:hidden), &(&1 in quarantined))) -- exempt
  end

  # Returns the nodes whose strategies want a link to this node. Also returns the nodes with a strategy that may want the
  # link, because it does not reply or has had no answer yet.
  defp wanting(nodes, keys) do
    wants = {:wants, NodeAtom.to_name(node())}
    requests = for node <- nodes, key <- keys, do: {{key, node}, wants}
    replies = for {{{_, node}, _}, reply} <- Enum.zip(requests, ask(requests)), do: {reply, node}
    wanting = for {{:reply, true}, node} <- replies, uniq: true, do: node

    unsure =
      for {reply, node} <- replies,
          reply in [:timeout, {:reply, :unknown}] and node not in wanting,
          uniq: true,
          do: node

    {wanting, unsure}
  end

  # Returns the responses of the servers, in order.
  defp ask(requests) do
    deadline = System.monotonic_time(:millisecond) + @reply_timeout
    ids = for {server, request} <- requests, do: :gen_server.send_request(server, request)
    for id <- ids, do: :gen_server.receive_response(id, {:abs, deadline})
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
