defmodule Caravan.Cluster.Membership.Source do
  # Pure. One query with one record type, which is looked up repeatedly: the time of the next lookup, and the
  # outcome of the last ones.
  @moduledoc false

  alias Caravan.Cluster.Membership.PollSchedule

  @enforce_keys [:next_lookup_at, :responded_at]
  defstruct @enforce_keys ++
              [
                started_at: nil,
                pending: false,
                failures: 0,
                failing_since: nil,
                reported: [],
                warned: false,
                responded: false
              ]

  @typedoc """
    * `:next_lookup_at`: the time of the next lookup, which is always set;
    * `:responded_at`: when a nameserver has responded last, or when the source was made, before the first response;
    * `:pending`: whether a lookup is in flight;
    * `:started_at`: when the last lookup started, or `nil` before the first one;
    * `:failures`: the number of consecutive failed lookups;
    * `:failing_since`: the time of the first of these lookups, or `nil` if the last one was answered;
    * `:reported`: the kinds of failures that were reported since the last answer;
    * `:warned`: whether one of them is a problem, and not only a type without records;
    * `:responded`: whether a nameserver has responded at least once. "No such name" is a response.
  """
  @type t :: %__MODULE__{
          next_lookup_at: integer,
          responded_at: integer,
          started_at: integer | nil,
          pending: boolean,
          failures: non_neg_integer,
          failing_since: integer | nil,
          reported: [term],
          warned: boolean,
          responded: boolean
        }

  # The errors that are responses of a nameserver: there are no such records.
  @nothing_there [:nxdomain, :no_records]

  @doc "Marks a lookup as started. Sets the time of the next one too, in case that this one has no outcome."
  @spec lookup_started(t, now :: integer, PollSchedule.options()) :: t
  def lookup_started(source, now, options),
    do: %{source | started_at: now, pending: true, next_lookup_at: now + options.poll_interval}

  @doc "Moves the next lookup to a later time, because the last one is still in flight."
  @spec postpone(t, now :: integer, PollSchedule.options()) :: t
  def postpone(source, now, options), do: %{source | next_lookup_at: now + options.poll_interval}

  @doc "Marks the lookup as answered. `ttl` is in milliseconds."
  @spec lookup_answered(
          t,
          ttl :: non_neg_integer | nil,
          now :: integer,
          PollSchedule.options(),
          random :: float
        ) :: t
  def lookup_answered(source, ttl, now, options, random) do
    wait = PollSchedule.after_answer(ttl, not source.responded, options, random)

    %{
      source
      | pending: false,
        failures: 0,
        failing_since: nil,
        reported: [],
        warned: false,
        responded: true,
        responded_at: now,
        next_lookup_at: now + wait
    }
  end

  @doc """
  Marks the lookup as failed. Returns whether this kind of failure is to be reported.

  `nodes` is the number of nodes that may see the same failure.
  """
  @spec lookup_failed(
          t,
          kind :: term,
          nodes :: non_neg_integer,
          now :: integer,
          PollSchedule.options(),
          random :: float
        ) :: {new? :: boolean, t}
  def lookup_failed(source, kind, nodes, now, options, random) do
    failures = source.failures + 1
    responded = kind in @nothing_there

    wait =
      if responded,
        do: PollSchedule.after_answer(nil, not source.responded, options, random),
        else: PollSchedule.after_failure(failures, nodes, options, random)

    {kind not in source.reported,
     %{
       source
       | pending: false,
         failures: failures,
         failing_since: source.failing_since || now,
         reported: Enum.uniq([kind | source.reported]),
         responded: source.responded or responded,
         responded_at: if(responded, do: now, else: source.responded_at),
         next_lookup_at: now + wait
     }}
  end

  @doc """
  Moves the next lookup to an earlier time: in `wait` milliseconds, but `:min_interval` after the start of the last
  lookup at the earliest.
  """
  @spec poll_soon(t, wait :: pos_integer, now :: integer, PollSchedule.options()) :: t
  def poll_soon(source, wait, now, options) do
    earliest = if source.started_at, do: source.started_at + options.min_interval, else: now
    %{source | next_lookup_at: min(source.next_lookup_at, max(now + wait, earliest))}
  end
end
