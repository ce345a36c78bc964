defmodule Caravan.Cluster.Membership.Members do
  # Pure. From answers to names: who is a member, and what the table of addresses is told.
  @moduledoc false

  import Caravan.Cluster.Membership.State

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.Membership.Peer
  alias Caravan.Cluster.Membership.Prune
  alias Caravan.Cluster.Membership.State
  alias Caravan.Cluster.NodeName

  @doc "Takes an answer in."
  @spec apply_answer(State.t(), Config.source(), Membership.answer(), Membership.env()) ::
          State.t()
  def apply_answer(%State{} = state, source, answer, %{now: now, self: self}) do
    before = state.peers

    state
    |> add_endpoints(source, Map.drop(answer.endpoints, NodeName.aliases(self)), now)
    |> mark_missing(source, answer, now)
    |> enforce_max_nodes()
    |> report_members(before)
    |> publish(now)
    |> prune(source, answer)
  end

  @doc "Deletes a peer that is neither a member nor connected. A connected one may be lost, or dropped."
  @spec delete_unless_needed(State.t(), String.t()) :: State.t()
  def delete_unless_needed(state, name) do
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

  # An empty answer says nothing about anybody.
  defp evidence_of_absence?(answer), do: answer.complete and answer.endpoints != %{}

  # Over when there is room again: an answer that fits may be one of several, or a part.
  defp enforce_max_nodes(%{options: %{max_nodes: most}} = state)
       when map_size(state.peers) < most,
       do: clear_alarm(state, {:limit, :max_nodes})

  # Connected nodes before those that were, those before names that are only names, and among these the
  # ones known longest: made-up names push nobody out.
  defp enforce_max_nodes(%{options: %{max_nodes: most}} = state)
       when map_size(state.peers) == most,
       do: state

  defp enforce_max_nodes(%{options: %{max_nodes: most}} = state) do
    left_out = state.peers |> Map.values() |> Enum.sort_by(&rank/1) |> Enum.drop(most)

    left_out
    |> Enum.reduce(state, &delete_peer(&2, &1.name))
    |> set_alarm({:limit, :max_nodes}, {:limit, :max_nodes, length(left_out)})
  end

  defp rank(peer),
    do: {not Peer.connected?(peer), not peer.was_connected, peer.first_seen_at, peer.name}

  defp report_members(state, before) do
    added = new_members(before, state.peers)
    removed = new_members(state.peers, before)
    report_if(state, added != [] or removed != [], {:members_changed, added, removed})
  end

  # The members of `peers` that are not members of `before`.
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

  @doc "Tells the table of addresses what it does not know."
  @spec publish(State.t(), integer) :: State.t()
  def publish(%State{options: options} = state, now) do
    sources = source_names(state)
    # Each source has had its turn since, unless it fails.
    fresh = now - max(options.keep, 2 * options.poll_interval)
    peers = for {_name, peer} <- state.peers, Peer.member?(peer), do: peer
    said = Enum.map(peers, &Peer.entry(&1, sources, fresh))
    entries = Enum.map(said, &elem(&1, 0))
    state = tell_conflicts(state, said)

    if entries == state.published,
      do: state,
      else: add_action(%{state | published: entries}, {:publish, entries})
  end

  # What was told stands with the peer, and goes with it.
  defp tell_conflicts(state, said) do
    changed =
      for {{name, _port, _addresses}, conflict} <- said,
          state.peers[name].port_conflict != conflict,
          do: {name, conflict}

    new = for {name, true} <- changed, do: name

    state
    |> update_peers(Enum.map(changed, &elem(&1, 0)), &%{&1 | port_conflict: not &1.port_conflict})
    |> report_if(new != [], {:port_conflict, new})
  end

  ## Dropping

  defp prune(%State{options: %{prune: nil}} = state, _source, _answer), do: state

  defp prune(%State{} = state, source, answer) do
    if evidence_of_absence?(answer),
      do: prune(%{state | prune_round: MapSet.delete(state.prune_round, source)}),
      else: state
  end

  # A round is over when every source has answered since the last one.
  defp prune(state) do
    if MapSet.size(state.prune_round) == 0,
      do:
        prune(
          state,
          Prune.select(Map.values(state.peers), source_names(state), state.options.prune)
        ),
      else: state
  end

  defp prune(state, {[], 0}), do: clear_alarm(state, :all_spared)
  defp prune(state, {[], spared}), do: set_alarm(state, :all_spared, {:pruned, [], spared})

  defp prune(state, {dropped, spared}) do
    # Those that stayed were told of.
    news = Enum.filter(dropped, &(state.peers[&1].prune_attempts == 0))
    state = report_if(state, news != [], {:pruned, news, spared})
    state = Enum.reduce(dropped, state, &add_action(&2, {:disconnect, &1}))

    %{state | prune_round: MapSet.new(source_names(state))}
    |> update_peers(dropped, &%{&1 | prune_attempts: &1.prune_attempts + 1})
  end
end
