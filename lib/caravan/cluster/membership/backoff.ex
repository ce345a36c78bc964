defmodule Caravan.Cluster.Membership.Backoff do
  # Pure. When to dial a node again, in milliseconds from now. `random` is in [0, 1).
  @moduledoc false

  @first 500
  @longest 60_000

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

  @doc "After a node went down that had been up for a while: at once, but not all its peers in the same moment."
  @spec after_nodedown(float) :: pos_integer
  def after_nodedown(random), do: 50 + trunc(250 * random)
end
