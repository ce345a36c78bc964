defmodule Caravan.Cluster.Membership.DialQueue do
  # Pure. The nodes that wait to be dialled.
  #
  # There are two stages. A node first waits for its time. Then it is ready, and waits for a slot in the order
  # of its rank. Each node is ranked once per wait, so an event costs O(log n) however many nodes are ready.
  @moduledoc false

  alias Caravan.Cluster.Membership.Peer

  @enforce_keys [:keys, :waiting, :ready]
  defstruct @enforce_keys ++ [:self]

  @typedoc """
    * `:keys`: by name, with what it is in the queue. The peer may have changed since, so the key is needed to find it;
    * `:waiting`: the names whose time has not come, by time;
    * `:ready`: the names whose time has come, by rank;
    * `:self`: the name of this node, on which ranks depend.
  """
  @type t :: %__MODULE__{
          keys: %{String.t() => {retry_at :: integer, connect_failures :: integer, stage}},
          waiting: :gb_sets.set({integer, String.t()}),
          ready: :gb_sets.set(rank),
          self: String.t() | nil
        }

  @type stage :: :waiting | {:ready, rank}
  @type rank :: {connect_failures :: non_neg_integer, hash :: non_neg_integer, String.t()}

  @spec new() :: t
  def new, do: %__MODULE__{keys: %{}, waiting: :gb_sets.new(), ready: :gb_sets.new()}

  @doc "Puts a peer into the queue, or moves it if its time or its failures are others than before."
  @spec put(t, Peer.t()) :: t
  def put(queue, %Peer{name: name, retry_at: at, connect_failures: failures}) do
    case queue.keys do
      %{^name => {^at, ^failures, _stage}} -> queue
      _ -> queue |> delete(name) |> wait(name, at, failures)
    end
  end

  @doc "Takes a name out of the queue, if it is there."
  @spec delete(t, String.t()) :: t
  def delete(queue, name) do
    case Map.pop(queue.keys, name) do
      {nil, _keys} ->
        queue

      {{at, _failures, :waiting}, keys} ->
        %{queue | keys: keys, waiting: :gb_sets.delete({at, name}, queue.waiting)}

      {{_at, _failures, {:ready, rank}}, keys} ->
        %{queue | keys: keys, ready: :gb_sets.delete(rank, queue.ready)}
    end
  end

  @doc "Makes all names ready whose time has come. `self` is the name of this node."
  @spec mature(t, now :: integer, self :: String.t()) :: t
  def mature(%__MODULE__{self: self} = queue, now, self) do
    case next_waiting(queue) do
      {at, name} when at <= now -> queue |> make_ready(name) |> mature(now, self)
      _later_or_nil -> queue
    end
  end

  # This node has got another name: distribution has started. Ranks depend on it.
  def mature(queue, now, self) do
    queue
    |> ready()
    |> Enum.reduce(%{queue | self: self}, fn name, queue ->
      {at, failures, _stage} = queue.keys[name]
      queue |> delete(name) |> wait(name, at, failures)
    end)
    |> mature(now, self)
  end

  @doc "Returns the names that are ready, best rank first."
  @spec ready(t) :: [String.t()]
  def ready(queue), do: for({_failures, _hash, name} <- :gb_sets.to_list(queue.ready), do: name)

  @doc "Returns the ready name of the best rank, `nil` if none is ready. The name stays in the queue."
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
      next = next_waiting(queue) -> elem(next, 0)
      true -> nil
    end
  end

  defp wait(queue, name, at, failures) do
    %{
      queue
      | keys: Map.put(queue.keys, name, {at, failures, :waiting}),
        waiting: :gb_sets.add({at, name}, queue.waiting)
    }
  end

  defp make_ready(queue, name) do
    {at, failures, :waiting} = queue.keys[name]
    rank = rank(failures, queue.self, name)

    %{
      queue
      | keys: Map.put(queue.keys, name, {at, failures, {:ready, rank}}),
        waiting: :gb_sets.delete({at, name}, queue.waiting),
        ready: :gb_sets.add(rank, queue.ready)
    }
  end

  # Names that failed least come first. The hash orders the rest differently on each node, so that the nodes
  # of a cluster do not all dial the same new node first.
  defp rank(failures, self, name), do: {failures, :erlang.phash2({self, name}), name}

  defp next_waiting(queue) do
    unless :gb_sets.is_empty(queue.waiting), do: :gb_sets.smallest(queue.waiting)
  end
end
