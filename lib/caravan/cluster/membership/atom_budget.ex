defmodule Caravan.Cluster.Membership.AtomBudget do
  # Pure. How many names may still become atoms: a bucket of tokens, each of which comes back a day after it
  # was spent. So no day has more new names than the limit, and no month runs dry.
  @moduledoc false

  @hour 3_600_000
  @hours 24

  @enforce_keys [:limit]
  defstruct @enforce_keys ++ [spent: []]

  # `spent`: tokens by the hour they were spent in, latest first; at most 25 entries.
  @type t :: %__MODULE__{limit: pos_integer, spent: [{hour :: integer, pos_integer}]}

  @spec new(pos_integer) :: t
  def new(limit), do: %__MODULE__{limit: limit}

  @doc "Takes a token, if there is one at the time `now`, in milliseconds of a clock that never goes back."
  @spec take(t, now :: integer) :: {:ok, t} | :empty
  def take(%__MODULE__{} = budget, now) do
    hour = Integer.floor_div(now, @hour)
    spent = Enum.take_while(budget.spent, fn {then, _count} -> then >= hour - @hours end)

    if Enum.sum(Enum.map(spent, &elem(&1, 1))) < budget.limit,
      do: {:ok, %{budget | spent: add(spent, hour)}},
      else: :empty
  end

  defp add([{hour, count} | spent], hour), do: [{hour, count + 1} | spent]
  defp add(spent, hour), do: [{hour, 1} | spent]
end
