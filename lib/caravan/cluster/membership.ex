defmodule Caravan.Cluster.Membership do
  # What DNS said, and what follows from it. Pure: no process, no I/O, no atoms.
  @moduledoc false

  alias Caravan.Cluster.Config

  defstruct answers: %{}, errors: %{}, failures: %{}, connected: MapSet.new()

  @typedoc """
    * `:answers`: the names of the last successful lookup of each source;
    * `:errors`: why the latest lookup of a source failed;
    * `:failures`: how the latest connects of a name failed, in a row;
    * `:connected`: the nodes of this topology that were connected when last seen.
  """
  @type t :: %__MODULE__{
          answers: %{Config.source() => MapSet.t(String.t())},
          errors: %{Config.source() => String.t()},
          failures: %{String.t() => {reason :: term, times :: pos_integer}},
          connected: MapSet.t(String.t())
        }

  @doc "Most names of one topology; those that sort last are left out."
  @max_names 1_024
  @spec max_names() :: pos_integer
  def max_names, do: @max_names

  @doc """
  Takes a successful lookup in. True: the source had failed before.
  """
  @spec answered(t, Config.source(), [String.t()]) :: {recovered :: boolean, t}
  def answered(%__MODULE__{} = membership, source, names) do
    answers = Map.put(membership.answers, source, MapSet.new(names))
    {error, errors} = Map.pop(membership.errors, source)
    {error != nil, forget_failures(%{membership | answers: answers, errors: errors})}
  end

  @doc """
  Takes a failed lookup in: the names that the source gave before stay. True: this is news.
  """
  @spec lookup_failed(t, Config.source(), String.t()) :: {news :: boolean, t}
  def lookup_failed(%__MODULE__{} = membership, source, error) do
    news = membership.errors[source] != error
    {news, put_in(membership.errors[source], error)}
  end

  @doc "The names of all sources, 1,024 at most."
  @spec names(t) :: MapSet.t(String.t())
  def names(%__MODULE__{} = membership) do
    membership |> all_names() |> Enum.sort() |> Enum.take(@max_names) |> MapSet.new()
  end

  @doc "Whether DNS gives more names than the limit."
  @spec crowded?(t) :: boolean
  def crowded?(%__MODULE__{} = membership), do: MapSet.size(all_names(membership)) > @max_names

  @doc """
  Compares with the nodes that are connected now: which nodes of the topology joined since the last
  time, whoever connected them, and which were lost.
  """
  @spec observe(t, connected :: [String.t()]) :: {joined :: [String.t()], lost :: [String.t()], t}
  def observe(%__MODULE__{} = membership, connected) do
    ours = MapSet.union(names(membership), membership.connected)
    now = MapSet.intersection(ours, MapSet.new(connected))
    joined = now |> MapSet.difference(membership.connected) |> MapSet.to_list()
    lost = membership.connected |> MapSet.difference(now) |> MapSet.to_list()
    failures = Map.drop(membership.failures, joined)
    {joined, lost, %{membership | connected: now, failures: failures}}
  end

  @doc """
  The names to connect: those of DNS that are not this node, were not connected when last observed,
  and are not being connected.
  """
  @spec to_connect(t, self :: String.t(), busy :: MapSet.t(String.t())) :: [String.t()]
  def to_connect(%__MODULE__{} = membership, self, busy) do
    membership
    |> names()
    |> MapSet.delete(self)
    |> MapSet.difference(membership.connected)
    |> MapSet.difference(busy)
    |> MapSet.to_list()
  end

  @doc """
  Takes a failed connect in. True: this is news, a reason that came twice in a row. Once is no news:
  of two nodes that connect each other at the same moment, one is refused.
  """
  @spec connect_failed(t, String.t(), term) :: {news :: boolean, t}
  def connect_failed(%__MODULE__{} = membership, name, reason) do
    times =
      case membership.failures do
        %{^name => {^reason, times}} -> times + 1
        _ -> 1
      end

    {times == 2, put_in(membership.failures[name], {reason, times})}
  end

  defp forget_failures(membership) do
    %{membership | failures: Map.take(membership.failures, MapSet.to_list(all_names(membership)))}
  end

  defp all_names(membership) do
    membership.answers |> Map.values() |> Enum.reduce(MapSet.new(), &MapSet.union/2)
  end
end
