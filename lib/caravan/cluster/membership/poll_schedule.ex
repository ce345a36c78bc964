defmodule Caravan.Cluster.Membership.PollSchedule do
  # Pure. The waits before the next lookup, in milliseconds. `random` is in [0, 1).
  #
  # Waits have jitter, so that a fleet does not query in step. After an event that n nodes see at the same time,
  # their lookups are spread over a time proportional to n.
  @moduledoc false

  @typedoc "The options of a strategy that are needed here, in milliseconds."
  @type options :: %{
          :min_interval => pos_integer,
          :poll_interval => pos_integer,
          optional(atom) => term
        }

  # The random share of a wait.
  @jitter 0.2

  # If @many nodes or more see an event, they do their next lookup within @polls times :poll_interval. Fewer nodes do
  # it within a proportional part of this time.
  @many 100
  @polls 1.5

  # The shortest wait after a nodedown, in milliseconds. Nodes that go down within it share one lookup.
  @debounce 200

  # While lookups fail, the longest wait is one :poll_interval for every @nodes_per_poll nodes. It is at least one
  # :poll_interval and at most @max_polls times :poll_interval. A small cluster is little load for DNS, so its nodes look
  # up soon after DNS is back.
  @max_polls 6
  @nodes_per_poll 20

  @doc """
  Returns the wait after an answer. `ttl` is in milliseconds, or `nil` if the answer has none.

  It is at most `:poll_interval`, and at least #{1 - @jitter} times `:min_interval`. After the first answer, it may be as
  short as 1 ms, because this wait is fully random. Otherwise nodes that one deployment started would stay in step for
  minutes.

  A TTL of 0 counts as none. It says that caches must not keep the answer (RFC 1035), and nothing about the time of the next
  change. Consul sends it by default, and answers each lookup of each node by a request to its servers.
  """
  @spec after_answer(
          ttl :: non_neg_integer | nil,
          first? :: boolean,
          options,
          random :: float
        ) :: pos_integer
  def after_answer(ttl, first, options, random) do
    %{min_interval: min, poll_interval: poll} = options
    base = if ttl in [nil, 0], do: poll, else: ttl |> max(min) |> min(poll)
    high = min(poll, round(base * (1 + @jitter)))
    low = min(base, round(high * (1 - @jitter)))

    # The first wait is at most the mean of the later waits. If a fleet starts together, its first nodes then begin their
    # third lookup at about the time when its last nodes begin their second lookup.
    if first,
      do: between(0, div(low + high, 2), random),
      else: between(low, high, random)
  end

  @doc """
  Returns the wait after the last one of `failures` consecutive failed lookups.

  `nodes` is the number of nodes that may see the same failure.
  """
  @spec after_failure(
          failures :: pos_integer,
          nodes :: non_neg_integer,
          options,
          random :: float
        ) :: pos_integer
  def after_failure(failures, nodes, options, random) do
    first = max(options.min_interval, spread(nodes, options))
    high = min(max_polls(nodes) * options.poll_interval, first * 2 ** min(failures - 1, 16))
    between(div(high, 2), high, random)
  end

  defp max_polls(nodes), do: nodes |> div(@nodes_per_poll) |> max(1) |> min(@max_polls)

  @doc "Returns the wait after a nodedown that `nodes` nodes see."
  @spec after_nodedown(nodes :: non_neg_integer, options, random :: float) :: pos_integer
  def after_nodedown(nodes, options, random),
    do: between(@debounce, max(@debounce, spread(nodes, options)), random)

  defp spread(nodes, options),
    do: trunc(@polls * options.poll_interval * min(nodes, @many) / @many)

  defp between(low, high, random) when is_integer(low) and is_integer(high),
    do: max(1, low + trunc((high - low + 1) * random))
end
