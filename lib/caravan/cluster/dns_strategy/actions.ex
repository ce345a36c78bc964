defmodule Caravan.Cluster.DnsStrategy.Actions do
  # Effect. Carries out what Membership has decided: lookups, connects, disconnects, entries of Peers and reports.
  @moduledoc false

  import Caravan.Cluster.DnsStrategy.State, only: [update: 3]

  alias Caravan.Cluster.Discovery
  alias Caravan.Cluster.Distribution.Drain
  alias Caravan.Cluster.DnsStrategy.Connections
  alias Caravan.Cluster.DnsStrategy.State
  alias Caravan.Cluster.DnsStrategy.Status
  alias Caravan.Cluster.DnsStrategy.Warnings
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.Report
  alias Caravan.Epmd.Peers

  @doc """
  Carries out one action with the state of the strategy. Returns the events that follow at once, and the new state.

  The results of lookups and jobs come later, as messages to the calling process.
  """
  @spec perform(Membership.State.action(), State.t()) :: {[Membership.event()], State.t()}
  def perform({:lookup, source}, state),
    do: {[], update(state, :discovery, &Discovery.start(&1, source))}

  def perform({:connect, name, probe_every}, %{config: config, key: key} = state),
    do: {[], update(state, :jobs, &Connections.connect(&1, config, key, name, probe_every))}

  def perform({:disconnect, name}, %{config: config, key: key} = state),
    do: {[], update(state, :jobs, &Connections.disconnect(&1, config, key, name))}

  def perform({:release, name}, %{config: config, key: key} = state),
    do: {[], update(state, :jobs, &Connections.release(&1, config, key, name))}

  def perform({:publish, entries}, state) do
    # Members that this strategy does not dial may dial this node.
    released = Drain.release(state.key, Membership.linked(state.membership))
    :ok = Report.released(state.config, released)
    put = Peers.put(state.key, entries)
    events = if released == :ok and put == :ok, do: [], else: [:publish_failed]
    {events, update(state, :warnings, &Warnings.peer_table(&1, put))}
  end

  def perform({:rotate_addresses, name}, state) do
    :ok = Peers.rotate(name)
    {[], state}
  end

  def perform({:report, {:connect_failed, name, reason}}, %{config: config} = state) do
    state = update(state, :status, &Status.connect_failed(&1, name, reason))
    {[], update(state, :jobs, &Connections.report_failure(&1, config, name, reason))}
  end

  def perform({:report, report}, state) do
    :ok = Report.report(state.config, report, Membership.counts(state.membership))
    {[], update(state, :status, &Status.changed/1)}
  end
end
