defmodule Caravan.Cluster.Alarms do
  # Pure. Conditions that are reported when they begin, and not while they last.
  @moduledoc false

  @opaque t :: %{optional(key) => last_set :: integer | {:until, integer}}
  @type key :: term

  @spec new() :: t
  def new, do: %{}

  @doc "Returns whether an alarm is set. An alarm that `clear/4` holds counts as set."
  @spec set?(t, key) :: boolean
  def set?(alarms, key), do: is_map_key(alarms, key)

  @doc """
  Sets an alarm, or renews its time if it is set. Returns whether it was not set before. An alarm that `clear/4` holds
  counts as set until `now` reaches the end of its hold.

  Give `now` for an alarm that `clear/4` clears. One that only `clear/2` clears needs no time.
  """
  @spec set(t, key, now :: integer) :: {new? :: boolean, t}
  def set(alarms, key, now \\ 0) do
    new? =
      case alarms do
        %{^key => {:until, at}} -> at <= now
        %{^key => _last_set} -> false
        _ -> true
      end

    {new?, Map.put(alarms, key, now)}
  end

  @spec clear(t, key) :: t
  def clear(alarms, key), do: Map.delete(alarms, key)

  @doc """
  Clears an alarm, but not before `hold` has passed since it was last set, in the unit of `now`.

  So a condition that comes and goes within this time is reported once.
  """
  @spec clear(t, key, now :: integer, hold :: non_neg_integer) :: t
  def clear(alarms, key, now, hold) do
    case alarms do
      %{^key => {:until, at}} when at <= now -> Map.delete(alarms, key)
      %{^key => {:until, _at}} -> alarms
      %{^key => last_set} when last_set + hold <= now -> Map.delete(alarms, key)
      %{^key => last_set} -> Map.put(alarms, key, {:until, last_set + hold})
      _ -> alarms
    end
  end
end
