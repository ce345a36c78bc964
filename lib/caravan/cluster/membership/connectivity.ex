defmodule Caravan.Cluster.Membership.Connectivity do
  # Pure. What follows when nodes are connected or disconnected, and when a connect ends: changed peers, reports, an earlier
  # dial of other lost nodes, and earlier lookups.
  @moduledoc false

  import Caravan.Cluster.Membership.State

  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.Membership.Backoff
  alias Caravan.Cluster.Membership.Members
  alias Caravan.Cluster.Membership.Peer
  alias Caravan.Cluster.Membership.PollSchedule
  alias Caravan.Cluster.Membership.Slots
  alias Caravan.Cluster.Membership.Source
  alias Caravan.Cluster.Membership.State

  @spec nodeup(State.t(), String.t(), now :: integer) :: State.t()
  def nodeup(state, name, now) do
    %{state | connected_nodes: MapSet.put(state.connected_nodes, name)}
    |> nodes_up([name], now)
  end

  @spec nodedown(State.t(), String.t(), now :: integer) :: State.t()
  def nodedown(state, name, now) do
    %{state | connected_nodes: MapSet.delete(state.connected_nodes, name)}
    |> nodes_down([name], now)
  end

  @doc "Takes in the list of all connected nodes. Differences from the previous list are nodeups and nodedowns."
  @spec connected_nodes(State.t(), Enumerable.t(), now :: integer) :: State.t()
  def connected_nodes(state, names, now) do
    before = state.connected_nodes
    connected = MapSet.new(names)

    %{state | connected_nodes: connected}
    |> nodes_up(MapSet.difference(connected, before), now)
    |> nodes_down(MapSet.difference(before, connected), now)
  end

  @doc """
  Marks the nodes of an answer that were connected before an answer contained them.

  Walks the connected nodes instead of the answer, because an answer may name many nodes of which few are connected.
  """
  @spec connected_before(State.t(), Membership.answer(), now :: integer) :: State.t()
  def connected_before(state, answer, now) do
    names = for name <- state.connected_nodes, is_map_key(answer.endpoints, name), do: name
    nodes_up(state, names, now)
  end

  @doc """
  Ends a connect of this topology.

  If both nodes dial, one of the two connects fails although the nodes are then connected.
  """
  @spec connect_result(State.t(), String.t(), :ok | :already | {:error, term}, now :: integer) ::
          State.t()
  def connect_result(state, name, result, now) do
    started_at = Slots.started_at(state.slots, name) || now
    state = finish_connect(state, name)
    peer = state.peers[name]

    cond do
      peer == nil -> state
      not Peer.connected?(peer) -> connect_failed(state, peer, result, started_at, now)
      # The other node has made the connection.
      peer.opened and result != :ok -> put_peer(state, %{peer | opened: false})
      true -> state
    end
  end

  defp connect_failed(state, peer, result, started_at, now) do
    {random, state} = random(state)
    kind = kind(result)
    peer = Peer.connect_failed(peer, kind, backoff_counts(state), started_at, now, random)
    {report?, peer} = Peer.report_once(peer, kind, now)
    {rotated, peer} = Peer.next_address(peer)

    state = state |> put_peer(peer) |> report_if(report?, {:connect_failed, peer.name, kind})
    if rotated, do: add_action(state, {:rotate_addresses, peer.name}), else: state
  end

  # A custom connect function may return true although the node is not connected.
  defp kind(result) when result in [:ok, :already], do: :not_listed
  defp kind({:error, kind}), do: kind

  # Nodes of other topologies are not peers. A node that is connected already is not reported again.
  defp nodes_up(state, names, now) do
    known = for name <- names, peer = state.peers[name], not Peer.connected?(peer), do: peer
    peers = known ++ dialled_peers(state, names, now)

    peers
    |> Enum.reduce(retry_others(state, peers, now), fn peer, state ->
      opened? = Slots.started?(state.slots, peer.name)
      put_peer(state, Peer.connected(peer, now, opened?))
    end)
    |> report_nodes(:nodes_up, peers, state)
  end

  # DNS may stop naming a node while this topology connects it. Such a node is a peer too, like a former member that is
  # still connected.
  defp dialled_peers(%{peers: peers, slots: slots} = state, names, now) do
    names = for name <- names, not is_map_key(peers, name), Slots.started?(slots, name), do: name
    room = max(0, state.options.max_nodes - map_size(peers))
    for name <- Enum.take(names, room), do: Peer.new(name, now)
  end

  # Reports peers that came up or went down, grouped by the kind of their link. `before` is the state that still knows this
  # kind, because a nodeup ends the connect of the peer, and a nodedown ends the link.
  defp report_nodes(state, _what, [], _before), do: state

  defp report_nodes(state, what, peers, %{links: nil}),
    do: add_action(state, {:report, {what, Enum.map(peers, & &1.name), nil}})

  defp report_nodes(state, what, peers, before) do
    peers
    |> Enum.group_by(&link(before, &1), & &1.name)
    |> Enum.reduce(state, fn {link, names}, state ->
      add_action(state, {:report, {what, names, link}})
    end)
  end

  # When a lost node is connected again, the network may be back, so the other lost nodes are dialled soon, once. Their
  # waits do not start again: one node that comes and goes would then keep all dead nodes dialled often.
  # A node that flaps does not count as such a sign. Nodes that were never connected keep their time.
  defp retry_others(state, peers, now) do
    if Enum.any?(peers, &steady?/1) and not retried_others?(state, now) do
      counts = state.counts
      soon = now + Backoff.after_sign_at_most(counts)

      lost =
        for {_name, peer} <- state.peers,
            peer.was_connected and not Peer.connected?(peer) and not peer.draining,
            peer.retry_at > soon,
            do: peer

      Enum.reduce(lost, %{state | retried_others_at: now}, fn peer, state ->
        {random, state} = random(state)
        put_peer(state, Peer.retry_by(peer, now + Backoff.after_sign(counts, random)))
      end)
    else
      state
    end
  end

  defp steady?(peer), do: peer.was_connected and peer.flaps == 0

  # The last walk over all peers has limited the waits of lost nodes to this time. Another walk within this time would
  # shorten them by less, and a walk is expensive.
  defp retried_others?(%{retried_others_at: nil}, _now), do: false

  defp retried_others?(%{retried_others_at: at} = state, now),
    do: now - at < Backoff.after_sign_at_most(state.counts)

  defp nodes_down(state, names, now) do
    peers = for name <- names, peer = state.peers[name], Peer.connected?(peer), do: peer

    peers
    |> Enum.reduce(state, fn peer, state ->
      {random, state} = random(state)

      state
      |> put_peer(Peer.disconnected(peer, now, state.options.poll_interval, random))
      |> Members.delete_unless_needed(peer.name)
    end)
    |> report_nodes(:nodes_down, peers, state)
    |> poll_soon(Enum.reject(peers, & &1.released), witnesses(state), now)
  end

  defp poll_soon(state, [], _nodes, _now), do: state

  # A lost node may have moved to another address, which is then in its record.
  defp poll_soon(state, _lost, nodes, now) do
    Enum.reduce(state.sources, state, fn {source, poll}, state ->
      {random, state} = random(state)
      wait = PollSchedule.after_nodedown(nodes, state.options, random)
      put_source(state, source, Source.poll_soon(poll, wait, now, state.options))
    end)
  end
end
