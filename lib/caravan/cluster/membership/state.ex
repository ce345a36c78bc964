defmodule Caravan.Cluster.Membership.State do
  # Pure. The state of Membership, and the functions that change it.
  @moduledoc false

  alias Caravan.Cluster.Alarms
  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Membership.AtomBudget
  alias Caravan.Cluster.Membership.DialQueue
  alias Caravan.Cluster.Membership.Links
  alias Caravan.Cluster.Membership.Peer
  alias Caravan.Cluster.Membership.Slots
  alias Caravan.Cluster.Membership.Source

  @enforce_keys ~w(options sources budget rand queue links slots connected_nodes alarms prune_round)a
  defstruct @enforce_keys ++
              [
                peers: %{},
                counts: %{members: 0, connected: 0},
                unconnected: 0,
                leaving: %{},
                retried_others_at: nil,
                published: [],
                repeats: %{},
                drained: false,
                actions: []
              ]

  @typedoc """
    * `:options`: the options that `Membership` needs;
    * `:sources`: each source and its lookups, in the order of the options;
    * `:peers`: changed only by `put_peer/2` and `delete_peer/2`, which also update `:counts`, `:unconnected`, `:queue` and
      `:links`;
    * `:unconnected`: the number of members that are not connected;
    * `:connected_nodes`: all connected nodes, of this topology or not;
    * `:leaving`: the nodes that have announced that they leave, and until when they are expected to disconnect;
    * `:retried_others_at`: when `retry_others/3` of `Connectivity` last walked over all peers;
    * `:queue`: the members that are neither connected nor being dialled. It stays empty if `:links` is not `nil`;
    * `:links`: which members are dialled if the option `:links` is a number, or `nil` if all are;
    * `:slots`: the nodes that are being dialled;
    * `:published`: the entries of the last `:publish` action, or `nil` if it failed;
    * `:alarms`: the conditions that were reported and still last;
    * `:prune_round`: the sources that must answer before the next nodes are disconnected;
    * `:repeats`: by source, the last answer. A source is missing if an equal answer would change more than the time at
      which its nodes were last seen;
    * `:drained`: whether the strategy has left the cluster. Then it neither looks up nor dials;
    * `:actions`: the actions of the current event, latest first.
  """
  @type t :: %__MODULE__{
          options: options,
          sources: [{Config.source(), Source.t()}],
          budget: AtomBudget.t(),
          rand: :rand.state(),
          peers: %{String.t() => Peer.t()},
          counts: counts,
          unconnected: non_neg_integer,
          connected_nodes: MapSet.t(String.t()),
          leaving: %{String.t() => until :: integer},
          retried_others_at: integer | nil,
          queue: DialQueue.t(),
          links: Links.t() | nil,
          slots: Slots.t(),
          published: [entry] | nil,
          alarms: Alarms.t(),
          prune_round: MapSet.t(Config.source()),
          repeats: %{Config.source() => repeat},
          drained: boolean,
          actions: [action]
        }

  @typedoc """
    * `:endpoints`, `:complete`: the content of the answer;
    * `:applied_at`: when it was last applied to the peers in full;
    * `:seen_at`: when an equal answer last came.
  """
  @type repeat :: %{
          endpoints: %{String.t() => Endpoint.t()},
          complete: boolean,
          applied_at: integer,
          seen_at: integer
        }

  @type options :: %{
          min_interval: pos_integer,
          poll_interval: pos_integer,
          keep: non_neg_integer,
          prune: pos_integer | nil,
          max_nodes: pos_integer,
          max_connects: pos_integer,
          links: :all | non_neg_integer
        }

  @typedoc "The number of members, and the number of connected peers."
  @type counts :: %{members: non_neg_integer, connected: non_neg_integer}

  @typedoc """
  What a connection is to a topology with a limited number of links:

    * `:preferred`: it connects a preferred member;
    * `:stand_in`: this topology has connected another member, because a preferred one could not be reached;
    * `:released`: it was a stand-in, and this topology has given it up;
    * `:other`: this topology did not make it. Another node or another part of this VM did.
  """
  @type link :: :preferred | :stand_in | :released | :other

  @typedoc "An entry of the peer table. Without a port, the port follows from the name."
  @type entry :: {String.t(), :inet.port_number() | nil, [:inet.ip_address()]}

  @type action ::
          {:lookup, Config.source()}
          # `probe_every` is in milliseconds. With `nil`, the node is connected without a probe.
          | {:connect, String.t(), probe_every :: pos_integer | nil}
          | {:disconnect, String.t()}
          # A stand-in is no longer needed. It is disconnected, unless another topology of this VM or the other node
          # wants the link.
          | {:release, String.t()}
          | {:publish, [entry]}
          | {:rotate_addresses, String.t()}
          | {:report, report}

  # The link is nil with `links: :all`.
  @type report ::
          {:nodes_up | :nodes_down, [String.t()], link | nil}
          | {:link_released, String.t()}
          | {:members_changed, added :: [String.t()], removed :: [String.t()]}
          | {:lookup_failed, Config.source(), {kind :: term, text :: String.t()}}
          # The name may have records of another type that is looked up too.
          | {:no_records, Config.source(), {kind :: term, text :: String.t()}}
          | {:lookup_recovered, Config.source()}
          | {:connect_failed, String.t(), kind :: term}
          | {:limit, :max_nodes | :max_new_names | :atom_table, left_out :: pos_integer}
          | {:pruned, [String.t()], spared :: non_neg_integer}
          | {:port_conflict, [String.t()]}

  @spec new(Config.t(), integer, integer) :: t
  def new(config, seed, now) do
    %__MODULE__{
      options: options(config),
      sources:
        for(
          source <- config.sources,
          do: {source, %Source{next_lookup_at: now, responded_at: now}}
        ),
      budget: AtomBudget.new(config.max_new_names),
      rand: :rand.seed_s(:exsss, seed),
      queue: DialQueue.new(),
      links: Links.new(config.links, config.release_links),
      slots: Slots.new(),
      connected_nodes: MapSet.new(),
      alarms: Alarms.new(),
      prune_round: MapSet.new()
    }
  end

  defp options(config),
    do: Map.take(config, ~w(min_interval poll_interval keep prune max_nodes max_connects links)a)

  @spec source(t, Config.source()) :: Source.t()
  def source(state, source) do
    {_source, poll} = List.keyfind(state.sources, source, 0)
    poll
  end

  @spec source_names(t) :: [Config.source()]
  def source_names(state), do: Enum.map(state.sources, &elem(&1, 0))

  @spec put_source(t, Config.source(), Source.t()) :: t
  def put_source(state, source, poll),
    do: %{state | sources: List.keyreplace(state.sources, source, 0, {source, poll})}

  @doc "Stores a new or changed peer, and updates the counts and the queue, or the links."
  @spec put_peer(t, Peer.t()) :: t
  def put_peer(state, %Peer{name: name} = peer),
    do: replace(state, peer(state, name), peer, Map.put(state.peers, name, peer))

  @doc "Deletes a peer, if there is one of this name."
  @spec delete_peer(t, String.t()) :: t
  def delete_peer(%__MODULE__{} = state, name),
    do: replace(state, peer(state, name), nil, Map.delete(state.peers, name))

  @spec start_connect(t, String.t(), now :: integer) :: t
  def start_connect(state, name, now),
    do: put_slots(state, name, Slots.start(state.slots, name, now))

  @spec finish_connect(t, String.t()) :: t
  def finish_connect(state, name), do: put_slots(state, name, Slots.finish(state.slots, name))

  defp peer(%{peers: peers}, name) do
    case peers do
      %{^name => peer} -> peer
      _ -> nil
    end
  end

  # Updates the counts, and the queue or the links, when one peer changes.
  defp replace(%{slots: slots, counts: counts} = state, old, new, peers) do
    counts = %{
      members: counts.members + count(member?(new)) - count(member?(old)),
      connected: counts.connected + count(connected?(new)) - count(connected?(old))
    }

    unconnected = state.unconnected + count(unconnected?(new)) - count(unconnected?(old))

    %{state | peers: peers, counts: counts, unconnected: unconnected}
    |> move({slots, old}, {slots, new})
  end

  defp put_slots(state, name, slots) do
    peer = peer(state, name)
    %{state | slots: slots} |> move({state.slots, peer}, {slots, peer})
  end

  # Updates the queue, or the links, when one peer or its connect in progress changes.
  defp move(%{links: nil} = state, {old_slots, old}, {new_slots, new}),
    do: %{state | queue: DialQueue.move(state.queue, key(old_slots, old), key(new_slots, new))}

  defp move(state, {_old_slots, nil}, {_slots, nil}), do: state

  defp move(state, {_old_slots, old}, {slots, new}) do
    place = if member?(new), do: place(slots, new)
    %{state | links: Links.put(state.links, (new || old).name, place)}
  end

  defp place(_slots, %Peer{connected_since: since} = peer) when since != nil,
    do: if(peer.draining, do: :leaving, else: {:connected, peer.opened})

  defp place(slots, peer) do
    case Slots.started_at(slots, peer.name) do
      nil -> {:waiting, DialQueue.key(peer)}
      since -> {:dialling, since, Peer.new?(peer)}
    end
  end

  defp member?(peer), do: peer != nil and Peer.member?(peer)
  defp connected?(peer), do: peer != nil and Peer.connected?(peer)
  defp unconnected?(peer), do: member?(peer) and not Peer.connected?(peer)
  defp count(true), do: 1
  defp count(false), do: 0

  # Returns the place of a peer in the queue. Only a member that is neither connected nor being dialled has one.
  defp key(slots, peer) do
    if member?(peer) and not connected?(peer) and not Slots.started?(slots, peer.name),
      do: DialQueue.key(peer)
  end

  @spec update_peers(t, [String.t()], (Peer.t() -> Peer.t())) :: t
  def update_peers(state, names, fun),
    do: Enum.reduce(names, state, &put_peer(&2, fun.(Map.fetch!(&2.peers, &1))))

  @spec connected(t) :: [String.t()]
  def connected(state), do: for({name, peer} <- state.peers, Peer.connected?(peer), do: name)

  @doc "Returns what the connection of a peer is, or `nil` if the number of links has no limit."
  @spec link(t, Peer.t()) :: link | nil
  def link(%__MODULE__{links: nil}, _peer), do: nil

  def link(%__MODULE__{links: links, slots: slots}, peer) do
    cond do
      peer.released -> :released
      Links.preferred?(links, peer.name) -> :preferred
      member?(peer) and (peer.opened or Slots.started?(slots, peer.name)) -> :stand_in
      true -> :other
    end
  end

  @doc """
  Returns the counts on which the waits before connects depend.

  With a limited number of links, most members are not connected. So only those whose connect failed count as not
  connected.
  """
  @spec backoff_counts(t) :: counts
  def backoff_counts(%__MODULE__{links: nil, counts: counts}), do: counts

  def backoff_counts(%__MODULE__{links: links, counts: counts}),
    do: %{counts | connected: counts.members - Links.failing(links)}

  @doc "Returns how many nodes may see the same failure or nodedown."
  @spec witnesses(t) :: non_neg_integer
  def witnesses(%__MODULE__{links: nil, counts: counts}), do: counts.connected
  def witnesses(%__MODULE__{counts: counts}), do: max(counts.members, counts.connected)

  @spec random(t) :: {float, t}
  def random(state) do
    {random, rand} = :rand.uniform_s(state.rand)
    {random, %{state | rand: rand}}
  end

  @spec add_action(t, action) :: t
  def add_action(%__MODULE__{} = state, action), do: %{state | actions: [action | state.actions]}

  @spec report_if(t, boolean, report) :: t
  def report_if(%__MODULE__{} = state, true, report), do: add_action(state, {:report, report})
  def report_if(%__MODULE__{} = state, false, _report), do: state

  @doc "Sets an alarm, and reports it only if it was not set before."
  @spec set_alarm(t, what :: term, report) :: t
  def set_alarm(%__MODULE__{} = state, what, report) do
    {new?, alarms} = Alarms.set(state.alarms, what)
    report_if(%{state | alarms: alarms}, new?, report)
  end

  @spec clear_alarm(t, what :: term) :: t
  def clear_alarm(%__MODULE__{} = state, what),
    do: %{state | alarms: Alarms.clear(state.alarms, what)}
end
