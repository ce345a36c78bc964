defmodule Caravan.Cluster.Membership.Slots do
  # Pure. The connects in progress, and the slots that they take. A connect takes a slot while it is young.
  @moduledoc false

  # Milliseconds. A connect that takes longer probably goes to a dead address. It continues until its timeout, but it
  # no longer holds a slot. So a dead address keeps other nodes waiting for this time at most.
  @slot_time 100

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

  @doc "Returns how many of `max` slots are free. Call `expire/2` first."
  @spec free(t, max :: pos_integer) :: non_neg_integer
  def free(%__MODULE__{young: young}, max) when is_integer(max),
    do: max(0, max - map_size(young))

  @doc """
  Returns when `expire/2` can free the next slot, or `nil` if all slots are free.

  The slot is free earlier if the connect ends before.
  """
  @spec next_free_at(t) :: integer | nil
  def next_free_at(slots) do
    case :queue.peek(slots.oldest) do
      {:value, {since, _name}} when is_integer(since) -> since + @slot_time
      :empty -> nil
    end
  end
end
