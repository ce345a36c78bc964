defmodule Caravan.Cluster.Membership do
  # Pure. Decides what a topology does. It handles events and returns actions. The strategy carries out the actions,
  # and hands their results back as events. Time, the name of this node and facts about atoms come with each event.
  #
  # The invariants, which test/caravan/cluster/membership_property_test.exs checks:
  #
  #   * A node is disconnected only if membership/prune.ex selects it.
  #   * A lookup that fails, and an answer that is empty or incomplete, delete no member.
  #   * This node is never dialled. A node that is connected or being dialled is not dialled.
  #   * A member that is not connected is dialled again until it is connected.
  #   * There are at most :max_nodes peers. At most :max_new_names new names are dialled within 24 hours.
  #   * Each source always has a time for its next lookup. After a :tick, this time is in the future.
  @moduledoc false

  import Caravan.Cluster.Membership.State,
    except: [new: 3, connected: 1, members: 1]

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Membership.Backoff
  alias Caravan.Cluster.Membership.Dial
  alias Caravan.Cluster.Membership.DialQueue
  alias Caravan.Cluster.Membership.Members
  alias Caravan.Cluster.Membership.Peer
  alias Caravan.Cluster.Membership.PollSchedule
  alias Caravan.Cluster.Membership.Slots
  alias Caravan.Cluster.Membership.Source
  alias Caravan.Cluster.Membership.State
  alias Caravan.Cluster.NodeName

  @type t :: State.t()

  @typedoc """
  The answer of a source.

    * `:ttl`: in milliseconds, or `nil` if the answer has none;
    * `:complete`: whether a name that is missing from the answer is also missing from DNS.
  """
  @type answer :: %{
          endpoints: %{String.t() => Endpoint.t()},
          ttl: non_neg_integer | nil,
          complete: boolean
        }

  @type event ::
          {:answer, Config.source(), answer}
          | {:lookup_failed, Config.source(), {kind :: term, text :: String.t()}}
          # The node is connected, or no longer connected.
          | {:nodeup | :nodedown, String.t()}
          # All connected nodes. Differences from the previous list are handled as nodeups and nodedowns.
          | {:connected_nodes, Enumerable.t()}
          | {:connect_result, String.t(), :ok | {:error, kind :: term}}
          # The node is about to leave the cluster.
          | {:peer_draining, String.t()}
          # The last :publish action failed.
          | :peer_table_full
          | :drain
          | :resume
          | :tick

  @typedoc """
  The facts that a pure module cannot find out.

    * `:now`: the monotonic time in milliseconds;
    * `:self`: the name of this node;
    * `:existing_atom?`: returns whether a name is an atom already;
    * `:atoms_available`: whether names may become new atoms.
  """
  @type env :: %{
          now: integer,
          self: String.t(),
          existing_atom?: (String.t() -> boolean),
          atoms_available: boolean
        }

  @spec new(Config.t(), seed :: integer, now :: integer) :: t
  defdelegate new(config, seed, now), to: State

  @doc "Handles an event. Returns the actions, in the order in which they must be carried out."
  @spec handle(t, event, env) :: {[State.action()], t}
  def handle(%State{} = state, event, env) do
    state = delete_self(state, env.self)
    state = %{state | queue: DialQueue.mature(state.queue, env.now, env.self)}
    state = state |> handle_event(event, env) |> plan(env)
    {Enum.reverse(state.actions), %{state | actions: []}}
  end

  # When distribution starts, this node gets its name. An earlier answer may have contained that name. Members
  # leaves it out of later answers.
  defp delete_self(%{queue: %{self: self}} = state, self), do: state

  defp delete_self(state, self),
    do: self |> NodeName.aliases() |> Enum.reduce(%{state | repeats: %{}}, &delete_peer(&2, &1))

  @doc "Returns when the next `:tick` is needed."
  @spec wake(t, now :: integer) :: integer | :never
  def wake(%State{drained: true}, _now), do: :never

  def wake(%State{} = state, now) do
    lookups = for {_source, poll} <- state.sources, do: poll.next_lookup_at
    Enum.min(lookups ++ List.wrap(Dial.next(state, now)))
  end

  @doc "Returns whether each source has had a response. \"No such name\" is a response, a timeout is not."
  @spec responded?(t) :: boolean
  def responded?(%State{sources: sources}), do: Enum.all?(sources, fn {_, s} -> s.responded end)

  @doc "Returns how many members there are, and how many nodes of the topology are connected."
  @spec counts(t) :: State.counts()
  def counts(%State{counts: counts}), do: counts

  @doc "Returns the connected nodes of the topology."
  @spec connected(t) :: [String.t()]
  defdelegate connected(state), to: State

  @doc "Returns whether a node belongs to the topology and is connected."
  @spec connected?(t, String.t()) :: boolean
  def connected?(%State{peers: peers}, name) do
    case peers do
      %{^name => peer} -> Peer.connected?(peer)
      _ -> false
    end
  end

  @doc "Returns the members: the names that an answer contained within `:keep`, without this node."
  @spec members(t) :: [String.t()]
  defdelegate members(state), to: State

  ## Events

  defp handle_event(state, {:answer, source, answer}, %{now: now} = env) do
    {random, state} = random(state)
    poll = source(state, source)

    state
    |> put_source(source, Source.lookup_answered(poll, answer.ttl, now, state.options, random))
    |> report_if(poll.reported != [], {:lookup_recovered, source})
    |> Members.apply_answer(source, answer, env)
    # A node may have been connected before an answer contained it.
    |> then(&nodes_up(&1, connected_names(&1, answer), now))
  end

  defp handle_event(state, {:lookup_failed, source, {kind, text}}, %{now: now}) do
    {random, state} = random(state)
    nodes = state.counts.connected

    {new?, poll} =
      Source.lookup_failed(source(state, source), kind, nodes, now, state.options, random)

    state |> put_source(source, poll) |> report_if(new?, {:lookup_failed, source, text})
  end

  defp handle_event(state, {:nodeup, name}, %{now: now}) do
    %{state | connected_nodes: MapSet.put(state.connected_nodes, name)}
    |> nodes_up([name], now)
  end

  defp handle_event(state, {:nodedown, name}, %{now: now}) do
    %{state | connected_nodes: MapSet.delete(state.connected_nodes, name)}
    |> nodes_down([name], now)
  end

  defp handle_event(state, {:connected_nodes, names}, %{now: now}) do
    before = state.connected_nodes
    connected = MapSet.new(names)

    %{state | connected_nodes: connected}
    |> nodes_up(MapSet.difference(connected, before), now)
    |> nodes_down(MapSet.difference(before, connected), now)
  end

  # If both nodes dial, one of the two connects fails although the nodes are then connected.
  defp handle_event(state, {:connect_result, name, result}, %{now: now}) do
    started_at = Slots.started_at(state.slots, name) || now
    state = finish_connect(state, name)
    peer = state.peers[name]

    if peer && not Peer.connected?(peer),
      do: connect_failed(state, peer, result, started_at, now),
      else: state
  end

  defp handle_event(state, {:peer_draining, name}, _env) do
    if is_map_key(state.peers, name),
      do: update_peers(state, [name], &%{&1 | draining: true}),
      else: state
  end

  # Publishes again after the next answer, because the table may have room then.
  defp handle_event(state, :peer_table_full, _env), do: %{state | published: nil}

  # The strategy deletes the entries of the topology from the table of addresses.
  defp handle_event(state, :drain, _env) do
    connecting = Slots.names(state.slots)
    Enum.reduce(connecting, %{state | drained: true, published: []}, &finish_connect(&2, &1))
  end

  defp handle_event(%{drained: false} = state, :resume, _env), do: state

  defp handle_event(state, :resume, %{now: now}) do
    sources =
      for {source, poll} <- state.sources,
          do: {source, %{poll | pending: false, next_lookup_at: now}}

    %{state | drained: false, sources: sources}
    |> update_peers(Map.keys(state.peers), &Peer.restart_waits(&1, now))
    |> Members.publish(now)
  end

  defp handle_event(state, :tick, _env), do: state

  ## Connections

  defp connected_names(%{connected_nodes: nodes}, answer),
    do: for({name, _endpoint} <- answer.endpoints, MapSet.member?(nodes, name), do: name)

  # Nodes of other topologies are not peers. A node that is connected already is not reported again.
  defp nodes_up(state, names, now) do
    peers = for name <- names, peer = state.peers[name], not Peer.connected?(peer), do: peer

    peers
    |> Enum.reduce(retry_others(state, peers, now), &put_peer(&2, Peer.connected(&1, now)))
    |> report_if(peers != [], {:nodes_up, Enum.map(peers, & &1.name)})
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

  # The first walk over all peers has limited their waits to this time. A second walk within it would gain less
  # than that, and it is expensive.
  defp retried_others?(%{retried_others_at: nil}, _now), do: false

  defp retried_others?(%{retried_others_at: at} = state, now),
    do: now - at < Backoff.after_sign_at_most(state.counts)

  defp nodes_down(state, names, now) do
    peers = for name <- names, peer = state.peers[name], Peer.connected?(peer), do: peer

    if peers == [] do
      state
    else
      nodes = state.counts.connected

      peers
      |> Enum.reduce(state, fn peer, state ->
        {random, state} = random(state)

        state
        |> put_peer(Peer.disconnected(peer, now, state.options.poll_interval, random))
        |> Members.delete_unless_needed(peer.name)
      end)
      |> report_if(true, {:nodes_down, Enum.map(peers, & &1.name)})
      |> poll_soon(nodes, now)
    end
  end

  # The node may have moved to another address, which is then in its record.
  defp poll_soon(state, nodes, now) do
    Enum.reduce(state.sources, state, fn {source, poll}, state ->
      {random, state} = random(state)
      wait = PollSchedule.after_nodedown(nodes, state.options, random)
      put_source(state, source, Source.poll_soon(poll, wait, now, state.options))
    end)
  end

  defp connect_failed(state, peer, result, started_at, now) do
    {random, state} = random(state)
    kind = kind(result)
    peer = Peer.connect_failed(peer, kind, state.counts, started_at, now, random)
    {report?, peer} = Peer.report_once(peer, kind)
    {rotated, peer} = Peer.next_address(peer)

    state = state |> put_peer(peer) |> report_if(report?, {:connect_failed, peer.name, kind})
    if rotated, do: add_action(state, {:rotate_addresses, peer.name}), else: state
  end

  # A custom connect function may return true although the node is not connected.
  defp kind(:ok), do: :not_listed
  defp kind({:error, kind}), do: kind

  ## Lookups and connects that are due

  defp plan(%{drained: true} = state, _env), do: state
  defp plan(state, env), do: state |> look_up(env.now) |> Dial.dial(env)

  defp look_up(state, now) do
    Enum.reduce(state.sources, state, fn {source, poll}, state ->
      cond do
        poll.next_lookup_at > now ->
          state

        poll.pending ->
          put_source(state, source, Source.postpone(poll, now, state.options))

        true ->
          state
          |> put_source(source, Source.lookup_started(poll, now, state.options))
          |> add_action({:lookup, source})
      end
    end)
  end
end
