defmodule Caravan.Cluster.LedgerTest do
  # Not async: strategies of other tests have ledgers too, of other times.
  use ExUnit.Case

  alias Caravan.Cluster.Ledger
  alias Caravan.Cluster.Membership.AtomBudget

  @hour 3_600_000

  # Below zero, as of the BEAM's clock.
  @start -160_000

  setup context do
    on_exit(fn ->
      for {{Ledger, key} = term, _} <- :persistent_term.get(),
          Atom.to_string(key) =~ Atom.to_string(context.test),
          do: :persistent_term.erase(term)
    end)
  end

  defp kept?(key), do: :persistent_term.get({Ledger, key}, nil) != nil

  test "nobody has spent anything at first", context do
    assert Ledger.spent(context.test) == []
    refute kept?(context.test)
  end

  test "what was noted hour by hour is what a budget says was spent", context do
    Enum.reduce(1..400, AtomBudget.new(1_000_000), fn step, budget ->
      # Some hours have none, some several.
      now = (@start + div(step * step, 60)) * @hour
      {:ok, budget} = AtomBudget.take(budget, now)
      :ok = Ledger.note(context.test, budget.spent)
      # Hours in which nothing was spent may still hold what is older than a day.
      {spent, older} = context.test |> Ledger.spent() |> Enum.split(length(budget.spent))
      assert spent == budget.spent
      assert Enum.all?(older, fn {hour, _count} -> hour < div(now, @hour) - 24 end)
      budget
    end)
  end

  test "the largest count of an hour fits", context do
    for hour <- [@start, -1, 0, 1, 1_000_000] do
      :ok = Ledger.note(context.test, [{hour, 1_000_000}])
      assert {hour, 1_000_000} in Ledger.spent(context.test)
    end
  end

  test "one that is a day old goes when another one comes", context do
    [old, young, new] = for n <- 1..3, do: :"#{context.test} #{n}"
    :ok = Ledger.note(old, [{@start, 1}])
    :ok = Ledger.note(young, [{@start + 1, 1}])
    :ok = Ledger.note(new, [{@start + 25, 1}])
    refute kept?(old)
    assert kept?(young)
    assert kept?(new)
  end
end
