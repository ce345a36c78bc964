defmodule Caravan.Cluster.Membership.PollSchedule do
  # Pure. When to ask DNS again, in milliseconds from now. `random` is in [0, 1).
  #
  # A fleet that starts, fails or loses a node together must not ask together: each wait has a share
  # of chance, and what many nodes see at the same moment is spread over as much time as they are many.
  @moduledoc false

  @typedoc "The options of the same names."
  @type options :: %{
          :min_interval => pos_integer,
          :poll_interval => pos_integer,
          optional(atom) => term
        }

  # Share of a wait that is left to chance.
  @jitter 0.2

  # What so many nodes or more see at once makes them ask within one and a half :poll_interval, which is
  # about one and a half times as often as they do anyway; fewer nodes within a part of that.
  @many 100
  @polls 1.5

  # Several nodes that go down together are one reason to ask.
  @debounce 200

  # Waits while DNS fails double up to so many times `:poll_interval`.
  @max_polls 6

  @doc """
  After an answer whose records live for `ttl` milliseconds; `nil`: it did not say. Never later than
  `:poll_interval`, and sooner than `:min_interval` by the share of chance at most. Only the wait after the first answer is left to chance
  altogether: nodes that were started by one deployment would else stay in step for minutes.
  """
  @spec after_answer(non_neg_integer | nil, boolean, options, float) :: pos_integer
  def after_answer(ttl, first, options, random) do
    %{min_interval: min, poll_interval: poll} = options
    base = (ttl || poll) |> max(min) |> min(poll)
    high = min(poll, round(base * (1 + @jitter)))
    low = min(base, round(high * (1 - @jitter)))

    # Up to the mean of the waits to come: the second round sets in where the first one ends.
    if first,
      do: between(0, div(low + high, 2), random),
      else: between(low, high, random)
  end

  @doc "After the `failures`th failed lookup in a row; `nodes` of the cluster may see the same."
  @spec after_failure(pos_integer, non_neg_integer, options, float) :: pos_integer
  def after_failure(failures, nodes, options, random) do
    first = max(options.min_interval, spread(nodes, options))
    high = min(@max_polls * options.poll_interval, first * 2 ** min(failures - 1, 16))
    between(div(high, 2), high, random)
  end

  @doc "After a node went down, which `nodes` others saw as well."
  @spec after_nodedown(non_neg_integer, options, float) :: pos_integer
  def after_nodedown(nodes, options, random),
    do: between(@debounce, max(@debounce, spread(nodes, options)), random)

  defp spread(nodes, options),
    do: trunc(@polls * options.poll_interval * min(nodes, @many) / @many)

  defp between(low, high, random) when is_integer(low) and is_integer(high),
    do: max(1, low + trunc((high - low + 1) * random))
end
