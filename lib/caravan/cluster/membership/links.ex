defmodule Caravan.Cluster.Membership.Links do
  # Pure. With the option `links: k`: to which members this node connects, and which links it gives up.
  #
  # The preferred members are the first k by rank. A stand-in is another member that this topology has connected,
  # because a preferred one could not be reached. The rank is a hash of both names (rendezvous hashing). So the members
  # share the links of all nodes evenly, and a member that comes or goes moves only its own links.
  #
  # An event about one member costs O(log n).
  @moduledoc false

  alias Caravan.Cluster.Membership.DialQueue

  # Hashes are in the range 0..2^32-1.
  @hashes 4_294_967_296

  # Milliseconds. A connect without an outcome for this time probably goes to a host that drops packets. It continues, but
  # a stand-in is dialled. So after three silent members in a row, the fourth is still connected within a second.
  @silent_after 300

  # Milliseconds. Stand-ins are given up once all preferred members have been connected for @settled_after, at most one
  # in each @release_every.
  @settled_after 60_000
  @release_every 1_000

  @enforce_keys ~w(limit release preferred others preferred_queue other_queue stand_ins hopeful)a
  defstruct @enforce_keys ++
              [
                self: nil,
                members: %{},
                connected: 0,
                failing: 0,
                full_since: nil,
                released_at: nil
              ]

  @typedoc """
    * `:limit`: the option `:links`, and `:release`: the option `:release_links`;
    * `:self`: the name of this node, on which ranks depend;
    * `:members`: all members by name;
    * `:preferred`: the first `:limit` members by rank, and `:others`: the other members;
    * `:preferred_queue` and `:other_queue`: the preferred and the other members that wait to be dialled;
    * `:connected`: the number of preferred members that are connected;
    * `:stand_ins`: the other members that are connected because this topology dialled them;
    * `:hopeful`: the connects in progress that will probably succeed. They count as links;
    * `:failing`: the number of members that wait after a failed connect;
    * `:full_since`: since when all preferred members have been connected, or `nil`;
    * `:released_at`: when the last stand-in was given up.
  """
  @opaque t :: %__MODULE__{
            limit: non_neg_integer,
            release: boolean,
            self: String.t() | nil,
            members: %{String.t() => {hash :: non_neg_integer, place}},
            preferred: :gb_sets.set(rank),
            others: :gb_sets.set(rank),
            preferred_queue: DialQueue.t(),
            other_queue: DialQueue.t(),
            connected: non_neg_integer,
            stand_ins: :gb_sets.set(rank),
            hopeful: :gb_sets.set({since :: integer, String.t()}),
            failing: non_neg_integer,
            full_since: integer | nil,
            released_at: integer | nil
          }

  @typep rank :: {hash :: non_neg_integer, String.t()}

  @typedoc """
  What a member does:

    * `{:waiting, key}`: it waits to be dialled;
    * `{:dialling, since, new?}`: a connect is in progress. A new node was never connected and has not failed;
    * `{:connected, opened?}`: it is connected, by a connect of this topology or not;
    * `:leaving`: it is connected, but has announced that it leaves.
  """
  @type place ::
          {:waiting, DialQueue.key()}
          | {:dialling, since :: integer, new? :: boolean}
          | {:connected, opened? :: boolean}
          | :leaving

  @doc "Returns the links for the option `links: limit`, or `nil` for `:all`, with which all members are dialled."
  @spec new(:all | non_neg_integer, release? :: boolean) :: t | nil
  def new(:all, _release), do: nil

  def new(limit, release) do
    %__MODULE__{
      limit: limit,
      release: release,
      preferred: :gb_sets.empty(),
      others: :gb_sets.empty(),
      preferred_queue: DialQueue.new(@hashes),
      other_queue: DialQueue.new(@hashes),
      stand_ins: :gb_sets.empty(),
      hopeful: :gb_sets.empty()
    }
  end

  @doc "Moves a member to a place. Adds it if it is new. With `nil`, deletes it."
  @spec put(t, String.t(), place | nil) :: t
  def put(%__MODULE__{members: members} = links, name, place) do
    case {members, place} do
      {%{^name => {_hash, ^place}}, _place} -> links
      {%{^name => {hash, _old}}, nil} -> delete(links, {hash, name})
      {%{^name => {hash, _old}}, place} -> move(links, {hash, name}, place)
      {_members, nil} -> links
      {_members, place} -> insert(links, name, place)
    end
  end

  @doc "Makes the members ready whose time is `now` or earlier. `self` is the name of this node."
  @spec mature(t, now :: integer, self :: String.t()) :: t
  def mature(%__MODULE__{self: self} = links, now, self), do: mature_queues(links, now)

  # Distribution has started, and this node has a new name. Ranks depend on it.
  def mature(%__MODULE__{} = links, now, self) do
    empty = mature_queues(%{new(links.limit, links.release) | self: self}, now)
    members = for {name, {_hash, place}} <- links.members, do: {name, place}

    Enum.reduce(members, empty, fn {name, place}, links -> put(links, name, place) end)
  end

  defp mature_queues(%{self: self} = links, now) do
    %{
      links
      | preferred_queue: DialQueue.mature(links.preferred_queue, now, self),
        other_queue: DialQueue.mature(links.other_queue, now, self)
    }
  end

  @doc """
  Updates what depends on the time: which connects in progress are still hopeful, and since when all preferred members
  have been connected.

  Call it after each event.
  """
  @spec observe(t, now :: integer) :: t
  def observe(%__MODULE__{} = links, now) do
    links = expire(links, now)
    full? = links.connected == links.limit
    %{links | full_since: if(full?, do: links.full_since || now)}
  end

  defp expire(links, now) do
    case first(links.hopeful) do
      {since, _name} = hopeful when since + @silent_after <= now ->
        expire(%{links | hopeful: :gb_sets.delete(hopeful, links.hopeful)}, now)

      _later_or_nil ->
        links
    end
  end

  @doc "Forgets since when all preferred members have been connected."
  @spec interrupt(t) :: t
  def interrupt(%__MODULE__{} = links), do: %{links | full_since: nil}

  @doc "Returns whether a member is preferred."
  @spec preferred?(t, String.t()) :: boolean
  def preferred?(%__MODULE__{members: members} = links, name) do
    case members do
      %{^name => {hash, _place}} -> is_preferred(links, {hash, name})
      _ -> false
    end
  end

  @doc "Returns whether a member is preferred, or is a stand-in while a preferred one is not connected."
  @spec needed?(t, String.t()) :: boolean
  def needed?(%__MODULE__{members: members} = links, name) do
    case members do
      %{^name => {hash, _place}} ->
        rank = {hash, name}

        is_preferred(links, rank) or
          (links.connected < links.limit and :gb_sets.is_member(rank, links.stand_ins))

      _ ->
        false
    end
  end

  @doc "Returns the names of the preferred members, first by rank."
  @spec preferred(t) :: [String.t()]
  def preferred(%__MODULE__{preferred: preferred}),
    do: for({_hash, name} <- :gb_sets.to_list(preferred), do: name)

  @doc "Returns the number of members that wait after a failed connect."
  @spec failing(t) :: non_neg_integer
  def failing(%__MODULE__{failing: failing}), do: failing

  @doc "Returns the member to dial now, or `nil`. If links are missing, it may be a stand-in."
  @spec next(t) :: String.t() | nil
  def next(%__MODULE__{} = links) do
    DialQueue.first(links.preferred_queue) ||
      if missing(links) > 0, do: DialQueue.first(links.other_queue)
  end

  @doc "Returns the preferred members that are ready, and the others too if links are missing."
  @spec ready(t) :: [String.t()]
  def ready(%__MODULE__{} = links) do
    others = if missing(links) > 0, do: DialQueue.ready(links.other_queue), else: []
    DialQueue.ready(links.preferred_queue) ++ others
  end

  @doc "Returns when `next/1` will return a member: `:now`, a time, or `nil` if no member waits that it may return."
  @spec next_at(t) :: :now | integer | nil
  def next_at(%__MODULE__{} = links) do
    preferred = DialQueue.next_at(links.preferred_queue)
    other = if missing(links) > 0, do: DialQueue.next_at(links.other_queue)

    case {preferred, other} do
      {nil, other} -> other
      {preferred, nil} -> preferred
      {:now, _other} -> :now
      {_preferred, :now} -> :now
      {preferred, other} -> min(preferred, other)
    end
  end

  # May be negative, when preferred members are back and the stand-ins are still connected.
  defp missing(links) do
    links.limit - links.connected - :gb_sets.size(links.stand_ins) -
      :gb_sets.size(links.hopeful)
  end

  @doc """
  Returns a stand-in to give up now, the last one by rank, or `nil`.

  The caller then puts it to the place `{:connected, false}`.
  """
  @spec release(t, now :: integer) :: {String.t() | nil, t}
  def release(%__MODULE__{} = links, now) do
    case release_at(links) do
      at when is_integer(at) and at <= now ->
        {_hash, name} = :gb_sets.largest(links.stand_ins)
        {name, %{links | released_at: now}}

      _later_or_nil ->
        {nil, links}
    end
  end

  defp release_at(links) do
    if links.release and links.full_since != nil and not :gb_sets.is_empty(links.stand_ins) do
      settled_at = links.full_since + @settled_after
      if at = links.released_at, do: max(settled_at, at + @release_every), else: settled_at
    end
  end

  @doc "Returns the times at which `observe/2` and `release/2` must be called, beside those of `next_at/1`."
  @spec wakes(t) :: [integer]
  def wakes(%__MODULE__{} = links) do
    hopeful = with {since, _name} <- first(links.hopeful), do: since + @silent_after
    Enum.reject([hopeful, release_at(links)], &is_nil/1)
  end

  ## The order of rank

  defp insert(%{preferred: preferred} = links, name, place) do
    hash = :erlang.phash2({links.self, name}, @hashes)
    rank = {hash, name}
    links = %{links | members: Map.put(links.members, name, {hash, place})}

    cond do
      :gb_sets.size(preferred) < links.limit ->
        %{links | preferred: :gb_sets.add(rank, preferred)} |> enter(rank, place)

      links.limit > 0 and rank < :gb_sets.largest(preferred) ->
        {last, rest} = :gb_sets.take_largest(preferred)
        others = :gb_sets.add(last, links.others)

        links
        |> leave(last)
        |> Map.merge(%{preferred: :gb_sets.add(rank, rest), others: others})
        |> enter(last)
        |> enter(rank, place)

      true ->
        %{links | others: :gb_sets.add(rank, links.others)} |> enter(rank, place)
    end
  end

  defp delete(links, {_hash, name} = rank) do
    preferred? = is_preferred(links, rank)
    links = leave(links, rank)
    links = %{links | members: Map.delete(links.members, name)}

    if preferred?,
      do: promote(%{links | preferred: :gb_sets.delete(rank, links.preferred)}),
      else: %{links | others: :gb_sets.delete(rank, links.others)}
  end

  # A preferred member was deleted, so the first one of the others is preferred now.
  defp promote(links) do
    if :gb_sets.is_empty(links.others) do
      links
    else
      {rank, others} = :gb_sets.take_smallest(links.others)

      links
      |> leave(rank)
      |> Map.merge(%{preferred: :gb_sets.add(rank, links.preferred), others: others})
      |> enter(rank)
    end
  end

  defp move(links, {hash, name} = rank, place) do
    links = leave(links, rank)
    %{links | members: Map.put(links.members, name, {hash, place})} |> enter(rank, place)
  end

  defp is_preferred(links, rank), do: :gb_sets.is_member(rank, links.preferred)

  ## Places
  #
  # `enter` and `leave` read `:preferred`. So a member leaves its place before `:preferred` changes, and enters it after.

  defp enter(links, {_hash, name} = rank), do: enter(links, rank, place(links, name))
  defp enter(links, rank, place), do: count(links, rank, place, is_preferred(links, rank), 1)

  defp leave(links, {_hash, name} = rank),
    do: count(links, rank, place(links, name), is_preferred(links, rank), -1)

  defp place(links, name), do: links.members |> Map.fetch!(name) |> elem(1)

  defp count(links, _rank, {:waiting, key}, preferred?, change) do
    queue = if preferred?, do: :preferred_queue, else: :other_queue
    {from, to} = if change == 1, do: {nil, key}, else: {key, nil}
    links = Map.update!(links, queue, &DialQueue.move(&1, from, to))
    if failed?(key), do: %{links | failing: links.failing + change}, else: links
  end

  # A preferred member that was lost or has failed is dialled again and again. Its stand-in counts in its place.
  defp count(links, _rank, {:dialling, _since, false}, true, _change), do: links

  # A connect that is no longer hopeful has been deleted already.
  defp count(links, {_hash, name}, {:dialling, since, _new}, _preferred, change),
    do: %{links | hopeful: change(links.hopeful, {since, name}, change)}

  defp count(links, _rank, {:connected, _opened}, true, change),
    do: %{links | connected: links.connected + change}

  defp count(links, rank, {:connected, true}, false, change),
    do: %{links | stand_ins: change(links.stand_ins, rank, change)}

  defp count(links, _rank, _connected_or_leaving, _preferred, _change), do: links

  defp change(set, element, 1), do: :gb_sets.add(element, set)
  defp change(set, element, -1), do: :gb_sets.del_element(element, set)

  defp failed?({_at, failures, _name}), do: failures > 0

  defp first(set), do: unless(:gb_sets.is_empty(set), do: :gb_sets.smallest(set))
end
