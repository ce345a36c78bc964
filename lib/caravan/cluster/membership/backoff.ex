defmodule Caravan.Cluster.Membership.Backoff do
  # Pure. The waits before a node is dialled again, in milliseconds. `random` is in [0, 1).
  @moduledoc false

  # Milliseconds. The wait after the first failure, and the maximum.
  @first 500
  @longest 60_000

  # Milliseconds. The range of the wait after a nodedown.
  @soonest 50
  @latest 300

  @doc "Returns the longest wait between two connects of a node."
  @spec longest() :: pos_integer
  def longest, do: @longest

  @doc """
  Returns the wait after the last one of `failures` consecutive failures.

  It doubles with each failure, up to `longest` or one minute. The second half of it is random.
  """
  @spec wait(failures :: pos_integer, longest :: pos_integer, random :: float) :: pos_integer
  def wait(failures, longest, random) do
    wait = min(min(@longest, max(longest, @first)), @first * 2 ** min(failures - 1, 16))
    max(1, div(wait, 2) + trunc(wait / 2 * random))
  end

  @doc "Returns the longest wait that `after_nodedown/1` can return."
  @spec longest_after_nodedown() :: pos_integer
  def longest_after_nodedown, do: @latest

  @doc "Returns the wait after the nodedown of a steady node. It is random, so that not all peers dial at once."
  @spec after_nodedown(random :: float) :: pos_integer
  def after_nodedown(random), do: @soonest + trunc((@latest - @soonest) * random)
end
