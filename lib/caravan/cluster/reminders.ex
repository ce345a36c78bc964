defmodule Caravan.Cluster.Reminders do
  # Pure. Which troubles that last are reported again: after five minutes, and then each hour.
  @moduledoc false

  @opaque t :: %{optional(key) => reminded_at :: integer}
  @type key :: term

  @first 300_000
  @again 3_600_000

  @spec new() :: t
  def new, do: %{}

  @doc """
  Takes the troubles that exist, with the time in milliseconds since when. Returns those that are to be reported again, and
  those that are over. A trouble that was not reported again is not over.
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
