defmodule Caravan.Cluster.Membership.Source do
  # Pure. One question that a topology asks DNS again and again: when next, and how it went.
  @moduledoc false

  alias Caravan.Cluster.Membership.PollSchedule

  @enforce_keys [:next_lookup_at]
  defstruct @enforce_keys ++
              [started_at: nil, pending: false, failures: 0, reported: [], responded: false]

  @typedoc """
    * `:next_lookup_at`: when to ask; always set;
    * `:pending`: a lookup is under way, since `:started_at`;
    * `:failures`: failed lookups in a row; `:reported`: the kinds of them that were reported;
    * `:responded`: DNS has spoken, if only to say that there is nothing.
  """
  @type t :: %__MODULE__{
          next_lookup_at: integer,
          started_at: integer | nil,
          pending: boolean,
          failures: non_neg_integer,
          reported: [term],
          responded: boolean
        }

  # DNS answered; it has no such records.
  @nothing_there [:nxdomain, :no_records]

  @doc "The lookup starts. Should it never end, the next one is already set."
  @spec lookup_started(t, integer, PollSchedule.options()) :: t
  def lookup_started(source, now, options),
    do: %{source | started_at: now, pending: true, next_lookup_at: now + options.poll_interval}

  @spec postpone(t, integer, PollSchedule.options()) :: t
  def postpone(source, now, options), do: %{source | next_lookup_at: now + options.poll_interval}

  @spec lookup_answered(t, ttl :: non_neg_integer | nil, integer, PollSchedule.options(), float) ::
          t
  def lookup_answered(source, ttl, now, options, random) do
    wait = PollSchedule.after_answer(ttl, not source.responded, options, random)

    %{
      source
      | pending: false,
        failures: 0,
        reported: [],
        responded: true,
        next_lookup_at: now + wait
    }
  end

  @spec lookup_failed(
          t,
          kind :: term,
          nodes :: non_neg_integer,
          integer,
          PollSchedule.options(),
          float
        ) ::
          {news :: boolean, t}
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
         reported: Enum.uniq([kind | source.reported]),
         responded: source.responded or responded,
         next_lookup_at: now + wait
     }}
  end

  @doc "Asks sooner, in `wait`, but not more often than `:min_interval`."
  @spec poll_soon(t, wait :: pos_integer, integer, PollSchedule.options()) :: t
  def poll_soon(source, wait, now, options) do
    earliest = if source.started_at, do: source.started_at + options.min_interval, else: now
    %{source | next_lookup_at: min(source.next_lookup_at, max(now + wait, earliest))}
  end
end
