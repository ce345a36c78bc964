defmodule Caravan.Cluster.Membership.Dial do
  # Pure. Which nodes are dialled now, and when the next one is due.
  @moduledoc false

  import Caravan.Cluster.Membership.State

  alias Caravan.Cluster.Alarms
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.Membership.AtomBudget
  alias Caravan.Cluster.Membership.DialQueue
  alias Caravan.Cluster.Membership.Links
  alias Caravan.Cluster.Membership.Peer
  alias Caravan.Cluster.Membership.Slots
  alias Caravan.Cluster.Membership.State

  # Milliseconds until a name that may not become an atom is considered again.
  @atom_retry 60_000

  @doc "Dials nodes that are due, until no slot is free."
  @spec dial(State.t(), Membership.env()) :: State.t()
  def dial(%State{} = state, env) do
    dial_ready(%{state | slots: Slots.expire(state.slots, env.now)}, env)
  end

  @doc "Returns when the next node may be dialled, or `nil` if none waits."
  @spec next(State.t(), now :: integer) :: integer | nil
  def next(%State{} = state, now) do
    ready_at = next_at(state)
    max = state.options.max_connects
    free_at = if free_slots(state) > 0, do: now, else: Slots.next_free_at(state.slots, max)

    case {ready_at, free_at} do
      {nil, _free_at} -> nil
      # The time alone frees no slot. The end of a connect does, and that is an event.
      {_ready_at, nil} -> nil
      {:now, free_at} -> free_at
      {at, free_at} -> max(at, free_at)
    end
  end

  defp dial_ready(state, env) do
    name = if free_slots(state) > 0, do: first(state)
    if name, do: state |> dial_one(state.peers[name], env) |> dial_ready(env), else: state
  end

  defp first(%{links: nil, queue: queue}), do: DialQueue.first(queue)
  defp first(%{links: links}), do: Links.next(links)

  defp next_at(%{links: nil, queue: queue}), do: DialQueue.next_at(queue)
  defp next_at(%{links: links}), do: Links.next_at(links)

  # With either outcome the peer is no longer ready, so the recursion of dial_ready/2 ends.
  defp dial_one(state, peer, env) do
    case allow_atom(state, peer, env) do
      {:ok, state} ->
        {random, state} = random(state)
        probe? = not Peer.new?(peer) or Slots.crowded?(state.slots)
        counts = backoff_counts(state)
        probe_every = if probe?, do: Peer.probe_every(peer, counts, env.now, random)

        state
        |> start_connect(peer.name, env.now)
        |> add_action({:connect, peer.name, probe_every})

      {{:refused, limit}, state} ->
        state |> refuse(limit) |> put_peer(%{peer | retry_at: env.now + @atom_retry})
    end
  end

  # The nodes that are left out are counted only when the alarm begins, because many nodes may be ready.
  defp refuse(state, limit) do
    alarm = {:limit, limit}

    if Alarms.set?(state.alarms, alarm) do
      state
    else
      left_out = Enum.count(ready(state), &(not state.peers[&1].atom_allowed))
      set_alarm(state, alarm, {:limit, limit, left_out})
    end
  end

  defp ready(%{links: nil, queue: queue}), do: DialQueue.ready(queue)
  defp ready(%{links: links}), do: Links.ready(links)

  defp free_slots(state), do: Slots.free(state.slots, state.options.max_connects)

  # A name takes one token at most, and none if it already is an atom.
  defp allow_atom(state, %{atom_allowed: true}, _env), do: {:ok, state}

  defp allow_atom(state, peer, env) do
    cond do
      env.existing_atom?.(peer.name) -> {:ok, atom_allowed(state, peer)}
      env.atoms_available -> state |> clear_alarm({:limit, :atom_table}) |> take_token(peer, env)
      true -> {{:refused, :atom_table}, state}
    end
  end

  defp take_token(state, peer, env) do
    case AtomBudget.take(state.budget, env.now) do
      {:ok, budget} ->
        {:ok,
         %{state | budget: budget} |> clear_alarm({:limit, :max_new_names}) |> atom_allowed(peer)}

      :empty ->
        {{:refused, :max_new_names}, state}
    end
  end

  defp atom_allowed(state, peer),
    do: update_peers(state, [peer.name], &%{&1 | atom_allowed: true})
end
