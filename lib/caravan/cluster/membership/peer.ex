defmodule Caravan.Cluster.Membership.Peer do
  # Pure. What is known of one name: who named it, whether it is connected, when to dial it again.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Membership.Backoff

  @enforce_keys [:name, :first_seen_at, :retry_at]
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
                draining: false
              ]

  @typedoc """
    * `:endpoints`: by source, when it last named it, with which ports and addresses; without any, the
      name is no member any more and stays here only while its node is connected;
    * `:recently_seen`: the ports and addresses that answers had within `keep`, with the time of the last one;
    * `:address_turn`: with which of its addresses the next connect begins;
    * `:missed_answers`: by source, in how many complete answers in a row it was missing, since anybody named
      it or it came up; `:prune_attempts`: how often it was to be disconnected since then;
    * `:connected_since`: connected since; `:was_connected`: once, at least;
    * `:connect_failures` of connects in a row, `:reported` the kinds of them that were reported, `:retry_at` the
      earliest next one;
    * `:flaps`: how often in a row it went down as soon as it was up;
    * `:atom_allowed`: the name is an atom, or may become one;
    * `:port_conflict`: it was told of that the sources contradict each other about its port;
    * `:draining`: the node said that it is leaving.
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
          retry_at: integer
        }

  # A node that goes down sooner than this after it came up did not really come up.
  @steady 5_000

  # As many failures as it takes to be dialled once a minute.
  @many_failures 8

  # As many as the table in the NIF takes.
  @max_addresses 16

  # The most ports and addresses of a name that are remembered. Of more, the oldest are forgotten.
  @max_recently_seen 64

  @spec new(String.t(), now :: integer) :: t
  def new(name, now), do: %__MODULE__{name: name, first_seen_at: now, retry_at: now}

  @spec member?(t) :: boolean
  def member?(%__MODULE__{endpoints: endpoints}), do: endpoints != %{}

  @spec connected?(t) :: boolean
  def connected?(%__MODULE__{connected_since: since}), do: since != nil

  @doc """
  Stores what an answer of a source says about the node.

  A port or an address that no answer had within `keep` milliseconds is news: earlier failures then say nothing
  about the node any more, and it is dialled soon. Addresses that come and go with the server that answers are
  not. An endpoint without addresses keeps the earlier ones, because they could not be found in time.
  """
  @spec put_endpoint(t, Config.source(), Endpoint.t(), keep :: non_neg_integer, now :: integer) ::
          t
  def put_endpoint(peer, source, endpoint, keep, now) do
    {_seen_at, old} = Map.get(peer.endpoints, source, {now, endpoint})

    endpoint =
      if endpoint.addresses == [], do: %{endpoint | addresses: old.addresses}, else: endpoint

    # A server may change the order of its records from answer to answer. That changes nothing.
    endpoint = if Endpoint.same?(endpoint, old), do: old, else: endpoint
    news? = endpoint != old and not recently_seen?(peer, endpoint, now - keep)

    peer = %{
      peer
      | endpoints: Map.put(peer.endpoints, source, {now, endpoint}),
        recently_seen: see(peer.recently_seen, endpoint, now - keep, now),
        missed_answers: %{},
        prune_attempts: 0
    }

    if news? and not peer.draining,
      do: retry_by(%{peer | address_turn: 0}, now),
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

  @doc "A complete answer of a source lacks it: after `keep` milliseconds it is no longer named by it."
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
  What the table of addresses is told, and whether the sources contradict each other about the port. In the
  order of the sources, but those that have not named it since `fresh` come last, and contradict nobody.
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
  Makes the next connect begin with the next address. Returns `false` if the node has no other address.

  So a node with k addresses, of which one answers, is connected by the k-th connect at the latest.
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

  @spec connected(t, integer) :: t
  def connected(peer, now) do
    %{
      peer
      | connected_since: now,
        was_connected: true,
        atom_allowed: true,
        draining: false,
        reported: [],
        missed_answers: %{},
        prune_attempts: 0,
        connect_failures: 0
    }
  end

  @doc "It went down. One that lasted is dialled at once; one that comes and goes waits longer each time."
  @spec disconnected(t, integer, longest :: pos_integer, float) :: t
  def disconnected(%{draining: true} = peer, now, _longest, random) do
    wait = Backoff.wait(@many_failures, Backoff.longest(), random)

    %{
      peer
      | connected_since: nil,
        was_connected: false,
        connect_failures: @many_failures,
        retry_at: now + wait
    }
  end

  def disconnected(%{connected_since: since} = peer, now, _longest, random)
      when now - since >= @steady do
    %{peer | connected_since: nil, flaps: 0, retry_at: now + Backoff.after_nodedown(random)}
  end

  def disconnected(peer, now, longest, random) do
    flaps = peer.flaps + 1

    %{
      peer
      | connected_since: nil,
        flaps: flaps,
        retry_at: now + Backoff.wait(flaps, longest, random)
    }
  end

  @spec connect_failed(t, integer, longest :: pos_integer, float) :: t
  def connect_failed(peer, now, longest, random) do
    failures = peer.connect_failures + 1
    longest = if peer.was_connected, do: longest, else: Backoff.longest()
    %{peer | connect_failures: failures, retry_at: now + Backoff.wait(failures, longest, random)}
  end

  @doc """
  Takes the kind of a failure in. True: tell of it. Once is no news: of two nodes that dial each other,
  one is refused. Details, such as processes and references, make no other kind.
  """
  @spec report_once(t, kind :: term) :: {boolean, t}
  def report_once(peer, {kind, _details}), do: report_once(peer, kind)

  def report_once(peer, kind) do
    if peer.connect_failures > 1 and kind not in peer.reported and not peer.draining,
      do: {true, %{peer | reported: [kind | peer.reported]}},
      else: {false, peer}
  end

  @doc "Something suggests that it can be reached again: it is dialled at this time, or sooner."
  @spec retry_by(t, at :: integer) :: t
  def retry_by(peer, at),
    do: %{
      peer
      | connect_failures: min(peer.connect_failures, 1),
        retry_at: min(peer.retry_at, at)
    }
end
