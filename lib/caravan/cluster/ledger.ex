defmodule Caravan.Cluster.Ledger do
  # What a strategy spent of its budget of new atoms, kept for the one that is started after it: atoms
  # outlive it, so their count has to.
  #
  # Each strategy has an array of integers in a persistent term. It is made once and then written in
  # place, which costs nobody anything; persistent terms that are replaced cost all processes.
  @moduledoc false

  alias Caravan.Cluster.Membership.AtomBudget

  @typedoc "The name under which the strategy is registered."
  @type key :: atom

  # One integer for each hour that counts; the hour stands above the count.
  @hours AtomBudget.hours()
  @count 0x100000

  @doc "What was spent under this name; older than a day, too, which a `AtomBudget` passes over."
  @spec spent(key) :: AtomBudget.spent()
  def spent(key) do
    case :persistent_term.get(term(key), nil) do
      nil -> []
      ledger -> spent_in(ledger)
    end
  end

  @doc "Notes what was spent in the latest hour."
  @spec note(key, AtomBudget.spent()) :: :ok
  def note(key, [{hour, count} | _]) do
    ledger = :persistent_term.get(term(key), nil) || open(key, hour)
    :atomics.put(ledger, Integer.mod(hour, @hours) + 1, hour * @count + count)
  end

  # Topologies come and go. What nobody needs any more goes when another one is in need of its own.
  defp open(key, hour) do
    for {{__MODULE__, _key} = term, ledger} <- :persistent_term.get(),
        not Enum.any?(spent_in(ledger), fn {then, _count} -> then > hour - @hours end),
        do: :persistent_term.erase(term)

    ledger = :atomics.new(@hours, signed: true)
    :ok = :persistent_term.put(term(key), ledger)
    ledger
  end

  defp spent_in(ledger) do
    entries =
      for slot <- 1..@hours, entry = :atomics.get(ledger, slot), Integer.mod(entry, @count) > 0 do
        {Integer.floor_div(entry, @count), Integer.mod(entry, @count)}
      end

    Enum.sort(entries, :desc)
  end

  defp term(key), do: {__MODULE__, key}
end
