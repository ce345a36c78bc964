defmodule Caravan.Cluster.Membership.Peer do
  # Pure. One node of a topology: which sources name it, whether it is connected, and when it is dialled next.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Membership.Backoff

  @enforce_keys [:name, :first_seen_at, :missing_since, :gone_since, :retry_at]
  defstruct @enforce_keys ++
              [
                endpoints: %{},
                recently_seen: %{},
                address_turn: 0,
                missed_answers: %{},
                prune_attempts: 0,
                connected_since: nil,
                was_connected: false,
                connect_failures: 0,
                flaps: 0,
                reported: [],
                atom_allowed: false,
                port_conflict: false,
                draining: false,
                opened: false,
                released: false
              ]

  @typedoc """
    * `:first_seen_at`: when an answer first contained the node;
    * `:endpoints`: by source, the ports and addresses in its last answer that contained the node, and the time of
      that answer. Without endpoints the node is not a member. It is kept only while it is connected;
    * `:recently_seen`: the ports and addresses that answers contained within `keep`, with the last time of each;
    * `:address_turn`: the index, modulo the number of addresses, of the address that the next connect uses first;
    * `:missed_answers`: by source, the number of consecutive complete answers that lacked the node. A nodeup
      clears it, and so does an answer that contains the node;
    * `:prune_attempts`: how often `:prune` has disconnected the node since `:missed_answers` was cleared;
    * `:connected_since`: the time of the nodeup, or `nil` while the node is not connected;
    * `:was_connected`: whether the node was ever connected. It becomes `false` again when a connection ends because the
      node left the cluster (drained), or because this topology gave the connection up;
    * `:connect_failures`: the number of consecutive failed connects;
    * `:reported`: the kinds of failures that were reported since the last nodeup;
    * `:missing_since`: the time of the last nodedown, or `:first_seen_at` before the first one;
    * `:gone_since`: the time from which waits grow while the node is not connected. It is the latest of these: the first
      answer that contained the node, its last nodedown, the last answer with a new port or address, the last `resume`;
    * `:retry_at`: the earliest time of the next connect;
    * `:flaps`: the number of consecutive connections that lasted less than five seconds;
    * `:atom_allowed`: whether the name is an atom, or may become one;
    * `:port_conflict`: whether a port conflict of the node was reported and still lasts;
    * `:draining`: whether the node has announced that it leaves;
    * `:opened`: whether a connect of this topology has made the present connection;
    * `:released`: whether this topology has given the present connection up.
  """
  @type t :: %__MODULE__{
          name: String.t(),
          first_seen_at: integer,
          endpoints: %{Config.source() => {seen_at :: integer, Endpoint.t()}},
          recently_seen: %{(:inet.port_number() | :inet.ip_address()) => seen_at :: integer},
          address_turn: non_neg_integer,
          missed_answers: %{Config.source() => pos_integer},
          prune_attempts: non_neg_integer,
          connected_since: integer | nil,
          was_connected: boolean,
          connect_failures: non_neg_integer,
          flaps: non_neg_integer,
          reported: [term],
          atom_allowed: boolean,
          port_conflict: boolean,
          draining: boolean,
          missing_since: integer,
          opened: boolean,
          released: boolean,
          gone_since: integer,
          retry_at: integer
        }

  # Milliseconds. A connection that ends sooner counts as a flap.
  @steady 5_000

  # Milliseconds. The time that a node may take to start if its peers start at the same moment, and the time to restart.
  @starts_within 2_000
  @restarts_within 10_000

  # The maximum number of addresses of a node, as in the peer table of the library (peers.rs).
  @max_addresses 16

  # Ports and addresses in :recently_seen. If there are more, the oldest are deleted.
  @max_recently_seen 64

  @spec new(String.t(), now :: integer) :: t
  def new(name, now),
    do: %__MODULE__{
      name: name,
      first_seen_at: now,
      missing_since: now,
      gone_since: now,
      retry_at: now
    }

  @spec member?(t) :: boolean
  def member?(%__MODULE__{endpoints: endpoints}), do: endpoints != %{}

  @spec connected?(t) :: boolean
  def connected?(%__MODULE__{connected_since: since}), do: since != nil

  @doc "Returns whether the node was never connected, and no connect has failed. To save time, it is dialled without a probe."
  @spec new?(t) :: boolean
  def new?(%__MODULE__{was_connected: was_connected, connect_failures: failures}),
    do: not was_connected and failures == 0

  @doc """
  Stores what an answer of a source says about the node.

  The node may have moved if it has a port or an address that no answer contained within the last `keep`
  milliseconds. Then it is dialled soon, despite earlier failures. Servers that answer with different addresses in
  turn do not cause that. If the endpoint has no addresses, the earlier ones are kept, because the lookup of the
  target may have timed out.
  """
  @spec put_endpoint(t, Config.source(), Endpoint.t(), keep :: non_neg_integer, now :: integer) ::
          t
  def put_endpoint(peer, source, endpoint, keep, now) do
    {_seen_at, old} = Map.get(peer.endpoints, source, {now, endpoint})

    endpoint =
      if endpoint.addresses == [], do: %{endpoint | addresses: old.addresses}, else: endpoint

    # Servers rotate their records. A different order alone does not change the endpoint.
    endpoint = if Endpoint.same?(endpoint, old), do: old, else: endpoint
    moved? = endpoint != old and not recently_seen?(peer, endpoint, now - keep)

    peer = %{
      peer
      | endpoints: Map.put(peer.endpoints, source, {now, endpoint}),
        recently_seen: see(peer.recently_seen, endpoint, now - keep, now),
        missed_answers: %{},
        prune_attempts: 0
    }

    if moved? and not peer.draining,
      do: restart_waits(%{peer | address_turn: 0}, now),
      else: peer
  end

  defp recently_seen?(peer, endpoint, since) do
    Enum.all?(endpoint.ports ++ endpoint.addresses, fn item ->
      match?(%{^item => at} when at >= since, peer.recently_seen)
    end)
  end

  defp see(recently_seen, endpoint, since, now) do
    items = endpoint.ports ++ endpoint.addresses
    recently_seen = Enum.reduce(items, recently_seen, &Map.put(&2, &1, now))

    if map_size(recently_seen) == length(items),
      do: recently_seen,
      else: forget(recently_seen, since)
  end

  defp forget(recently_seen, since) do
    recently_seen
    |> Enum.filter(fn {_item, at} -> at >= since end)
    |> Enum.sort_by(fn {_item, at} -> -at end)
    |> Enum.take(@max_recently_seen)
    |> Map.new()
  end

  @doc """
  Counts a complete answer of a source that lacks the node.

  Deletes the endpoint of this source if its last answer with the node is at least `keep` milliseconds old.
  """
  @spec miss(t, Config.source(), keep :: non_neg_integer, integer) :: t
  def miss(peer, source, keep, now) do
    endpoints =
      case peer.endpoints do
        %{^source => {seen_at, _endpoint}} when seen_at + keep <= now ->
          Map.delete(peer.endpoints, source)

        endpoints ->
          endpoints
      end

    %{
      peer
      | endpoints: endpoints,
        missed_answers: Map.update(peer.missed_answers, source, 1, &(&1 + 1))
    }
  end

  @doc """
  Returns the entry for the peer table, and whether the sources have different ports for the node.

  The first source with a port decides, and its addresses come first. Sources whose last answer with the node is
  older than `fresh` come after all others, and do not count as a conflict.
  """
  @spec entry(t, [Config.source()], fresh :: integer) ::
          {{String.t(), :inet.port_number() | nil, [:inet.ip_address()]}, conflict :: boolean}
  def entry(peer, sources, fresh) do
    seen = for source <- sources, %{^source => seen} <- [peer.endpoints], do: seen
    {new, old} = Enum.split_with(seen, fn {seen_at, _endpoint} -> seen_at >= fresh end)
    endpoints = for {_seen_at, endpoint} <- new ++ old, do: endpoint
    port = endpoints |> Enum.flat_map(& &1.ports) |> List.first()
    addresses = endpoints |> addresses() |> rotate(peer.address_turn)
    ports = new |> Enum.flat_map(fn {_seen_at, endpoint} -> endpoint.ports end) |> Enum.uniq()

    {{peer.name, port, addresses}, match?([_, _ | _], ports)}
  end

  @doc """
  Makes the next connect use the next address. Returns `false` if the node has only one address, or none.

  So if one of k addresses is reachable, the k-th connect reaches it at the latest.
  """
  @spec next_address(t) :: {boolean, t}
  def next_address(peer) do
    case addresses(for {_source, {_seen_at, endpoint}} <- peer.endpoints, do: endpoint) do
      [_, _ | _] -> {true, %{peer | address_turn: peer.address_turn + 1}}
      _ -> {false, peer}
    end
  end

  defp addresses(endpoints),
    do: endpoints |> Enum.flat_map(& &1.addresses) |> Enum.uniq() |> Enum.take(@max_addresses)

  defp rotate([], _turn), do: []

  defp rotate(addresses, turn) do
    {first, rest} = Enum.split(addresses, rem(turn, length(addresses)))
    rest ++ first
  end

  @doc "Marks the node as connected. `opened?` says whether a connect of this topology is in progress."
  @spec connected(t, now :: integer, opened? :: boolean) :: t
  def connected(peer, now, opened? \\ false) do
    %{
      peer
      | connected_since: now,
        opened: opened?,
        was_connected: true,
        atom_allowed: true,
        draining: false,
        reported: [],
        missed_answers: %{},
        prune_attempts: 0,
        connect_failures: 0
    }
  end

  @doc "Marks the connection as given up. The node is then disconnected."
  @spec release(t) :: t
  def release(peer), do: %{peer | opened: false, released: true}

  @doc """
  Marks the node as disconnected, and sets the time of the next connect.

  A node that was connected for five seconds or more is dialled almost at once. After a shorter connection (a flap), the
  wait is longer each time, up to `longest` milliseconds. A draining node is dialled after half a minute to a minute. A
  node whose connection was given up can be dialled at once. The last two count as never connected.
  """
  @spec disconnected(t, now :: integer, longest :: pos_integer, random :: float) :: t
  def disconnected(%{draining: true} = peer, now, _longest, random) do
    %{
      peer
      | connected_since: nil,
        was_connected: false,
        missing_since: now,
        opened: false,
        released: false,
        gone_since: now,
        retry_at: now + Backoff.after_drain(random)
    }
  end

  def disconnected(%{released: true} = peer, now, _longest, _random) do
    %{
      peer
      | connected_since: nil,
        was_connected: false,
        missing_since: now,
        released: false,
        gone_since: now,
        retry_at: now
    }
  end

  def disconnected(%{connected_since: since} = peer, now, _longest, random)
      when now - since >= @steady do
    %{
      peer
      | connected_since: nil,
        flaps: 0,
        missing_since: now,
        opened: false,
        gone_since: now,
        retry_at: now + Backoff.after_nodedown(random)
    }
  end

  def disconnected(peer, now, longest, random) do
    flaps = peer.flaps + 1

    %{
      peer
      | connected_since: nil,
        flaps: flaps,
        missing_since: now,
        opened: false,
        gone_since: now,
        retry_at: now + Backoff.after_flap(flaps, longest, random)
    }
  end

  @doc "Returns the time between two attempts of a probe in milliseconds."
  @spec probe_every(t, Backoff.counts(), now :: integer, random :: float) :: pos_integer
  def probe_every(%{was_connected: was_connected} = peer, counts, now, random) do
    failure = if was_connected, do: :probe, else: :new
    Backoff.wait(failure, max(0, now - peer.gone_since), counts, random)
  end

  @doc """
  Counts a failed connect or probe that began at `started_at`, and sets the time of the next one.

  For a node that was connected before, the wait after a failed probe begins at `started_at`: a probe without a reply
  has waited already. In all other cases the wait begins now.
  """
  @spec connect_failed(
          t,
          kind :: term,
          Backoff.counts(),
          started_at :: integer,
          now :: integer,
          random :: float
        ) :: t
  def connect_failed(peer, kind, counts, started_at, now, random) do
    gone = max(0, now - peer.gone_since)

    retry_at =
      case {kind, peer} do
        {{:probe, _, _}, %{was_connected: true, connect_failures: 0}} ->
          max(now, started_at + Backoff.after_first_probe(counts, random))

        {{:probe, _, _}, %{was_connected: true}} ->
          max(now, started_at + Backoff.wait(:probe, gone, counts, random))

        {_kind, %{was_connected: true}} ->
          now + Backoff.wait(:connect, gone, counts, random)

        # A first connect without a probe may have failed because the node is only starting.
        {kind, %{was_connected: false, connect_failures: failures}} ->
          failure = if failures == 0 or match?({:probe, _, _}, kind), do: :new, else: :new_connect
          Backoff.next_at_of_new(failure, now, gone, counts, random)
      end

    %{peer | connect_failures: peer.connect_failures + 1, retry_at: retry_at}
  end

  @doc """
  Returns whether a failure of this kind is to be reported, and marks the kind as reported.

  A single failure is not reported: if two nodes dial each other at the same time, one of the connects is refused. A failed
  probe is not reported while the node may only be starting: within two seconds for a node that was never connected, and
  within ten seconds after a nodedown.

  Two failures `{kind, details}` are of one kind even if their details differ, because processes and references in the
  details differ each time. Of the finding of a probe, only the kind counts, and not the address.
  """
  @spec report_once(t, kind :: term, now :: integer) :: {boolean, t}
  def report_once(peer, {:probe, finding, _duration}, now) do
    if now - peer.missing_since >= patience(peer),
      do: report_kind(peer, {:probe, elem(finding, 0)}),
      else: {false, peer}
  end

  def report_once(peer, {kind, _details}, _now), do: report_kind(peer, kind)
  def report_once(peer, kind, _now), do: report_kind(peer, kind)

  defp report_kind(peer, kind) do
    if peer.connect_failures > 1 and kind not in peer.reported and not peer.draining,
      do: {true, %{peer | reported: [kind | peer.reported]}},
      else: {false, peer}
  end

  defp patience(%{was_connected: true}), do: @restarts_within
  defp patience(%{was_connected: false}), do: @starts_within

  @doc "Makes the node be dialled at this time or earlier. The later waits stay the same."
  @spec retry_by(t, at :: integer) :: t
  def retry_by(peer, at), do: %{peer | retry_at: min(peer.retry_at, at)}

  @doc "Makes the node be dialled at this time or earlier, and its waits start again, because it may have moved."
  @spec restart_waits(t, at :: integer) :: t
  def restart_waits(peer, at) do
    %{retry_by(peer, at) | connect_failures: min(peer.connect_failures, 1), gone_since: at}
  end
end
