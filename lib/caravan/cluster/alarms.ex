defmodule Caravan.Cluster.Alarms do
  # Pure. Conditions that are reported when they begin, and not while they last.
  @moduledoc false

  @opaque t :: %{optional(key) => last_set :: integer}
  @type key :: term

  @spec new() :: t
  def new, do: %{}

  @doc "Returns whether an alarm is set."
  @spec set?(t, key) :: boolean
  def set?(alarms, key), do: is_map_key(alarms, key)

  @doc """
  Sets an alarm. Returns whether it was not set before.

  The time matters only if the alarm is cleared with `clear/4`.
  """
  @spec set(t, key, now :: integer) :: {new? :: boolean, t}
  def set(alarms, key, now \\ 0), do: {not set?(alarms, key), Map.put(alarms, key, now)}

  @doc "Clears an alarm."
  @spec clear(t, key) :: t
  def clear(alarms, key), do: Map.delete(alarms, key)

  @doc """
  Clears an alarm if it was last set at least `hold` ago.

  So a condition that comes and goes within this time is reported once.
  """
  @spec clear(t, key, now :: integer, hold :: non_neg_integer) :: t
  def clear(alarms, key, now, hold) do
    case alarms do
      %{^key => last_set} when last_set + hold <= now -> Map.delete(alarms, key)
      _ -> alarms
    end
  end
end
