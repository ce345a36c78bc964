defmodule Caravan.Cluster.Membership.Slots do
  # Pure. The connects in progress, and the slots that they take. A connect takes a slot while it is young. The number of
  # all connects in progress has a limit of its own.
  @moduledoc false

  # Milliseconds. A connect that takes longer probably goes to a dead address. It continues until its timeout, but it
  # no longer holds a slot. So a dead address keeps other nodes waiting for this time at most.
  @slot_time 100

  # Connects in progress. Each one has a TCP connection, and many hosts allow 1,024 file descriptors to a process.
  @most_in_progress 512

  @enforce_keys [:oldest]
  defstruct @enforce_keys ++ [started: %{}, young: %{}]

  @typedoc """
    * `:started`: by name, when the connect in progress began;
    * `:young`: those of them that hold a slot;
    * `:oldest`: the young connects in the order in which they began. Connects that have ended since stay until they
      come first, so that the end of a connect need not search them.
  """
  @type t :: %__MODULE__{
          started: %{String.t() => since},
          young: %{String.t() => since},
          oldest: :queue.queue({since, String.t()})
        }

  # The monotonic time in milliseconds.
  @typep since :: integer

  @spec new() :: t
  def new, do: %__MODULE__{oldest: :queue.new()}

  @doc "Returns whether a connect to this name is in progress."
  @spec started?(t, String.t()) :: boolean
  def started?(slots, name), do: is_map_key(slots.started, name)

  @doc "Returns when the connect in progress to this name began, or `nil` if there is none."
  @spec started_at(t, String.t()) :: integer | nil
  def started_at(slots, name), do: slots.started[name]

  @doc "Returns all names to which a connect is in progress."
  @spec names(t) :: [String.t()]
  def names(slots), do: Map.keys(slots.started)

  @doc "Starts a connect to a name that has none in progress. `now` is never earlier than at the last start."
  @spec start(t, String.t(), now :: integer) :: t
  def start(slots, name, now) do
    %__MODULE__{
      started: Map.put(slots.started, name, now),
      young: Map.put(slots.young, name, now),
      oldest: :queue.in({now, name}, slots.oldest)
    }
  end

  @doc "Ends the connect to this name, if there is one."
  @spec finish(t, String.t()) :: t
  def finish(%__MODULE__{} = slots, name) do
    drop_ended(%{
      slots
      | started: Map.delete(slots.started, name),
        young: Map.delete(slots.young, name)
    })
  end

  defp drop_ended(slots) do
    with {:value, {since, name}} <- :queue.peek(slots.oldest),
         false <- slots.young[name] == since do
      drop_ended(%{slots | oldest: :queue.drop(slots.oldest)})
    else
      _empty_or_young -> slots
    end
  end

  @doc "Frees the slots of the connects that are in progress for #{@slot_time} ms or longer."
  @spec expire(t, now :: integer) :: t
  def expire(%__MODULE__{} = slots, now) do
    case :queue.peek(slots.oldest) do
      {:value, {since, name}} when since + @slot_time <= now ->
        expire(drop_ended(%{slots | young: Map.delete(slots.young, name)}), now)

      _later_or_empty ->
        slots
    end
  end

  @doc """
  Returns how many of `max` slots are free. Call `expire/2` first.

  None is free while #{@most_in_progress} connects are in progress, or `max` if that is more.
  """
  @spec free(t, max :: pos_integer) :: non_neg_integer
  def free(%__MODULE__{young: young} = slots, max) when is_integer(max),
    do: max(0, min(max - map_size(young), left(slots, max)))

  @doc """
  Returns whether so many connects are in progress that a new node is probed first.

  If the address of a node is dead, a connect without a probe takes seconds, and a probe takes one second.
  """
  @spec crowded?(t) :: boolean
  def crowded?(%__MODULE__{started: started}),
    do: map_size(started) >= div(@most_in_progress, 2)

  @doc """
  Returns when `expire/2` can free the next slot, or `nil` if it can free none.

  The slot is free earlier if a connect ends before.
  """
  @spec next_free_at(t, max :: pos_integer) :: integer | nil
  def next_free_at(slots, max) do
    case :queue.peek(slots.oldest) do
      {:value, {since, _name}} when is_integer(since) ->
        if left(slots, max) > 0, do: since + @slot_time

      :empty ->
        nil
    end
  end

  # How many more connects may be in progress.
  defp left(%__MODULE__{started: started}, max) when is_integer(max),
    do: max(@most_in_progress, max) - map_size(started)
end
