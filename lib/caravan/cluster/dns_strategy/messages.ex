defmodule Caravan.Cluster.DnsStrategy.Messages do
  # Effect. Turns the messages that the strategy receives into events of Membership.
  @moduledoc false

  import Caravan.Cluster.DnsStrategy.State, only: [update: 3]

  alias Caravan.Cluster.Discovery
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.DnsStrategy.Connections
  alias Caravan.Cluster.DnsStrategy.Departure
  alias Caravan.Cluster.DnsStrategy.Jobs
  alias Caravan.Cluster.DnsStrategy.NodeList
  alias Caravan.Cluster.DnsStrategy.OwnRecord
  alias Caravan.Cluster.DnsStrategy.State
  alias Caravan.Cluster.DnsStrategy.Status
  alias Caravan.Cluster.DnsStrategy.Tick
  alias Caravan.Cluster.DnsStrategy.Waiters
  alias Caravan.Cluster.DnsStrategy.Warnings
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.Report

  # The owner-state modules to which messages belong.
  @modules [
    discovery: Discovery,
    jobs: Jobs,
    nodes: NodeList,
    departure: Departure,
    waiters: Waiters,
    warnings: Warnings,
    status: Status
  ]

  @doc """
  Hands a message to the module to which it belongs. Returns the events that follow from it, and the new state.

  There are no events if the message changes nothing for `Membership`, or if they wait for a custom `:list_nodes`
  function. A message that no module knows is stray, or comes from a job or lookup that was stopped. It has no effect.
  """
  @spec events(message :: term, State.t()) :: {[Membership.event()], State.t()}

  # Forgets the timer that sent this message. Otherwise Tick.set/2 would start no timer for a next tick at the same time.
  # If the timer was replaced while this :tick was in the mailbox, the new timer still runs, so it is cancelled.
  def events(:tick, state) do
    {events, state} = state |> update(:tick, &Tick.cancel/1) |> refresh_if_stale([])
    {events ++ [:tick], state}
  end

  def events({:nodeup, node, info}, state) when is_atom(node) do
    state
    |> update(:warnings, &Warnings.nodeup(&1, node, info))
    |> update(:departure, &Departure.check/1)
    |> listed(NodeList.nodeup(state.nodes, node))
  end

  def events({:nodedown, node, _info}, state) when is_atom(node) do
    state
    |> update(:warnings, &Warnings.nodedown(&1, node))
    |> unreachable(NodeAtom.to_name(node))
    |> listed(NodeList.nodedown(state.nodes, node))
  end

  def events(message, state) do
    Enum.find_value(@modules, {[], state}, fn {field, module} ->
      case module.handle(Map.fetch!(state, field), message) do
        :unknown -> nil
        result -> handled(field, result, state)
      end
    end)
  end

  ## Results of the owner-state modules

  defp handled(:discovery, {source, {:ok, answer, left_out}, discovery}, state) do
    state = update(state, :warnings, &Warnings.left_out(&1, source, left_out))
    responded? = Membership.responded?(state.membership)

    {answer, own_record} =
      OwnRecord.answer(state.own_record, source, answer, responded?, connected?(state))

    state = %{state | discovery: discovery, own_record: own_record}
    refresh_if_stale(state, [{:answer, source, answer}])
  end

  defp handled(:discovery, {source, {:error, error}, discovery}, state),
    do: {[{:lookup_failed, source, error}], %{state | discovery: discovery}}

  defp handled(:jobs, {tag, outcome, duration, jobs}, state) do
    connected? = connected?(state)
    state = update(%{state | jobs: jobs}, :status, &Status.job_ended(&1, tag, outcome))

    case Connections.finished(tag, outcome, duration, state.config, connected?) do
      # The nodeup of the connected node may still be in the mailbox. So the list of connected nodes is read.
      [{:connect_result, name, result}] = events when result in [:ok, :already] ->
        if connected?.(name), do: refresh_if_stale(state, events), else: refresh(state, events)

      [{:connect_result, name, _error}] = events ->
        state |> unreachable(name) |> refresh_if_stale(events)

      events ->
        refresh_if_stale(state, events)
    end
  end

  defp handled(:nodes, {result, events, nodes}, state) do
    state |> update(:warnings, &Warnings.list_nodes(&1, result)) |> listed({events, nodes})
  end

  defp handled(:departure, {result, departure}, state) do
    :ok = Report.left(state.config, result)
    refresh_if_stale(%{state | departure: departure}, [])
  end

  defp handled(field, result, state), do: {[], Map.replace!(state, field, result)}

  defp connected?(%{membership: membership}), do: &Membership.connected?(membership, &1)

  defp refresh(state, events), do: listed(state, NodeList.refresh(state.nodes, events))

  defp refresh_if_stale(state, events),
    do: listed(state, NodeList.refresh_if_stale(state.nodes, events))

  defp listed(state, {events, nodes}), do: {events, %{state | nodes: nodes}}

  defp unreachable(state, name), do: update(state, :discovery, &Discovery.unreachable(&1, name))
end
