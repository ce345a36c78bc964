defmodule Caravan.Cluster.Reminders do
  # Pure. Decides when a trouble that lasts is reported again: after five minutes, and then every hour.
  @moduledoc false

  @opaque t :: %{optional(key) => reminded_at :: integer}
  @type key :: term

  # Milliseconds from the begin of a trouble to the first reminder, and from one reminder to the next.
  @first 300_000
  @again 3_600_000

  @spec new() :: t
  def new, do: %{}

  @doc """
  Takes the troubles that exist now, and the time in milliseconds at which each one began. Returns the troubles that must be
  reported again now, and those that were reported again earlier and are over.
  """
  @spec update(t, troubles :: %{key => since :: integer}, now :: integer) ::
          {due :: [key], over :: [key], t}
  def update(reminders, troubles, now) do
    due = for {key, since} <- troubles, due?(reminders[key], since, now), do: key
    {last, over} = Map.split(reminders, Map.keys(troubles))
    {Enum.sort(due), Enum.sort(Map.keys(over)), Map.merge(last, Map.new(due, &{&1, now}))}
  end

  defp due?(nil, since, now), do: now - since >= @first
  defp due?(reminded_at, _since, now), do: now - reminded_at >= @again
end
