defmodule Caravan.Cluster.Membership do
  # What DNS said, and what follows from it. Pure: no process, no I/O, no atoms.
  @moduledoc false

  alias Caravan.Cluster.Config

  defstruct answers: %{}, failures: %{}, connected: MapSet.new(), standing: MapSet.new()

  @typedoc """
    * `:answers`: the names of the last successful lookup of each source;
    * `:failures`: how often the connects of a name failed in a row, and the kinds told of;
    * `:connected`: the nodes of this topology that were connected when last seen;
    * `:standing`: what was told and still holds.
  """
  @type t :: %__MODULE__{
          answers: %{Config.source() => MapSet.t(String.t())},
          failures: %{String.t() => {times :: pos_integer, kinds :: [term]}},
          connected: MapSet.t(String.t()),
          standing: MapSet.t(term)
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
    failed = MapSet.filter(membership.standing, &match?({:lookup_failed, ^source, _kind}, &1))
    standing = MapSet.difference(membership.standing, failed)
    membership = forget_failures(%{membership | answers: answers, standing: standing})
    {MapSet.size(failed) > 0, membership}
  end

  @doc """
  Takes a failed lookup in: the names that the source gave before stay. True: this is news, a kind of
  failure that the source has not had since its last answer.
  """
  @spec lookup_failed(t, Config.source(), kind :: term) :: {news :: boolean, t}
  def lookup_failed(%__MODULE__{} = membership, source, kind),
    do: stands(membership, {:lookup_failed, source, kind}, true)

  @doc "Takes in whether something holds. True: it did not before, so it is news."
  @spec stands(t, what :: term, boolean) :: {news :: boolean, t}
  def stands(%__MODULE__{standing: standing} = membership, what, true),
    do: {what not in standing, %{membership | standing: MapSet.put(standing, what)}}

  def stands(%__MODULE__{standing: standing} = membership, what, false),
    do: {false, %{membership | standing: MapSet.delete(standing, what)}}

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
  and are not being connected. Those that failed least come first, so that dead addresses wait for the
  others and not the others for them.
  """
  @spec to_connect(t, self :: String.t(), busy :: MapSet.t(String.t())) :: [String.t()]
  def to_connect(%__MODULE__{} = membership, self, busy) do
    membership
    |> names()
    |> MapSet.delete(self)
    |> MapSet.difference(membership.connected)
    |> MapSet.difference(busy)
    |> Enum.sort_by(&failed_times(membership, &1))
  end

  @doc """
  Takes a failed connect in. True: this is news, a kind of failure not told of yet. Once is no news: of
  two nodes that connect each other at the same moment, one is refused.
  """
  @spec connect_failed(t, String.t(), kind :: term) :: {news :: boolean, t}
  def connect_failed(%__MODULE__{} = membership, name, kind) do
    {times, kinds} = Map.get(membership.failures, name, {0, []})
    news = times > 0 and kind not in kinds
    kinds = if news, do: [kind | kinds], else: kinds
    {news, put_in(membership.failures[name], {times + 1, kinds})}
  end

  defp failed_times(membership, name) do
    {times, _kinds} = Map.get(membership.failures, name, {0, []})
    times
  end

  defp forget_failures(membership) do
    %{membership | failures: Map.take(membership.failures, MapSet.to_list(all_names(membership)))}
  end

  defp all_names(membership) do
    membership.answers |> Map.values() |> Enum.reduce(MapSet.new(), &MapSet.union/2)
  end
end
