defmodule Caravan.Cluster.Membership.AtomBudget do
  # Pure. Limits how many names become atoms: a bucket of tokens, each of which is returned a day after it was taken.
  # So within any 24 hours there are at most as many new names as the limit.
  @moduledoc false

  @hour 3_600_000
  @hours 24

  @enforce_keys [:limit]
  defstruct @enforce_keys ++ [spent: []]

  # `spent`: the number of tokens taken in each hour, latest hour first.
  @type t :: %__MODULE__{limit: pos_integer, spent: [{hour :: integer, pos_integer}]}

  @spec new(pos_integer) :: t
  def new(limit), do: %__MODULE__{limit: limit}

  @doc "Takes a token, or returns `:empty` if there is none. `now` is the monotonic time in milliseconds."
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
