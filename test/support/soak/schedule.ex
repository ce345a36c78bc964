defmodule Caravan.Test.Soak.Schedule do
  @moduledoc """
  Pure. Decides which faults a soak injects, and when. The same seed gives the same rounds.

      schedule = Schedule.new(42, nodes: 12, long_running: 4, cuts: true)
      {round, schedule} = Schedule.next(schedule)

  Most faults end within their round. A node that is down, drained or not in DNS may stay so for some rounds.
  """

  @enforce_keys [:rand, :conditions, :long_running, :cuts, :connect_all]
  defstruct @enforce_keys ++ [length: 0, steps: [], faults: []]

  @typedoc "The number of a node, from 1 on."
  @type id :: pos_integer

  @typedoc "The state of a node between two rounds. `:normal`: it is up, not drained, and in DNS."
  @type condition :: :normal | :down | :drained | :not_in_dns

  @typedoc "What the DNS server does. All but `:ok` are faults."
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
    * `:kill` ends the VM of a node. `:start` starts the next one under the same name.
    * `:move` ends the VM, and the next one has another address. `:publish_address` puts that address into DNS.
    * `:pause` stops the VM by SIGSTOP. `:continue` lets it run on.
    * `:remove` and `:add` change the SRV record of the node.
    * `:reload` loads `Caravan.Native` again.
    * `:cut` and `:heal` change the links between pairs of nodes.
  """
  @type action ::
          {:kill | :start | :move | :publish_address | :pause | :continue, id}
          | {:remove | :add | :drain | :resume | :reload, id}
          | {:cut | :heal, [{id, id}]}
          | {:dns, dns}

  @typedoc """
  `:steps` are the actions, each with its time in milliseconds from the start of the round. `:faults` are the kinds of
  the faults that begin in the round.
  """
  @type round :: %{length: pos_integer, steps: [{non_neg_integer, action}], faults: [atom]}

  @type t :: %__MODULE__{
          rand: :rand.state(),
          conditions: %{id => condition},
          long_running: non_neg_integer,
          cuts: boolean,
          connect_all: boolean,
          length: non_neg_integer,
          steps: [{non_neg_integer, action}],
          faults: [atom]
        }

  # The length of a round in milliseconds, and the number of nodes that have a fault in it. One of six rounds is long,
  # so that the waits of the strategies double several times.
  @length 4_000..12_000
  @faulty_nodes 1..4
  @long_length 15_000..40_000
  @long_faulty_nodes 4..8

  # At most this many nodes are down, drained or not in DNS at the end of a round.
  @most_lasting 3

  @faults_that_end_the_vm [:kill, :move]
  @other_faults [:pause, :remove, :drain, :reload]
  @dns_faults [:silent, :stopped, :part, :truncated, :nxdomain] ++
                [:servfail, :empty, :garbage, :slow]

  @doc """
  Returns the schedule of a seed. Options:

    * `nodes`: the number of nodes
    * `long_running`: the VMs of this many nodes, from node 1 on, are never ended, so that slow growth shows
    * `cuts`: whether links between nodes can be cut

  The seed also decides whether the nodes run with OTP's `connect_all`. With it, `global` connects nodes too, and
  disconnects other nodes when a link is lost.
  """
  @spec new(integer, nodes: pos_integer, long_running: non_neg_integer, cuts: boolean) :: t
  def new(seed, options) do
    {chance, rand} = :rand.uniform_s(2, :rand.seed_s(:exsss, seed))

    %__MODULE__{
      rand: rand,
      connect_all: chance == 1,
      conditions: Map.new(1..Keyword.fetch!(options, :nodes), &{&1, :normal}),
      long_running: Keyword.fetch!(options, :long_running),
      cuts: Keyword.fetch!(options, :cuts)
    }
  end

  @doc "Returns the next round, and the schedule at its end."
  @spec next(t) :: {round, t}
  def next(%__MODULE__{} = schedule) do
    {chance, schedule} = draw(schedule, 1..6)
    long = chance == 1
    {length, schedule} = draw(schedule, if(long, do: @long_length, else: @length))

    schedule =
      %{schedule | length: length, steps: [], faults: []}
      |> end_lasting_faults()
      |> add_node_faults(if(long, do: @long_faulty_nodes, else: @faulty_nodes))
      |> add_dns_fault()
      |> add_cut()

    steps = schedule.steps |> Enum.reverse() |> Enum.sort_by(&elem(&1, 0))
    {%{length: length, steps: steps, faults: Enum.reverse(schedule.faults)}, schedule}
  end

  @doc "Returns the nodes in this condition, sorted."
  @spec nodes(t, condition) :: [id]
  def nodes(%__MODULE__{conditions: conditions}, condition),
    do: Enum.sort(for {id, ^condition} <- conditions, do: id)

  ## Nodes

  # A node whose fault ends in this round gets no other fault in it.
  defp end_lasting_faults(schedule) do
    for condition <- [:down, :drained, :not_in_dns],
        id <- nodes(schedule, condition),
        reduce: schedule do
      schedule ->
        {chance, schedule} = draw(schedule, 1..3)
        {at, schedule} = draw(schedule, 0..schedule.length)

        if chance > 1,
          do: schedule |> add_step(at, {end_of(condition), id}) |> set(id, :normal),
          else: schedule
    end
  end

  defp end_of(:down), do: :start
  defp end_of(:drained), do: :resume
  defp end_of(:not_in_dns), do: :add

  defp add_node_faults(schedule, range) do
    {count, schedule} = draw(schedule, range)
    busy = for {_at, {_action, id}} <- schedule.steps, do: id
    {ids, schedule} = shuffle(schedule, nodes(schedule, :normal) -- busy)
    ids |> Enum.take(count) |> Enum.reduce(schedule, &add_node_fault(&2, &1))
  end

  defp add_node_fault(schedule, id) do
    ending = if id <= schedule.long_running, do: [], else: @faults_that_end_the_vm
    {fault, schedule} = pick(schedule, ending ++ @other_faults)
    {{from, until}, schedule} = window(schedule)
    {chance, schedule} = draw(schedule, 1..4)
    lasts = chance == 1 and lasting(schedule) < @most_lasting
    schedule |> add_fault(fault) |> add_steps(id, fault, {from, until}, lasts)
  end

  defp add_steps(schedule, id, :kill, {from, until}, lasts),
    do: schedule |> add_step(from, {:kill, id}) |> end_fault(until, {:start, id}, :down, lasts)

  defp add_steps(schedule, id, :drain, {from, until}, lasts),
    do:
      schedule |> add_step(from, {:drain, id}) |> end_fault(until, {:resume, id}, :drained, lasts)

  defp add_steps(schedule, id, :remove, {from, until}, lasts),
    do:
      schedule
      |> add_step(from, {:remove, id})
      |> end_fault(until, {:add, id}, :not_in_dns, lasts)

  defp add_steps(schedule, id, :pause, {from, until}, _lasts),
    do: schedule |> add_step(from, {:pause, id}) |> add_step(until, {:continue, id})

  defp add_steps(schedule, id, :reload, {from, _until}, _lasts),
    do: add_step(schedule, from, {:reload, id})

  # DNS gets the new address before the next VM is started, or after.
  defp add_steps(schedule, id, :move, {from, until}, _lasts) do
    {changed, schedule} = draw(schedule, from..schedule.length)

    schedule
    |> add_step(from, {:move, id})
    |> add_step(changed, {:publish_address, id})
    |> add_step(until, {:start, id})
  end

  # A fault that lasts is ended in a later round.
  defp end_fault(schedule, _at, {_action, id}, condition, true), do: set(schedule, id, condition)
  defp end_fault(schedule, at, action, _condition, false), do: add_step(schedule, at, action)

  defp set(schedule, id, condition),
    do: %{schedule | conditions: Map.put(schedule.conditions, id, condition)}

  defp lasting(schedule),
    do: Enum.count(schedule.conditions, fn {_id, condition} -> condition != :normal end)

  ## DNS and links

  defp add_dns_fault(schedule) do
    {chance, schedule} = draw(schedule, 1..4)
    {mode, schedule} = pick(schedule, @dns_faults)
    {{from, until}, schedule} = window(schedule)

    if chance > 1 do
      schedule
      |> add_fault(:"dns_#{mode}")
      |> add_step(from, {:dns, mode})
      |> add_step(until, {:dns, :ok})
    else
      schedule
    end
  end

  defp add_cut(%{cuts: false} = schedule), do: schedule

  defp add_cut(schedule) do
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
    do:
      schedule
      |> add_fault(fault)
      |> add_step(from, {:cut, pairs})
      |> add_step(until, {:heal, pairs})

  defp pairs(ids), do: for([a, b] <- Enum.chunk_every(ids, 2), do: {a, b})

  ## Chance

  defp add_step(schedule, at, action), do: %{schedule | steps: [{at, action} | schedule.steps]}
  defp add_fault(schedule, fault), do: %{schedule | faults: [fault | schedule.faults]}

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
