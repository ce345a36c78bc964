defmodule Caravan.Cluster.DnsStrategy.Rounds do
  # Effect. Rounds of lookups: when one has ended, and the event that reports the status of the topology then.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery
  alias Caravan.Cluster.DnsStrategy.NodeList
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.Report

  @doc """
  Returns whether a round ends with this event: it is the outcome of a lookup, and no other lookup is in flight.

  `later` are the events that come next. Answers may also wait for a custom list_nodes function.
  """
  @spec ended?(Membership.event(), later :: [Membership.event()], Discovery.t(), NodeList.t()) ::
          boolean
  def ended?(event, later, discovery, nodes) do
    outcome?(event) and not Enum.any?(later, &outcome?/1) and Discovery.idle?(discovery) and
      not NodeList.holds?(nodes, &outcome?/1)
  end

  defp outcome?({kind, _source, _result}), do: kind in [:answer, :lookup_failed]
  defp outcome?(_event), do: false

  @doc "Emits the status of the topology."
  @spec report(Config.t(), Membership.t()) :: :ok
  def report(config, membership) do
    measurements = %{
      missing: Membership.missing(membership),
      drained: if(Membership.drained?(membership), do: 1, else: 0),
      answer_age: Membership.answer_age(membership, System.monotonic_time(:millisecond))
    }

    Report.status(config, Map.merge(measurements, Membership.counts(membership)))
  end
end
