defmodule Caravan.Cluster.Membership.Slots do
  # Pure. The connects in progress, and the slots that they take. A connect takes a slot while it is young.
  @moduledoc false

  # Milliseconds. A connect that takes longer probably goes to a dead address. It continues until its timeout, but it
  # no longer holds a slot. So a dead address keeps other nodes waiting for this time at most.
  @slot_time 100

  @enforce_keys [:started, :young]
  defstruct @enforce_keys

  @typedoc """
    * `:started`: by name, when the connect in progress began;
    * `:young`: the connects that hold a slot, oldest first.
  """
  @type t :: %__MODULE__{
          started: %{String.t() => integer},
          young: :gb_sets.set({integer, String.t()})
        }

  @spec new() :: t
  def new, do: %__MODULE__{started: %{}, young: :gb_sets.new()}

  @doc "Returns whether a connect to this name is in progress."
  @spec started?(t, String.t()) :: boolean
  def started?(slots, name), do: is_map_key(slots.started, name)

  @doc "Returns all names to which a connect is in progress."
  @spec names(t) :: [String.t()]
  def names(slots), do: Map.keys(slots.started)

  @doc "Starts a connect to a name that has none in progress."
  @spec start(t, String.t(), now :: integer) :: t
  def start(slots, name, now) do
    %__MODULE__{
      started: Map.put(slots.started, name, now),
      young: :gb_sets.insert({now, name}, slots.young)
    }
  end

  @doc "Ends the connect to this name, if there is one."
  @spec finish(t, String.t()) :: t
  def finish(%__MODULE__{} = slots, name) do
    case slots.started do
      %{^name => since} ->
        %__MODULE__{
          started: Map.delete(slots.started, name),
          young: :gb_sets.del_element({since, name}, slots.young)
        }

      _ ->
        slots
    end
  end

  @doc "Frees the slots of the connects that are in progress for #{@slot_time} ms or longer."
  @spec expire(t, now :: integer) :: t
  def expire(slots, now) do
    case next_free_at(slots) do
      at when is_integer(at) and at <= now ->
        {_oldest, young} = :gb_sets.take_smallest(slots.young)
        expire(%{slots | young: young}, now)

      _later_or_nil ->
        slots
    end
  end

  @doc "Returns how many of `max` slots are free. Call `expire/2` first."
  @spec free(t, max :: pos_integer) :: non_neg_integer
  def free(%__MODULE__{young: young}, max) when is_integer(max),
    do: max(0, max - :gb_sets.size(young))

  @doc """
  Returns when `expire/2` can free the next slot, or `nil` if all slots are free.

  The slot is free earlier if the connect ends before.
  """
  @spec next_free_at(t) :: integer | nil
  def next_free_at(slots) do
    case :gb_sets.is_empty(slots.young) or :gb_sets.smallest(slots.young) do
      true -> nil
      {since, _name} when is_integer(since) -> since + @slot_time
    end
  end
end
