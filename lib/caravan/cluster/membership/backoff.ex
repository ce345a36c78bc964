defmodule Caravan.Cluster.Membership.Backoff do
  # Pure. When to dial a node again, in milliseconds from now. `random` is in [0, 1).
  @moduledoc false

  @first 500
  @longest 60_000

  # After a node went down.
  @soonest 50
  @latest 300

  @doc "The longest wait between two connects of one name."
  @spec longest() :: pos_integer
  def longest, do: @longest

  @doc """
  After the `failures`th failure in a row: doubling to a minute. `longest` is less for a node that was
  connected once: it lived, and when its network is back it has to be found soon.
  """
  @spec wait(pos_integer, longest :: pos_integer, float) :: pos_integer
  def wait(failures, longest, random) do
    wait = min(min(@longest, max(longest, @first)), @first * 2 ** min(failures - 1, 16))
    max(1, div(wait, 2) + trunc(wait / 2 * random))
  end

  @doc "The longest wait that `after_nodedown/1` returns."
  @spec longest_after_nodedown() :: pos_integer
  def longest_after_nodedown, do: @latest

  @doc "After a node went down that had been up for a while: at once, but not all its peers in the same moment."
  @spec after_nodedown(float) :: pos_integer
  def after_nodedown(random), do: @soonest + trunc((@latest - @soonest) * random)
end
