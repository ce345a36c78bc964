defmodule Caravan.Cluster.Membership.Members do
  # Pure. Applies an answer: updates the members, publishes them to the peer table, and prunes nodes.
  @moduledoc false

  import Caravan.Cluster.Membership.State

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.Membership.Peer
  alias Caravan.Cluster.Membership.Prune
  alias Caravan.Cluster.Membership.State
  alias Caravan.Cluster.NodeName

  @doc """
  Applies an answer of a source to the peers.

  Most answers are equal to the last one of their source, and change only the time at which their nodes were seen last.
  So an equal answer only records the time. The recorded time is applied to the peers before the next different answer,
  and with the first answer after a tenth of `:keep`.
  """
  @spec apply_answer(State.t(), Config.source(), Membership.answer(), Membership.env()) ::
          State.t()
  def apply_answer(%State{} = state, source, answer, %{now: now} = env) do
    case state.repeats do
      %{^source => repeat} ->
        if repeats?(state, repeat, answer, now),
          do: state |> put_seen(source, now) |> publish_if_several_sources(now),
          else: state |> apply_repeats(source, repeat) |> apply_other(source, answer, env)

      _ ->
        apply_other(state, source, answer, env)
    end
  end

  defp repeats?(%{options: options} = state, repeat, answer, now) do
    answer.endpoints == repeat.endpoints and answer.complete == repeat.complete and
      10 * (now - repeat.applied_at) < options.keep and state.published != nil
  end

  defp put_seen(state, source, now), do: put_in(state.repeats[source].seen_at, now)

  # Since the last publish, the answers of another source may have become too old, so that Peer.entry/3 takes the ports and
  # addresses of this source.
  defp publish_if_several_sources(%{sources: [_]} = state, _now), do: state
  defp publish_if_several_sources(state, now), do: publish(state, now)

  defp apply_repeats(state, _source, %{applied_at: at, seen_at: at}), do: state

  defp apply_repeats(state, source, repeat) do
    endpoints = Map.take(repeat.endpoints, Map.keys(state.peers))
    add_endpoints(state, source, endpoints, repeat.seen_at)
  end

  defp apply_other(state, source, answer, %{now: now, self: self}) do
    before = state.peers

    state
    |> add_endpoints(source, Map.drop(answer.endpoints, NodeName.aliases(self)), now)
    |> mark_missing(source, answer, now)
    |> enforce_max_nodes()
    |> report_members(before)
    |> publish(now)
    |> prune(source, answer)
    |> put_repeat(source, answer, now)
  end

  # Equal answers are applied in full in three cases. With :prune, each answer adds to the missed answers of the nodes that
  # it lacks. At :max_nodes, an answer may name nodes that were left out. If an answer lacks a peer of its source, that peer
  # must be deleted when :keep is over.
  defp put_repeat(%{options: %{prune: nil, max_nodes: most}} = state, source, answer, now)
       when map_size(state.peers) < most do
    lacking? =
      Enum.any?(state.peers, fn {name, peer} ->
        is_map_key(peer.endpoints, source) and not is_map_key(answer.endpoints, name)
      end)

    repeat = %{
      endpoints: answer.endpoints,
      complete: answer.complete,
      applied_at: now,
      seen_at: now
    }

    if lacking?,
      do: %{state | repeats: Map.delete(state.repeats, source)},
      else: %{state | repeats: Map.put(state.repeats, source, repeat)}
  end

  # At :max_nodes, peers may have been left out that stored answers name. So the stored answers of all sources are deleted.
  defp put_repeat(state, _source, _answer, _now), do: %{state | repeats: %{}}

  @doc """
  Deletes a peer that is neither a member nor connected.

  A connected peer is kept, because its nodedown must be reported, and `:prune` may disconnect it.
  """
  @spec delete_unless_needed(State.t(), String.t()) :: State.t()
  def delete_unless_needed(%State{} = state, name) do
    peer = state.peers[name]
    if Peer.member?(peer) or Peer.connected?(peer), do: state, else: delete_peer(state, name)
  end

  defp add_endpoints(state, source, endpoints, now) do
    Enum.reduce(endpoints, state, fn {name, endpoint}, state ->
      peer = Map.get_lazy(state.peers, name, fn -> Peer.new(name, now) end)
      put_peer(state, Peer.put_endpoint(peer, source, endpoint, state.options.keep, now))
    end)
  end

  defp mark_missing(state, source, answer, now) do
    if evidence_of_absence?(answer) do
      missing = for {name, peer} <- state.peers, not is_map_key(answer.endpoints, name), do: peer

      Enum.reduce(missing, state, fn peer, state ->
        state
        |> put_peer(Peer.miss(peer, source, state.options.keep, now))
        |> delete_unless_needed(peer.name)
      end)
    else
      state
    end
  end

  # An empty answer is more likely a fault of the server than a cluster without nodes.
  defp evidence_of_absence?(answer), do: answer.complete and answer.endpoints != %{}

  # Clears the alarm only if there is room for one more name. If the peers are exactly :max_nodes, the alarm stays as
  # it is: the answer of one query may fit while that of another query does not, and each change would be reported.
  defp enforce_max_nodes(%{options: %{max_nodes: most}} = state)
       when map_size(state.peers) < most,
       do: clear_alarm(state, {:limit, :max_nodes})

  defp enforce_max_nodes(%{options: %{max_nodes: most}} = state)
       when map_size(state.peers) == most,
       do: state

  defp enforce_max_nodes(%{options: %{max_nodes: most}} = state) do
    left_out =
      state.peers
      |> Map.values()
      |> Enum.sort_by(&rank(&1, state.connected_nodes))
      |> Enum.drop(most)

    left_out
    |> Enum.reduce(state, &delete_peer(&2, &1.name))
    |> set_alarm({:limit, :max_nodes}, {:limit, :max_nodes, length(left_out)})
  end

  # Keeps connected nodes first, then nodes that were connected once, then the names that are known longest. So
  # made-up names do not replace real nodes. Reads `connected_nodes`, because a new peer that is connected already is
  # marked only after this (Membership, event :answer).
  defp rank(peer, connected_nodes) do
    {not MapSet.member?(connected_nodes, peer.name), not peer.was_connected, peer.first_seen_at,
     peer.name}
  end

  defp report_members(state, before) do
    added = new_members(before, state.peers)
    removed = new_members(state.peers, before)
    report_if(state, added != [] or removed != [], {:members_changed, added, removed})
  end

  # Returns the members of `peers` that are not members of `before`.
  defp new_members(before, peers) do
    names = for {name, peer} <- peers, Peer.member?(peer), not member_of?(before, name), do: name
    Enum.sort(names)
  end

  defp member_of?(peers, name) do
    case peers do
      %{^name => peer} -> Peer.member?(peer)
      _ -> false
    end
  end

  @doc "Publishes the members to the peer table, if their entries have changed. Reports port conflicts."
  @spec publish(State.t(), integer) :: State.t()
  def publish(%State{options: options} = state, now) do
    sources = source_names(state)
    # Each source has answered since this time, unless its lookups fail.
    fresh = now - max(options.keep, 2 * options.poll_interval)
    peers = for {_name, peer} <- state.peers, Peer.member?(peer), do: peer
    with_conflicts = Enum.map(peers, &Peer.entry(&1, sources, fresh))
    entries = Enum.map(with_conflicts, &elem(&1, 0))
    state = report_conflicts(state, with_conflicts)

    if entries == state.published,
      do: state,
      else: add_action(%{state | published: entries}, {:publish, entries})
  end

  # The peer stores whether its conflict was reported. So the mark is deleted together with the peer.
  defp report_conflicts(state, with_conflicts) do
    changed =
      for {{name, _port, _addresses}, conflict} <- with_conflicts,
          state.peers[name].port_conflict != conflict,
          do: {name, conflict}

    new = for {name, true} <- changed, do: name

    state
    |> update_peers(Enum.map(changed, &elem(&1, 0)), &%{&1 | port_conflict: not &1.port_conflict})
    |> report_if(new != [], {:port_conflict, new})
  end

  ## Pruning

  defp prune(%State{options: %{prune: nil}} = state, _source, _answer), do: state

  defp prune(%State{} = state, source, answer) do
    if evidence_of_absence?(answer),
      do: start_round(%{state | prune_round: MapSet.delete(state.prune_round, source)}),
      else: state
  end

  # After a round that disconnects nodes, the next round waits until each source has had a complete answer with nodes.
  defp start_round(state) do
    if MapSet.size(state.prune_round) == 0 do
      peers = Map.values(state.peers)
      disconnect(state, Prune.select(peers, source_names(state), state.options.prune))
    else
      state
    end
  end

  defp disconnect(state, {[], 0}), do: clear_alarm(state, :all_spared)
  defp disconnect(state, {[], spared}), do: set_alarm(state, :all_spared, {:pruned, [], spared})

  defp disconnect(state, {selected, spared}) do
    # A node that stayed connected was reported at the first attempt.
    new = Enum.filter(selected, &(state.peers[&1].prune_attempts == 0))
    state = report_if(state, new != [], {:pruned, new, spared})
    state = Enum.reduce(selected, state, &add_action(&2, {:disconnect, &1}))

    %{state | prune_round: MapSet.new(source_names(state))}
    |> update_peers(selected, &%{&1 | prune_attempts: &1.prune_attempts + 1})
  end
end
