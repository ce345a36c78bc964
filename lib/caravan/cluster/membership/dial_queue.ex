defmodule Caravan.Cluster.Membership.DialQueue do
  # Pure. The nodes that wait to be dialled.
  #
  # A node first waits for its time. Then it is ready, and waits for a slot in the order of its rank. Each node is
  # ranked once per wait. So an event costs O(log n), whatever the number of ready nodes.
  @moduledoc false

  alias Caravan.Cluster.Membership.Peer

  @enforce_keys [:waiting, :ready, :hashes]
  defstruct @enforce_keys ++ [:now, :self]

  # The number of hashes of :erlang.phash2/1.
  @hashes 134_217_728

  @typedoc """
    * `:waiting`: the nodes whose time is after `:now`, by time. After an answer, many nodes have the same time;
    * `:ready`: the other nodes, by rank;
    * `:hashes`: the number of different hashes in ranks;
    * `:now`: the time of the last `mature/3`, or `nil` before the first one;
    * `:self`: the name of this node, on which ranks depend.
  """
  @type t :: %__MODULE__{
          waiting:
            :gb_trees.tree(retry_at :: integer, %{
              String.t() => connect_failures :: non_neg_integer
            }),
          ready: :gb_sets.set(rank),
          hashes: pos_integer,
          now: integer | nil,
          self: String.t() | nil
        }

  @typedoc "The place of a node in the queue."
  @type key :: {retry_at :: integer, connect_failures :: non_neg_integer, String.t()}

  @type rank :: {connect_failures :: non_neg_integer, hash :: non_neg_integer, String.t()}

  @spec new(hashes :: pos_integer) :: t
  def new(hashes \\ @hashes),
    do: %__MODULE__{waiting: :gb_trees.empty(), ready: :gb_sets.new(), hashes: hashes}

  @doc "Returns the place that a peer has while it waits to be dialled."
  @spec key(Peer.t()) :: key
  def key(%Peer{name: name, retry_at: at, connect_failures: failures}), do: {at, failures, name}

  @doc "Moves a node from one place to another. `nil` means that it is not in the queue."
  @spec move(t, from :: key | nil, to :: key | nil) :: t
  def move(queue, key, key), do: queue
  def move(queue, from, to), do: queue |> delete(from) |> insert(to)

  @doc "Makes all nodes ready whose time is `now` or earlier. `self` is the name of this node."
  @spec mature(t, now :: integer, self :: String.t()) :: t
  def mature(%__MODULE__{self: self} = queue, now, self), do: mature(%{queue | now: now})

  # Distribution has started, and this node has a new name. Ranks depend on it.
  def mature(queue, now, self) do
    queue = %{queue | now: now, self: self}

    ranks =
      for {failures, _, name} <- :gb_sets.to_list(queue.ready), do: rank(queue, failures, name)

    mature(%{queue | ready: :gb_sets.from_list(ranks)})
  end

  defp mature(queue) do
    case next_waiting(queue) do
      at when is_integer(at) and at <= queue.now ->
        {_at, nodes, waiting} = :gb_trees.take_smallest(queue.waiting)

        ready =
          Enum.reduce(nodes, queue.ready, fn {name, failures}, ready ->
            :gb_sets.insert(rank(queue, failures, name), ready)
          end)

        mature(%{queue | waiting: waiting, ready: ready})

      _later_or_nil ->
        queue
    end
  end

  @doc "Returns the names that are ready, best rank first."
  @spec ready(t) :: [String.t()]
  def ready(queue), do: for({_failures, _hash, name} <- :gb_sets.to_list(queue.ready), do: name)

  @doc "Returns the ready name with the best rank, or `nil` if none is ready. The name stays in the queue."
  @spec first(t) :: String.t() | nil
  def first(queue) do
    unless :gb_sets.is_empty(queue.ready) do
      {_failures, _hash, name} = :gb_sets.smallest(queue.ready)
      name
    end
  end

  @doc "Returns when the next name is ready: `:now`, a time, or `nil` if the queue is empty."
  @spec next_at(t) :: :now | integer | nil
  def next_at(queue) do
    cond do
      not :gb_sets.is_empty(queue.ready) -> :now
      at = next_waiting(queue) -> at
      true -> nil
    end
  end

  defp delete(queue, nil), do: queue

  defp delete(queue, {at, failures, name}) do
    if ready?(queue, at),
      do: %{queue | ready: :gb_sets.delete(rank(queue, failures, name), queue.ready)},
      else: %{queue | waiting: delete_waiting(queue.waiting, at, name)}
  end

  defp insert(queue, nil), do: queue

  defp insert(queue, {at, failures, name}) do
    if ready?(queue, at),
      do: %{queue | ready: :gb_sets.insert(rank(queue, failures, name), queue.ready)},
      else: %{queue | waiting: insert_waiting(queue.waiting, at, name, failures)}
  end

  defp insert_waiting(waiting, at, name, failures) do
    case :gb_trees.lookup(at, waiting) do
      {:value, nodes} -> :gb_trees.update(at, Map.put(nodes, name, failures), waiting)
      :none -> :gb_trees.insert(at, %{name => failures}, waiting)
    end
  end

  defp delete_waiting(waiting, at, name) do
    case Map.delete(:gb_trees.get(at, waiting), name) do
      nodes when nodes == %{} -> :gb_trees.delete(at, waiting)
      nodes -> :gb_trees.update(at, nodes, waiting)
    end
  end

  defp ready?(%{now: nil}, _at), do: false
  defp ready?(%{now: now}, at), do: at <= now

  # Nodes with fewer failures come first. Among them, the order is by hash and differs from node to node, so that the
  # nodes of a cluster do not all dial the same new node first.
  defp rank(queue, failures, name),
    do: {failures, :erlang.phash2({queue.self, name}, queue.hashes), name}

  defp next_waiting(queue) do
    unless :gb_trees.is_empty(queue.waiting), do: queue.waiting |> :gb_trees.smallest() |> elem(0)
  end
end
