defmodule Caravan.Cluster.Membership.Source do
  # One question that a topology asks DNS again and again: when next, and how it went.
  @moduledoc false

  alias Caravan.Cluster.Membership.PollSchedule

  @enforce_keys [:next_at]
  defstruct @enforce_keys ++
              [asked_at: nil, pending: false, failures: 0, told: [], heard: false]

  @typedoc """
    * `:next_at`: when to ask; always set;
    * `:pending`: a lookup is under way, since `:asked_at`;
    * `:failures`: failed lookups in a row; `:told`: the kinds of them that were reported;
    * `:heard`: DNS has spoken, if only to say that there is nothing.
  """
  @type t :: %__MODULE__{
          next_at: integer,
          asked_at: integer | nil,
          pending: boolean,
          failures: non_neg_integer,
          told: [term],
          heard: boolean
        }

  # DNS answered; it has no such records.
  @nothing_there [:nxdomain, :no_records]

  @doc "The lookup starts. Should it never end, the next one is already set."
  @spec asked(t, integer, PollSchedule.limits()) :: t
  def asked(source, now, limits),
    do: %{source | asked_at: now, pending: true, next_at: now + limits.poll_interval}

  @spec postpone(t, integer, PollSchedule.limits()) :: t
  def postpone(source, now, limits), do: %{source | next_at: now + limits.poll_interval}

  @spec answered(t, ttl :: non_neg_integer | nil, integer, PollSchedule.limits(), float) :: t
  def answered(source, ttl, now, limits, random) do
    wait = PollSchedule.after_answer(ttl, not source.heard, limits, random)

    %{source | pending: false, failures: 0, told: [], heard: true, next_at: now + wait}
  end

  @spec failed(t, kind :: term, nodes :: non_neg_integer, integer, PollSchedule.limits(), float) ::
          {news :: boolean, t}
  def failed(source, kind, nodes, now, limits, random) do
    failures = source.failures + 1
    heard = kind in @nothing_there

    wait =
      if heard,
        do: PollSchedule.after_answer(nil, not source.heard, limits, random),
        else: PollSchedule.after_failure(failures, nodes, limits, random)

    {kind not in source.told,
     %{
       source
       | pending: false,
         failures: failures,
         told: Enum.uniq([kind | source.told]),
         heard: source.heard or heard,
         next_at: now + wait
     }}
  end

  @doc "Asks sooner, in `wait`, but not more often than `:min_interval`."
  @spec hasten(t, wait :: pos_integer, integer, PollSchedule.limits()) :: t
  def hasten(source, wait, now, limits) do
    earliest = if source.asked_at, do: source.asked_at + limits.min_interval, else: now
    %{source | next_at: min(source.next_at, max(now + wait, earliest))}
  end
end
