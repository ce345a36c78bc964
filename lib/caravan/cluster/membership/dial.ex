defmodule Caravan.Cluster.Membership.Dial do
  # Pure. Whom to connect now, and when the next one is due.
  @moduledoc false

  import Caravan.Cluster.Membership.State

  alias Caravan.Cluster.Alarms
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.Membership.AtomBudget
  alias Caravan.Cluster.Membership.Backoff
  alias Caravan.Cluster.Membership.Peer
  alias Caravan.Cluster.Membership.State

  # A connect that lasts longer than this is most likely one to a dead address: it keeps its deadline,
  # but the next in line has its turn. So dead addresses delay nobody, however many they are.
  @slot_time 100

  # How long a name that may not become an atom waits to be considered again.
  @atom_retry 60_000

  @doc "Connects who is due, as far as `:max_connects` goes."
  @spec dial(State.t(), Membership.env()) :: State.t()
  def dial(%State{} = state, env) do
    free = free_slots(state, env.now)
    due = for peer <- waiting(state), peer.retry_at <= env.now, do: peer

    if free > 0 and due != [],
      do: due |> Enum.sort_by(&rank(env.self, &1)) |> dial(free, state, env),
      else: state
  end

  @doc "When somebody may be dialled next; no time: nobody waits."
  @spec next(State.t(), now :: integer) :: [integer]
  def next(%State{} = state, now) do
    retries = for peer <- waiting(state), do: peer.retry_at

    cond do
      retries == [] -> []
      free_slots(state, now) > 0 -> [Enum.min(retries)]
      true -> [max(Enum.min(retries), Enum.min(young(state, now)) + @slot_time)]
    end
  end

  @doc """
  The longest wait between two connects of a node that lived once: it is dialled about as often as DNS
  is asked, so that it is back as soon as its network is.
  """
  @spec longest(State.t()) :: pos_integer
  def longest(state), do: min(state.options.poll_interval, Backoff.longest())

  defp dial([peer | peers], free, state, env) when free > 0 do
    case allow_atom(state, peer, env) do
      {:ok, state} ->
        state = %{state | slots: Map.put(state.slots, peer.name, env.now)}
        dial(peers, free - 1, add_action(state, {:connect, peer.name}), env)

      {:refused, limit} ->
        state
        |> update_peers([peer.name], &%{&1 | retry_at: env.now + @atom_retry})
        |> refuse(limit, [peer | peers])
        |> then(&dial(peers, free, &1, env))
    end
  end

  defp dial(_peers, _free, state, _env), do: state

  # What is left of the queue may be long, and is counted once.
  defp refuse(state, limit, peers) do
    if Alarms.set?(state.alarms, {:limit, limit}),
      do: state,
      else:
        set_alarm(
          state,
          {:limit, limit},
          {:limit, limit, Enum.count(peers, &(not &1.atom_allowed))}
        )
  end

  # Names that failed least come first; the rest is in an order of this node's own, so that not all
  # nodes of a fleet dial the same newcomer at once.
  defp rank(self, peer),
    do: {peer.connect_failures, :erlang.phash2({self, peer.name}), peer.name}

  defp waiting(state) do
    for {name, peer} <- state.peers,
        Peer.member?(peer),
        not Peer.connected?(peer),
        not is_map_key(state.slots, name),
        do: peer
  end

  defp free_slots(state, now), do: state.options.max_connects - length(young(state, now))

  defp young(state, now),
    do: for({_name, since} <- state.slots, since + @slot_time > now, do: since)

  # A name that is an atom already costs nothing.
  defp allow_atom(state, %{atom_allowed: true}, _env), do: {:ok, state}

  defp allow_atom(state, peer, env) do
    cond do
      env.existing_atom?.(peer.name) -> {:ok, atom_allowed(state, peer)}
      env.atoms_available -> take_token(clear_alarm(state, {:limit, :atom_table}), peer, env)
      true -> {:refused, :atom_table}
    end
  end

  defp take_token(state, peer, env) do
    case AtomBudget.take(state.budget, env.now) do
      {:ok, budget} ->
        {:ok,
         %{state | budget: budget} |> clear_alarm({:limit, :max_new_names}) |> atom_allowed(peer)}

      :empty ->
        {:refused, :max_new_names}
    end
  end

  defp atom_allowed(state, peer),
    do: update_peers(state, [peer.name], &%{&1 | atom_allowed: true})
end
