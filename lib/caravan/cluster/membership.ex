defmodule Caravan.Cluster.Membership do
  # Pure. Decides what a topology does. It handles events and returns actions. The strategy carries out the actions,
  # and hands their results back as events. Time, the name of this node and facts about atoms come with each event.
  #
  # The invariants, which test/caravan/cluster/membership_property_test.exs checks:
  #
  #   * A node is disconnected only if membership/prune.ex selects it, or if it is a stand-in that membership/links.ex
  #     gives up.
  #   * A lookup that fails, and an answer that is empty or incomplete, delete no member.
  #   * This node is never dialled. A node that is connected or being dialled is not dialled.
  #   * A member that is not connected is dialled again until it is connected. With a limited number of links, this
  #     holds for the preferred members, and for the others while links are missing.
  #   * There are at most :max_nodes peers. At most :max_new_names new names are dialled within 24 hours.
  #   * Each source always has a time for its next lookup. After a :tick, this time is in the future.
  @moduledoc false

  import Caravan.Cluster.Membership.State, except: [new: 3, connected: 1]

  alias Caravan.Cluster.Alarms
  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Membership.Connectivity
  alias Caravan.Cluster.Membership.Dial
  alias Caravan.Cluster.Membership.DialQueue
  alias Caravan.Cluster.Membership.Links
  alias Caravan.Cluster.Membership.Members
  alias Caravan.Cluster.Membership.NodeStatus
  alias Caravan.Cluster.Membership.Peer
  alias Caravan.Cluster.Membership.Slots
  alias Caravan.Cluster.Membership.Source
  alias Caravan.Cluster.Membership.State
  alias Caravan.Cluster.NodeName

  # Milliseconds. A node that announces its leave has disconnected within this time, or has announced it again
  # (Drain.deadline/0). If it is still connected, it has resumed, and stays.
  @leaves_within 10_000

  @type t :: State.t()
  @type counts :: State.counts()

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
          # With `:already`, the node was connected before the connect.
          | {:connect_result, String.t(), :ok | :already | {:error, kind :: term}}
          # The result of a :release action.
          | {:release_result, String.t(), :released | :kept}
          # The node is about to leave the cluster.
          | {:peer_draining, String.t()}
          # The last :publish action failed.
          | :publish_failed
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
    state = mature(state, env)
    state = state |> handle_event(event, env) |> stay(env.now) |> plan(env)
    {Enum.reverse(state.actions), %{state | actions: []}}
  end

  defp mature(%{links: nil} = state, env),
    do: %{state | queue: DialQueue.mature(state.queue, env.now, env.self)}

  # With a limited number of links, the nodes wait in `links`, and the queue is empty. delete_self/2 reads the name of
  # this node from it.
  defp mature(state, env) do
    %{
      state
      | queue: DialQueue.mature(state.queue, env.now, env.self),
        links: Links.mature(state.links, env.now, env.self)
    }
  end

  # When distribution starts, this node gets its name. An earlier answer may have made a peer of that name. Members
  # leaves the name out of later answers.
  defp delete_self(%{queue: %{self: self}} = state, self), do: state

  defp delete_self(state, self),
    do: self |> NodeName.aliases() |> Enum.reduce(%{state | repeats: %{}}, &delete_peer(&2, &1))

  @doc "Returns when the next `:tick` is needed, in monotonic milliseconds."
  @spec wake(t, now :: integer) :: integer | :never
  def wake(%State{drained: true}, _now), do: :never

  def wake(%State{} = state, now) do
    lookups = for {_source, poll} <- state.sources, do: poll.next_lookup_at
    others = List.wrap(Dial.next(state, now)) ++ link_wakes(state) ++ Map.values(state.leaving)
    Enum.min(lookups ++ others, fn -> :never end)
  end

  defp link_wakes(%{links: nil}), do: []
  defp link_wakes(%{links: links}), do: Links.wakes(links)

  @doc "Returns whether each source has had a response. \"No such name\" is a response, a timeout is not."
  @spec responded?(t) :: boolean
  def responded?(%State{sources: sources}), do: Enum.all?(sources, fn {_, s} -> s.responded end)

  @doc """
  Returns whether the members are all nodes that the queries name: each source has had a response, no lookup fails, and
  no node was left out because of `:max_nodes`.
  """
  @spec complete?(t) :: boolean
  def complete?(%State{alarms: alarms} = state),
    do:
      responded?(state) and failing(state) == [] and not Alarms.set?(alarms, {:limit, :max_nodes})

  @doc "Returns how many members there are, and how many nodes of the topology are connected."
  @spec counts(t) :: counts
  def counts(%State{counts: counts}), do: counts

  @doc "Returns the members and the connected nodes of the topology, without this node."
  @spec peers(t) :: [String.t()]
  def peers(%State{peers: peers}), do: Map.keys(peers)

  @doc """
  Returns the nodes that may be linked: the members, and the connected nodes of the topology. With a limited number of
  links, this includes the members that this node does not prefer, because they may prefer this node.

  With `links: 0`, returns no nodes, because the topology needs no links.
  """
  @spec linked(t) :: [String.t()]
  def linked(%State{options: %{links: 0}}), do: []
  def linked(%State{} = state), do: peers(state)

  @doc """
  Returns whether the topology wants a link to a node: to any member, or with a limited number of links, to a preferred
  member or a stand-in that is needed.

  Returns `:unknown` if the first answer of a source is still to come, because it may name the node.
  """
  @spec wants(t, String.t()) :: boolean | :unknown
  def wants(%State{drained: true}, _name), do: false

  def wants(%State{peers: peers, links: links} = state, name) do
    case peers do
      %{^name => peer} -> Peer.member?(peer) and (links == nil or Links.needed?(links, name))
      _ -> if responded?(state), do: false, else: :unknown
    end
  end

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

  @doc "Returns whether the strategy has left the cluster."
  @spec drained?(t) :: boolean
  def drained?(%State{drained: drained}), do: drained

  @doc "Returns the number of members that are not connected, but should be."
  @spec missing(t) :: non_neg_integer
  defdelegate missing(state), to: NodeStatus

  @doc """
  Returns the time in milliseconds since the last response of a source. Of several sources, it takes the longest time.

  "No such name" is a response. For a source without a response, the time begins with the start of the strategy.
  """
  @spec answer_age(t, now :: integer) :: non_neg_integer
  def answer_age(%State{sources: sources}, now),
    do: Enum.reduce(sources, 0, fn {_source, poll}, age -> max(age, now - poll.responded_at) end)

  @doc """
  Returns the sources whose lookups fail, with the time of the first failure. A source without records is left out if
  another type of the query has some.
  """
  @spec failing(t) :: [{Config.source(), since :: integer}]
  def failing(%State{sources: sources} = state) do
    for {source, poll} <- sources,
        poll.failing_since != nil,
        not other_type?(state, source, List.first(poll.reported)),
        do: {source, poll.failing_since}
  end

  @doc "Returns the members and the connected nodes of the topology, each with its status."
  @spec nodes(t) :: [{String.t(), NodeStatus.t()}]
  defdelegate nodes(state), to: NodeStatus

  ## Events

  defp handle_event(state, {:answer, source, answer}, %{now: now} = env) do
    {random, state} = random(state)
    poll = source(state, source)

    state
    |> put_source(source, Source.lookup_answered(poll, answer.ttl, now, state.options, random))
    |> report_if(poll.warned, {:lookup_recovered, source})
    |> Members.apply_answer(source, answer, env)
    |> Connectivity.connected_before(answer, now)
  end

  defp handle_event(state, {:lookup_failed, source, {kind, text}}, %{now: now}) do
    {random, state} = random(state)
    nodes = witnesses(state)

    {new?, poll} =
      Source.lookup_failed(source(state, source), kind, nodes, now, state.options, random)

    report = if other_type?(state, source, kind), do: :no_records, else: :lookup_failed
    poll = %{poll | warned: poll.warned or (new? and report == :lookup_failed)}
    state |> put_source(source, poll) |> report_if(new?, {report, source, {kind, text}})
  end

  defp handle_event(state, {:nodeup, name}, env), do: Connectivity.nodeup(state, name, env.now)

  defp handle_event(state, {:nodedown, name}, env),
    do: Connectivity.nodedown(state, name, env.now)

  defp handle_event(state, {:connected_nodes, names}, env),
    do: Connectivity.connected_nodes(state, names, env.now)

  defp handle_event(state, {:connect_result, name, result}, env),
    do: Connectivity.connect_result(state, name, result, env.now)

  defp handle_event(state, {:release_result, name, :released}, _env),
    do: add_action(state, {:report, {:link_released, name}})

  # The node stays connected, because something else needs the link. The topology does not count it as one of its
  # links, so it does not release it again.
  defp handle_event(state, {:release_result, name, :kept}, _env) do
    if is_map_key(state.peers, name),
      do: update_peers(state, [name], &%{&1 | released: false}),
      else: state
  end

  defp handle_event(state, {:peer_draining, name}, %{now: now}) do
    if is_map_key(state.peers, name) do
      %{state | leaving: Map.put(state.leaving, name, now + @leaves_within)}
      |> update_peers([name], &%{&1 | draining: true})
    else
      state
    end
  end

  # Publishes again after the next answer, because that may succeed.
  defp handle_event(state, :publish_failed, _env), do: %{state | published: nil}

  # The strategy deletes the entries of the topology from the peer table.
  defp handle_event(state, :drain, _env) do
    connecting = Slots.names(state.slots)

    # A drain stops the jobs that release these nodes, so no :release_result will come.
    released = for {name, %{released: true}} <- state.peers, do: name

    %{state | drained: true, published: []}
    |> update_peers(released, &%{&1 | released: false})
    |> interrupt_links()
    |> then(&Enum.reduce(connecting, &1, fn name, state -> finish_connect(state, name) end))
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

  # A name often has records of one of two types only, A or AAAA. If it has neither, the second failure is a problem.
  defp other_type?(state, {query, type}, :no_records) do
    Enum.any?(state.sources, fn {{other, other_type}, poll} ->
      other == query and other_type != type and poll.failures == 0
    end)
  end

  defp other_type?(_state, _source, _kind), do: false

  defp interrupt_links(%{links: nil} = state), do: state
  defp interrupt_links(%{links: links} = state), do: %{state | links: Links.interrupt(links)}

  # A node that has announced that it leaves, but stays, is a link again.
  defp stay(%{leaving: leaving} = state, _now) when leaving == %{}, do: state

  defp stay(state, now) do
    over = for {name, until} <- state.leaving, until <= now, do: name

    %{state | leaving: Map.drop(state.leaving, over)}
    |> update_peers(Enum.filter(over, &connected?(state, &1)), &%{&1 | draining: false})
  end

  ## Lookups and connects that are due

  defp plan(%{drained: true} = state, _env), do: state
  defp plan(%{links: nil} = state, env), do: state |> look_up(env.now) |> Dial.dial(env)

  defp plan(state, env) do
    %{state | links: Links.observe(state.links, env.now)}
    |> look_up(env.now)
    |> Dial.dial(env)
    |> release_link(env.now)
  end

  defp release_link(state, now) do
    case Links.release(state.links, now) do
      {nil, _links} ->
        state

      {name, links} ->
        %{state | links: links}
        |> update_peers([name], &Peer.release/1)
        |> add_action({:release, name})
    end
  end

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
