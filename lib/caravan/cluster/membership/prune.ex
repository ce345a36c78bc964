defmodule Caravan.Cluster.Membership.Prune do
  # Pure. Whom to disconnect, if the option :prune allows it at all.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Membership.Peer

  @most_doublings 16

  @doc """
  The connected nodes to drop, longest missing first, and how many more would be, were not half of the
  connected ones the most of one round. A node is dropped only when

    * no source has named it for the time of `:keep`, so that it is no member any more, and
    * it was missing from `needed` complete answers in a row of *every* source; twice as many for each time
      that it was dropped and stayed.
  """
  @spec select([Peer.t()], [Config.source()], needed :: pos_integer) ::
          {[String.t()], spared :: non_neg_integer}
  def select(peers, sources, needed) do
    connected = Enum.filter(peers, &Peer.connected?/1)
    most = div(length(connected), 2)

    {dropped, spared} =
      connected
      |> Enum.filter(&gone?(&1, sources, needed))
      |> Enum.sort_by(&{-absence(&1), &1.name})
      |> Enum.split(most)

    {Enum.map(dropped, & &1.name), length(spared)}
  end

  defp gone?(peer, sources, needed) do
    needed = needed * 2 ** min(peer.prune_attempts, @most_doublings)

    not Peer.member?(peer) and
      Enum.all?(sources, &(Map.get(peer.missed_answers, &1, 0) >= needed))
  end

  defp absence(peer), do: peer.missed_answers |> Map.values() |> Enum.sum()
end
