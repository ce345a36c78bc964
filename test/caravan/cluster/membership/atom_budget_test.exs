defmodule Caravan.Cluster.Membership.AtomBudgetTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Membership.AtomBudget

  @hour 3_600_000

  # Returns how many of `wanted` tokens can be taken at a time.
  defp spend(budget, wanted, now) do
    Enum.reduce(1..wanted, {0, budget}, fn _, {got, budget} ->
      case AtomBudget.take(budget, now) do
        {:ok, budget} -> {got + 1, budget}
        :empty -> {got, budget}
      end
    end)
  end

  test "a budget has as many tokens as its limit" do
    assert {3, _} = spend(AtomBudget.new(3), 10, -12)
  end

  test "a token is returned a day after it was taken" do
    {3, budget} = spend(AtomBudget.new(3), 10, 0)
    {0, budget} = spend(budget, 10, 23 * @hour)
    {3, budget} = spend(budget, 10, 25 * @hour)
    assert {0, _} = spend(budget, 1, 25 * @hour)
  end

  test "within any 24 hours, at most as many tokens as the limit are taken" do
    # Without the limit, three tokens would be taken each half hour.
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

  test "the state of a budget stays small" do
    budget =
      Enum.reduce(1..10_000, AtomBudget.new(1_000_000), &elem(AtomBudget.take(&2, &1 * @hour), 1))

    assert length(budget.spent) <= 26
  end
end
