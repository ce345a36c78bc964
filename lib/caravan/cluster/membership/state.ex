defmodule Caravan.Cluster.Membership.State do
  # Pure. The state of Membership, and the functions that change it.
  @moduledoc false

  alias Caravan.Cluster.Alarms
  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Membership.AtomBudget
  alias Caravan.Cluster.Membership.DialQueue
  alias Caravan.Cluster.Membership.Peer
  alias Caravan.Cluster.Membership.Slots
  alias Caravan.Cluster.Membership.Source

  @enforce_keys ~w(options sources budget rand queue slots connected_nodes alarms prune_round)a
  defstruct @enforce_keys ++
              [
                peers: %{},
                counts: %{members: 0, connected: 0},
                retried_others_at: nil,
                published: [],
                repeats: %{},
                drained: false,
                actions: []
              ]

  @typedoc """
    * `:options`: the options that the core needs;
    * `:sources`: in the order of the options;
    * `:peers`: changed only by `put_peer/2` and `delete_peer/2`, which also update `:counts` and `:queue`;
    * `:connected_nodes`: all connected nodes, of this topology or not;
    * `:retried_others_at`: when `retry_others/3` of `Membership` last walked over all peers;
    * `:queue`: the members that are neither connected nor being dialled;
    * `:slots`: the nodes that are being dialled;
    * `:published`: the entries of the last `:publish` action, or `nil` if the table had no room for them;
    * `:alarms`: the conditions that were reported and still last;
    * `:prune_round`: the sources that must answer before the next nodes are disconnected;
    * `:repeats`: by source, its last answer, if another one that is equal changes nothing;
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
          connected_nodes: MapSet.t(String.t()),
          retried_others_at: integer | nil,
          queue: DialQueue.t(),
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
    * `:applied_at`: when it was applied to the peers, and `:seen_at`: when it came last.
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
          max_connects: pos_integer
        }

  @typedoc "The number of members, and the number of connected peers."
  @type counts :: %{members: non_neg_integer, connected: non_neg_integer}

  @typedoc "An entry of the table of addresses. Without a port, the port follows from the name."
  @type entry :: {String.t(), :inet.port_number() | nil, [:inet.ip_address()]}

  @type action ::
          {:lookup, Config.source()}
          # Without a time, the node is connected without a probe.
          | {:connect, String.t(), probe_every :: pos_integer | nil}
          | {:disconnect, String.t()}
          | {:publish, [entry]}
          | {:rotate_addresses, String.t()}
          | {:report, report}

  @type report ::
          {:nodes_up | :nodes_down, [String.t()]}
          | {:members_changed, added :: [String.t()], removed :: [String.t()]}
          | {:lookup_failed, Config.source(), text :: String.t()}
          | {:lookup_recovered, Config.source()}
          | {:connect_failed, String.t(), kind :: term}
          | {:limit, :max_nodes | :max_new_names | :atom_table, left_out :: pos_integer}
          | {:pruned, [String.t()], spared :: non_neg_integer}
          | {:port_conflict, [String.t()]}

  @spec new(Config.t(), integer, integer) :: t
  def new(config, seed, now) do
    %__MODULE__{
      options: options(config),
      sources: for(source <- config.sources, do: {source, %Source{next_lookup_at: now}}),
      budget: AtomBudget.new(config.max_new_names),
      rand: :rand.seed_s(:exsss, seed),
      queue: DialQueue.new(),
      slots: Slots.new(),
      connected_nodes: MapSet.new(),
      alarms: Alarms.new(),
      prune_round: MapSet.new()
    }
  end

  defp options(config),
    do:
      Map.take(config, [:min_interval, :poll_interval, :keep, :prune, :max_nodes, :max_connects])

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

  @doc "Stores a new or changed peer, and updates the counts and the queue."
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

  # Updates the counts and the queue when one peer changes.
  defp replace(%{slots: slots, counts: counts} = state, old, new, peers) do
    counts = %{
      members: counts.members + count(member?(new)) - count(member?(old)),
      connected: counts.connected + count(connected?(new)) - count(connected?(old))
    }

    queue = DialQueue.move(state.queue, key(slots, old), key(slots, new))
    %{state | peers: peers, counts: counts, queue: queue}
  end

  defp put_slots(state, name, slots) do
    peer = peer(state, name)
    queue = DialQueue.move(state.queue, key(state.slots, peer), key(slots, peer))
    %{state | slots: slots, queue: queue}
  end

  defp member?(peer), do: peer != nil and Peer.member?(peer)
  defp connected?(peer), do: peer != nil and Peer.connected?(peer)
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

  @spec members(t) :: [String.t()]
  def members(state), do: for({name, peer} <- state.peers, Peer.member?(peer), do: name)

  @spec connected(t) :: [String.t()]
  def connected(state), do: for({name, peer} <- state.peers, Peer.connected?(peer), do: name)

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
