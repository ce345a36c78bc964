defmodule Caravan.Test.Soak.Schedule do
  @moduledoc """
  Pure. Which faults a soak injects, and when: a sequence of rounds that follows from a seed.

      schedule = Schedule.new(42, nodes: 12, cuts: true)
      {round, schedule} = Schedule.next(schedule)

  Nodes are numbers from 1. Temporary faults end within their round. A node that is down, drained or missing from DNS
  may stay so for some rounds.
  """

  @enforce_keys [:rand, :conditions, :veterans, :cuts, :connect_all]
  defstruct @enforce_keys ++ [length: 0, steps: [], faults: []]

  @typedoc "A number from 1."
  @type id :: pos_integer
  @type condition :: :fit | :down | :drained | :unnamed
  @type dns ::
          :ok
          | :silent
          | :part
          | :truncated
          | :nxdomain
          | :servfail
          | :empty
          | :garbage
          | :slow
          | :stopped

  @typedoc """
    * `:kill` ends a VM, `:start` starts the next one under the same name
    * `:move` ends a VM, and the next one has another address; `:readdress` gives that address to DNS
    * `:remove` and `:add` are of the node's SRV record
  """
  @type action ::
          {:kill | :start | :move | :readdress | :pause | :continue, id}
          | {:remove | :add | :drain | :resume | :reload, id}
          | {:cut | :heal, [{id, id}]}
          | {:dns, dns}

  @typedoc """
  `:steps` are the actions, each with its time in milliseconds from the start of the round; `:faults` are the
  kinds of the faults that begin in the round.
  """
  @type round :: %{length: pos_integer, steps: [{non_neg_integer, action}], faults: [atom]}

  @type t :: %__MODULE__{
          rand: :rand.state(),
          conditions: %{id => condition},
          veterans: non_neg_integer,
          cuts: boolean,
          connect_all: boolean,
          length: non_neg_integer,
          steps: [{non_neg_integer, action}],
          faults: [atom]
        }

  # The length of a round in milliseconds, and the number of nodes with faults in it. One of six rounds is a storm: it
  # is long enough for waits to double several times.
  @length 4_000..12_000
  @faulty 1..4
  @storm_length 15_000..40_000
  @storm_faulty 4..8

  # The number of nodes that are down, drained or missing from DNS while the checks run.
  @most_lasting 3

  @ending_faults [:kill, :move]
  @other_faults [:pause, :remove, :drain, :reload]
  @dns_faults [:silent, :stopped, :part, :truncated, :nxdomain] ++
                [:servfail, :empty, :garbage, :slow]

  @doc """
  Returns the schedule of a seed. Options:

    * `nodes`: the number of nodes
    * `veterans`: the number of nodes, from node 1 on, whose VM is never ended, so that a slow leak shows
    * `cuts`: whether links between nodes can be cut

  The seed also decides whether the nodes run with `connect_all`. If they do, OTP's `global` connects nodes too,
  and disconnects healthy nodes when a link is lost.
  """
  @spec new(integer, nodes: pos_integer, veterans: non_neg_integer, cuts: boolean) :: t
  def new(seed, options) do
    {chance, rand} = :rand.uniform_s(2, :rand.seed_s(:exsss, seed))

    %__MODULE__{
      rand: rand,
      connect_all: chance == 1,
      conditions: Map.new(1..Keyword.fetch!(options, :nodes), &{&1, :fit}),
      veterans: Keyword.fetch!(options, :veterans),
      cuts: Keyword.fetch!(options, :cuts)
    }
  end

  @doc "Returns the next round, and the schedule with the conditions of the nodes at its end."
  @spec next(t) :: {round, t}
  def next(%__MODULE__{} = schedule) do
    {chance, schedule} = draw(schedule, 1..6)
    storm = chance == 1
    {length, schedule} = draw(schedule, if(storm, do: @storm_length, else: @length))

    schedule =
      %{schedule | length: length, steps: [], faults: []}
      |> end_lasting()
      |> disturb_nodes(if(storm, do: @storm_faulty, else: @faulty))
      |> disturb_dns()
      |> cut_links()

    steps = schedule.steps |> Enum.reverse() |> Enum.sort_by(&elem(&1, 0))
    {%{length: length, steps: steps, faults: Enum.reverse(schedule.faults)}, schedule}
  end

  @doc "Returns the nodes in this condition, sorted."
  @spec nodes(t, condition) :: [id]
  def nodes(%__MODULE__{conditions: conditions}, condition),
    do: Enum.sort(for {id, ^condition} <- conditions, do: id)

  ## Nodes

  # A node that becomes fit in this round has no further fault in it.
  defp end_lasting(schedule) do
    for condition <- [:down, :drained, :unnamed],
        id <- nodes(schedule, condition),
        reduce: schedule do
      schedule ->
        {chance, schedule} = draw(schedule, 1..3)
        {at, schedule} = draw(schedule, 0..schedule.length)

        if chance > 1,
          do: schedule |> step(at, {cure(condition), id}) |> set(id, :fit),
          else: schedule
    end
  end

  defp cure(:down), do: :start
  defp cure(:drained), do: :resume
  defp cure(:unnamed), do: :add

  defp disturb_nodes(schedule, faulty) do
    {count, schedule} = draw(schedule, faulty)
    busy = for {_at, {_action, id}} <- schedule.steps, do: id
    {ids, schedule} = shuffle(schedule, nodes(schedule, :fit) -- busy)
    ids |> Enum.take(count) |> Enum.reduce(schedule, &disturb(&2, &1))
  end

  defp disturb(schedule, id) do
    ending = if id <= schedule.veterans, do: [], else: @ending_faults
    {fault, schedule} = pick(schedule, ending ++ @other_faults)
    {{from, until}, schedule} = window(schedule)
    {chance, schedule} = draw(schedule, 1..4)
    lasts = chance == 1 and length(lasting(schedule)) < @most_lasting
    schedule |> fault(fault) |> disturb(id, fault, {from, until}, lasts)
  end

  defp disturb(schedule, id, :kill, {from, until}, lasts),
    do: schedule |> step(from, {:kill, id}) |> undo(until, {:start, id}, :down, lasts)

  defp disturb(schedule, id, :drain, {from, until}, lasts),
    do: schedule |> step(from, {:drain, id}) |> undo(until, {:resume, id}, :drained, lasts)

  defp disturb(schedule, id, :remove, {from, until}, lasts),
    do: schedule |> step(from, {:remove, id}) |> undo(until, {:add, id}, :unnamed, lasts)

  defp disturb(schedule, id, :pause, {from, until}, _lasts),
    do: schedule |> step(from, {:pause, id}) |> step(until, {:continue, id})

  defp disturb(schedule, id, :reload, {from, _until}, _lasts),
    do: step(schedule, from, {:reload, id})

  # Its record changes before it is up at its new address, or after.
  defp disturb(schedule, id, :move, {from, until}, _lasts) do
    {changed, schedule} = draw(schedule, from..schedule.length)

    schedule
    |> step(from, {:move, id})
    |> step(changed, {:readdress, id})
    |> step(until, {:start, id})
  end

  defp undo(schedule, _at, {_action, id}, condition, true), do: set(schedule, id, condition)
  defp undo(schedule, at, action, _condition, false), do: step(schedule, at, action)

  defp set(schedule, id, condition),
    do: %{schedule | conditions: Map.put(schedule.conditions, id, condition)}

  defp lasting(schedule),
    do: Enum.flat_map([:down, :drained, :unnamed], &nodes(schedule, &1))

  ## DNS and links

  defp disturb_dns(schedule) do
    {chance, schedule} = draw(schedule, 1..4)
    {mode, schedule} = pick(schedule, @dns_faults)
    {{from, until}, schedule} = window(schedule)

    if chance > 1,
      do:
        schedule
        |> fault(:"dns_#{mode}")
        |> step(from, {:dns, mode})
        |> step(until, {:dns, :ok}),
      else: schedule
  end

  defp cut_links(%{cuts: false} = schedule), do: schedule

  defp cut_links(schedule) do
    {chance, schedule} = draw(schedule, 1..4)
    {[first | others], schedule} = shuffle(schedule, Map.keys(schedule.conditions))
    {{from, until}, schedule} = window(schedule)

    case chance do
      1 -> cut(schedule, :isolate, {from, until}, for(other <- others, do: {first, other}))
      2 -> cut(schedule, :cut, {from, until}, [{first, hd(others)}])
      3 -> cut(schedule, :cut, {from, until}, pairs(Enum.take(others, 6)))
      4 -> schedule
    end
  end

  defp cut(schedule, fault, {from, until}, pairs),
    do: schedule |> fault(fault) |> step(from, {:cut, pairs}) |> step(until, {:heal, pairs})

  defp pairs(ids), do: for([a, b] <- Enum.chunk_every(ids, 2), do: {a, b})

  ## Chance

  defp step(schedule, at, action), do: %{schedule | steps: [{at, action} | schedule.steps]}
  defp fault(schedule, fault), do: %{schedule | faults: [fault | schedule.faults]}

  defp window(schedule) do
    {from, schedule} = draw(schedule, 0..div(schedule.length, 2))
    {until, schedule} = draw(schedule, (from + 1)..schedule.length)
    {{from, until}, schedule}
  end

  defp pick(schedule, list) do
    {index, schedule} = draw(schedule, 0..(length(list) - 1))
    {Enum.at(list, index), schedule}
  end

  defp shuffle(schedule, list) do
    {keyed, schedule} =
      Enum.map_reduce(list, schedule, fn item, schedule ->
        {key, schedule} = draw(schedule, 1..1_000_000_000)
        {{key, item}, schedule}
      end)

    {keyed |> Enum.sort() |> Enum.map(&elem(&1, 1)), schedule}
  end

  defp draw(schedule, first..last//1) do
    {number, rand} = :rand.uniform_s(last - first + 1, schedule.rand)
    {first + number - 1, %{schedule | rand: rand}}
  end
end
