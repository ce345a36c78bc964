defmodule Caravan.Cluster.Membership do
  # What a topology knows, and what follows from it. Pure: no process, no I/O, no atoms, no clock of its
  # own. Events go in, actions come out; the owner carries them out and says what came of them.
  #
  # What always holds, and test/caravan/cluster/membership_property_test.exs checks:
  #
  #   * nobody is disconnected but on the evidence that membership/prune.ex asks for;
  #   * a lookup that failed, and an answer that is empty or cut, change no name;
  #   * this node is never dialled, and nobody is dialled who is connected or being dialled;
  #   * a name that somebody still gives is dialled again and again until it is connected;
  #   * there are at most :max_nodes names, and at most :max_new_names of a day are dialled;
  #   * the next lookup of every source has its time; after a :tick that lies ahead.
  @moduledoc false

  import Caravan.Cluster.Membership.State,
    except: [new: 3, limit: 2, connected: 1, members: 1]

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Membership.Backoff
  alias Caravan.Cluster.Membership.AtomBudget
  alias Caravan.Cluster.Membership.Dial
  alias Caravan.Cluster.Membership.Members
  alias Caravan.Cluster.Membership.Peer
  alias Caravan.Cluster.Membership.PollSchedule
  alias Caravan.Cluster.Membership.Source
  alias Caravan.Cluster.Membership.State

  @type t :: State.t()

  @typedoc """
  What a source said. `:ttl` in milliseconds, `nil` where there is none; `:complete`: a name that is
  not in it is not there.
  """
  @type answer :: %{
          names: %{String.t() => {[:inet.port_number()], [:inet.ip_address()]}},
          ttl: non_neg_integer | nil,
          complete: boolean
        }

  @type event ::
          {:answer, Config.source(), answer}
          | {:lookup_failed, Config.source(), {kind :: term, text :: String.t()}}
          # All nodes that are connected now.
          | {:nodes, Enumerable.t()}
          | {:connect_done, String.t(), :ok | {:error, kind :: term}}
          # The node said that it leaves.
          | {:left, String.t()}
          # What was to be published is not.
          | :table_full
          | :drain
          | :resume
          | :tick

  @typedoc """
  What cannot be known here: the time, in milliseconds of a clock that never goes back; the name of this
  node; whether a name is an atom already; whether the VM has room for more atoms.
  """
  @type env :: %{
          now: integer,
          self: String.t(),
          atom?: (String.t() -> boolean),
          atom_room: boolean
        }

  @spec new(Config.t(), seed :: integer, now :: integer) :: t
  defdelegate new(config, seed, now), to: State

  @doc "Takes an event in; the actions are in the order in which they are to be carried out."
  @spec handle(t, event, env) :: {[State.action()], t}
  def handle(%State{} = state, event, env) do
    # A name that DNS gave may have become this node's own.
    state = %{state | peers: Map.delete(state.peers, env.self)}
    state = state |> take_in(event, env) |> plan(env)
    {Enum.reverse(state.out), %{state | out: []}}
  end

  @doc "When to send the next `:tick`."
  @spec wake(t, now :: integer) :: integer | :never
  def wake(%State{drained: true}, _now), do: :never

  def wake(%State{} = state, now) do
    lookups = for {_name, source} <- state.sources, do: source.next_at
    Enum.min(lookups ++ Dial.next(state, now))
  end

  @doc "Whether every source has spoken since the start, if only to say that there is nothing."
  @spec heard?(t) :: boolean
  def heard?(%State{sources: sources}), do: Enum.all?(sources, fn {_, s} -> s.heard end)

  @doc "The nodes of the topology that are connected."
  @spec connected(t) :: [String.t()]
  defdelegate connected(state), to: State

  @doc "The names that DNS gives, or gave not long ago; without this node."
  @spec members(t) :: [String.t()]
  defdelegate members(state), to: State

  @doc "From now on with the limits of this configuration."
  @spec limit(t, Config.t()) :: t
  defdelegate limit(state, config), to: State

  @doc "What was spent of the budget of new names."
  @spec spent(t) :: AtomBudget.spent()
  def spent(%State{budget: budget}), do: budget.spent

  @doc "Counts what was spent before the process that owns it was started again."
  @spec spend(t, AtomBudget.spent()) :: t
  def spend(%State{budget: budget} = state, spent),
    do: %{state | budget: %{budget | spent: spent}}

  ## Events

  defp take_in(state, {:answer, name, answer}, %{now: now} = env) do
    {random, state} = random(state)
    source = source(state, name)

    state
    |> put_source(name, Source.answered(source, answer.ttl, now, state.limits, random))
    |> report_if(source.told != [], {:recovered, name})
    |> Members.answered(name, answer, env)
    # Nodes of new names may be connected already.
    |> then(&take_in(&1, {:nodes, &1.live}, env))
  end

  defp take_in(state, {:lookup_failed, name, {kind, text}}, %{now: now}) do
    {random, state} = random(state)
    nodes = length(connected(state))
    {news, source} = Source.failed(source(state, name), kind, nodes, now, state.limits, random)
    state |> put_source(name, source) |> report_if(news, {:lookup_failed, name, text})
  end

  defp take_in(state, {:nodes, names}, %{now: now}) do
    live = MapSet.new(names)
    joined = for {name, peer} <- state.peers, not Peer.up?(peer), name in live, do: name
    lost = for {name, peer} <- state.peers, Peer.up?(peer), name not in live, do: name

    %{state | live: live}
    |> come_back(joined, now)
    |> update_peers(joined, &Peer.joined(&1, now))
    |> report_if(joined != [], {:joined, joined})
    |> report_if(lost != [], {:lost, lost})
    |> lose(lost, now)
  end

  # A peer may have been faster than our own connect, which then failed.
  defp take_in(state, {:connect_done, name, result}, %{now: now}) do
    state = %{state | connecting: Map.delete(state.connecting, name)}
    peer = state.peers[name]
    if peer && not Peer.up?(peer), do: failed(state, peer, result, now), else: state
  end

  defp take_in(state, {:left, name}, _env) do
    if is_map_key(state.peers, name),
      do: update_peers(state, [name], &%{&1 | left: true}),
      else: state
  end

  # With the next answer there may be room.
  defp take_in(state, :table_full, _env), do: %{state | published: nil}

  # Nothing of it stands in the table of addresses any more.
  defp take_in(state, :drain, _env),
    do: %{state | drained: true, connecting: %{}, published: []}

  defp take_in(%{drained: false} = state, :resume, _env), do: state

  defp take_in(state, :resume, %{now: now}) do
    sources =
      for {name, source} <- state.sources,
          do: {name, %{source | pending: false, next_at: now}}

    %{state | drained: false, sources: sources}
    |> update_peers(Map.keys(state.peers), &Peer.retry(&1, now))
    |> Members.publish(now)
  end

  defp take_in(state, :tick, _env), do: state

  ## Connections

  # One that was lost is back: the network may be, so others that were lost with it need not wait for their
  # turn. One that flaps says nothing of the network, and addresses that never answered do not either.
  defp come_back(state, joined, now) do
    if Enum.any?(joined, &back?(state.peers[&1])) do
      state.peers
      |> Enum.filter(fn {_name, peer} -> peer.was_up and not Peer.up?(peer) and not peer.left end)
      |> Enum.reduce(state, fn {name, _peer}, state ->
        {random, state} = random(state)
        at = now + Backoff.after_nodedown(random)
        update_peers(state, [name], &Peer.retry(&1, at))
      end)
    else
      state
    end
  end

  defp back?(peer), do: peer.was_up and peer.flaps == 0

  defp lose(state, [], _now), do: state

  defp lose(state, lost, now) do
    nodes = length(connected(state))

    lost
    |> Enum.reduce(state, fn name, state ->
      {random, state} = random(state)
      update_peers(state, [name], &Peer.lost(&1, now, Dial.longest(state), random))
    end)
    |> Members.forget()
    |> hasten(nodes, now)
  end

  # Its record may have moved.
  defp hasten(state, nodes, now) do
    Enum.reduce(state.sources, state, fn {name, source}, state ->
      {random, state} = random(state)
      wait = PollSchedule.after_nodedown(nodes, state.limits, random)
      put_source(state, name, Source.hasten(source, wait, now, state.limits))
    end)
  end

  defp failed(state, peer, result, now) do
    {random, state} = random(state)
    kind = kind(result)
    peer = Peer.failed(peer, now, Dial.longest(state), random)
    {news, peer} = Peer.tell(peer, kind)

    %{state | peers: Map.put(state.peers, peer.name, peer)}
    |> report_if(news, {:connect_failed, peer.name, kind})
  end

  # A connect function may claim a success that nobody can see.
  defp kind(:ok), do: :not_listed
  defp kind({:error, kind}), do: kind

  ## What is due

  defp plan(%{drained: true} = state, _env), do: state
  defp plan(state, env), do: state |> look_up(env.now) |> Dial.dial(env)

  defp look_up(state, now) do
    Enum.reduce(state.sources, state, fn {name, source}, state ->
      cond do
        source.next_at > now ->
          state

        source.pending ->
          put_source(state, name, Source.postpone(source, now, state.limits))

        true ->
          state
          |> put_source(name, Source.asked(source, now, state.limits))
          |> act({:lookup, name})
      end
    end)
  end
end
