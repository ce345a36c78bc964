defmodule Caravan.Cluster.Alarms do
  # Pure. Conditions that are reported when they begin, and not while they last.
  @moduledoc false

  @opaque t :: %{optional(key) => last_set :: integer}
  @type key :: term

  @spec new() :: t
  def new, do: %{}

  @doc "Whether the condition lasts."
  @spec set?(t, key) :: boolean
  def set?(alarms, key), do: is_map_key(alarms, key)

  @doc """
  Says that a condition holds. Returns whether it is new.

  The time only matters if the condition is cleared with `clear/4`.
  """
  @spec set(t, key, now :: integer) :: {new? :: boolean, t}
  def set(alarms, key, now \\ 0), do: {not set?(alarms, key), Map.put(alarms, key, now)}

  @doc "Says that a condition does not hold any more."
  @spec clear(t, key) :: t
  def clear(alarms, key), do: Map.delete(alarms, key)

  @doc """
  Says that a condition does not hold now. The alarm is cleared only if the condition was last set `hold`
  ago, or longer. So a condition that comes and goes is new once.
  """
  @spec clear(t, key, now :: integer, hold :: non_neg_integer) :: t
  def clear(alarms, key, now, hold) do
    case alarms do
      %{^key => last_set} when last_set + hold <= now -> Map.delete(alarms, key)
      _ -> alarms
    end
  end
end
