defmodule Caravan.Cluster.Membership.Peer do
  # What is known of one name: who named it, whether it is connected, when to dial it again.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Membership.Backoff

  @enforce_keys [:name, :known_since, :retry_at]
  defstruct @enforce_keys ++
              [
                named_by: %{},
                absent: %{},
                drops: 0,
                up_since: nil,
                was_up: false,
                failures: 0,
                flaps: 0,
                told: [],
                admitted: false,
                conflict: false,
                left: false
              ]

  @typedoc """
    * `:named_by`: by source, when it last named it, with which ports and addresses; without any, the
      name is no member any more and stays here only while its node is connected;
    * `:absent`: by source, in how many complete answers in a row it was missing, since anybody named
      it or it came up; `:drops`: how often it was to be disconnected since then;
    * `:up_since`: connected since; `:was_up`: once, at least;
    * `:failures` of connects in a row, `:told` the kinds of them that were reported, `:retry_at` the
      earliest next one;
    * `:flaps`: how often in a row it went down as soon as it was up;
    * `:admitted`: the name is an atom, or may become one;
    * `:conflict`: it was told of that the sources contradict each other about its port;
    * `:left`: the node said that it is leaving.
  """
  @type t :: %__MODULE__{
          name: String.t(),
          known_since: integer,
          named_by: %{Config.source() => said},
          absent: %{Config.source() => pos_integer},
          drops: non_neg_integer,
          up_since: integer | nil,
          was_up: boolean,
          failures: non_neg_integer,
          flaps: non_neg_integer,
          told: [term],
          admitted: boolean,
          conflict: boolean,
          left: boolean,
          retry_at: integer
        }

  @type said :: {seen :: integer, [:inet.port_number()], [:inet.ip_address()]}

  # A node that goes down sooner than this after it came up did not really come up.
  @steady 5_000

  # As many failures as it takes to be dialled once a minute.
  @many_failures 8

  # As many as the table in the NIF takes.
  @max_addresses 8

  @spec new(String.t(), now :: integer) :: t
  def new(name, now), do: %__MODULE__{name: name, known_since: now, retry_at: now}

  @spec member?(t) :: boolean
  def member?(%__MODULE__{named_by: named_by}), do: named_by != %{}

  @spec up?(t) :: boolean
  def up?(%__MODULE__{up_since: since}), do: since != nil

  @doc """
  A source names it. Where it names another port, or other addresses, than before, what failed so far says
  nothing any more. No addresses are no news: they could not be found in time.
  """
  @spec named(t, Config.source(), [:inet.port_number()], [:inet.ip_address()], integer) :: t
  def named(peer, source, ports, addresses, now) do
    {_seen, old_ports, old_addresses} = Map.get(peer.named_by, source, {now, ports, addresses})
    addresses = if addresses == [], do: old_addresses, else: addresses
    named_by = Map.put(peer.named_by, source, {now, ports, addresses})
    peer = %{peer | named_by: named_by, absent: %{}, drops: 0}

    if {ports, addresses} == {old_ports, old_addresses} or peer.left,
      do: peer,
      else: retry(%{peer | told: []}, now)
  end

  @doc "A complete answer of a source lacks it: after `keep` milliseconds it is no longer named by it."
  @spec missed(t, Config.source(), keep :: non_neg_integer, integer) :: t
  def missed(peer, source, keep, now) do
    named_by =
      case peer.named_by do
        %{^source => {seen, _ports, _addresses}} when seen + keep <= now ->
          Map.delete(peer.named_by, source)

        named_by ->
          named_by
      end

    %{peer | named_by: named_by, absent: Map.update(peer.absent, source, 1, &(&1 + 1))}
  end

  @doc """
  What the table of addresses is told, and whether the sources contradict each other about the port. In the
  order of the sources, but those that have not named it since `fresh` come last, and contradict nobody.
  """
  @spec entry(t, [Config.source()], fresh :: integer) ::
          {{String.t(), :inet.port_number() | nil, [:inet.ip_address()]}, conflict :: boolean}
  def entry(peer, sources, fresh) do
    said = for source <- sources, %{^source => said} <- [peer.named_by], do: said
    {new, old} = Enum.split_with(said, fn {seen, _ports, _addresses} -> seen >= fresh end)
    port = (new ++ old) |> Enum.flat_map(&elem(&1, 1)) |> List.first()
    addresses = (new ++ old) |> Enum.flat_map(&elem(&1, 2)) |> Enum.uniq()
    ports = new |> Enum.flat_map(&elem(&1, 1)) |> Enum.uniq()

    {{peer.name, port, Enum.take(addresses, @max_addresses)}, match?([_, _ | _], ports)}
  end

  @spec joined(t, integer) :: t
  def joined(peer, now) do
    %{
      peer
      | up_since: now,
        was_up: true,
        admitted: true,
        left: false,
        told: [],
        absent: %{},
        drops: 0,
        failures: 0
    }
  end

  @doc "It went down. One that lasted is dialled at once; one that comes and goes waits longer each time."
  @spec lost(t, integer, longest :: pos_integer, float) :: t
  def lost(%{left: true} = peer, now, _longest, random) do
    wait = Backoff.wait(@many_failures, Backoff.longest(), random)
    %{peer | up_since: nil, was_up: false, failures: @many_failures, retry_at: now + wait}
  end

  def lost(%{up_since: since} = peer, now, _longest, random) when now - since >= @steady do
    %{peer | up_since: nil, flaps: 0, retry_at: now + Backoff.after_nodedown(random)}
  end

  def lost(peer, now, longest, random) do
    flaps = peer.flaps + 1
    %{peer | up_since: nil, flaps: flaps, retry_at: now + Backoff.wait(flaps, longest, random)}
  end

  @spec failed(t, integer, longest :: pos_integer, float) :: t
  def failed(peer, now, longest, random) do
    failures = peer.failures + 1
    longest = if peer.was_up, do: longest, else: Backoff.longest()
    %{peer | failures: failures, retry_at: now + Backoff.wait(failures, longest, random)}
  end

  @doc """
  Takes the kind of a failure in. True: tell of it. Once is no news: of two nodes that dial each other,
  one is refused. Details, such as processes and references, make no other kind.
  """
  @spec tell(t, kind :: term) :: {boolean, t}
  def tell(peer, {kind, _details}), do: tell(peer, kind)

  def tell(peer, kind) do
    if peer.failures > 1 and kind not in peer.told and not peer.left,
      do: {true, %{peer | told: [kind | peer.told]}},
      else: {false, peer}
  end

  @doc "Something suggests that it can be reached again: it is dialled at this time, or sooner."
  @spec retry(t, at :: integer) :: t
  def retry(peer, at),
    do: %{peer | failures: min(peer.failures, 1), retry_at: min(peer.retry_at, at)}
end
