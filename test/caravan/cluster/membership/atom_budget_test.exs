defmodule Caravan.Cluster.Membership.AtomBudgetTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Membership.AtomBudget

  @hour 3_600_000

  # How many of `wanted` tokens there are at a time.
  defp spend(budget, wanted, now) do
    Enum.reduce(1..wanted, {0, budget}, fn _, {got, budget} ->
      case AtomBudget.take(budget, now) do
        {:ok, budget} -> {got + 1, budget}
        :empty -> {got, budget}
      end
    end)
  end

  test "there are so many, and no more" do
    assert {3, _} = spend(AtomBudget.new(3), 10, -12)
  end

  test "a token is back a day after it was spent" do
    {3, budget} = spend(AtomBudget.new(3), 10, 0)
    {0, budget} = spend(budget, 10, 23 * @hour)
    {3, budget} = spend(budget, 10, 25 * @hour)
    assert {0, _} = spend(budget, 1, 25 * @hour)
  end

  test "no 24 hours have more than the limit, whenever they begin" do
    # Three each half hour: six an hour, if there were no limit.
    {spent, _} =
      Enum.map_reduce(0..200, AtomBudget.new(10), fn n, budget ->
        now = n * div(@hour, 2)
        {got, budget} = spend(budget, 3, now)
        {{now, got}, budget}
      end)

    for {start, _} <- spent do
      day = for {now, got} <- spent, now in start..(start + 24 * @hour), do: got
      assert Enum.sum(day) <= 10
    end

    assert Enum.sum(Enum.map(spent, &elem(&1, 1))) >= 40
  end

  test "it stays small" do
    budget =
      Enum.reduce(1..10_000, AtomBudget.new(1_000_000), &elem(AtomBudget.take(&2, &1 * @hour), 1))

    assert length(budget.spent) <= 26
  end
end
