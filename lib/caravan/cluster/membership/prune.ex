defmodule Caravan.Cluster.Membership.Prune do
  # Pure. Selects the nodes that the option :prune disconnects.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Membership.Peer

  # The number of needed answers doubles at most this often.
  @most_doublings 16

  @doc """
  Returns the nodes to disconnect, those with the most missed answers first, and the number of further nodes that are
  spared, because at most half of the connected nodes are disconnected in one round.

  A connected node is selected only if

    * it is not a member any more, because no source has named it within `:keep`, and
    * it was missing from `needed` consecutive complete answers of *every* source. Each attempt that leaves the node
      connected doubles the number of answers that this node needs.
  """
  @spec select([Peer.t()], [Config.source()], needed :: pos_integer) ::
          {[String.t()], spared :: non_neg_integer}
  def select(peers, sources, needed) do
    connected = Enum.filter(peers, &Peer.connected?/1)
    most = div(length(connected), 2)

    {selected, spared} =
      connected
      |> Enum.filter(&gone?(&1, sources, needed))
      |> Enum.sort_by(&{-absence(&1), &1.name})
      |> Enum.split(most)

    {Enum.map(selected, & &1.name), length(spared)}
  end

  defp gone?(peer, sources, needed) do
    needed = needed * 2 ** min(peer.prune_attempts, @most_doublings)

    not Peer.member?(peer) and
      Enum.all?(sources, &(Map.get(peer.missed_answers, &1, 0) >= needed))
  end

  defp absence(peer), do: peer.missed_answers |> Map.values() |> Enum.sum()
end
