defmodule Caravan.Cluster.Membership.NodeStatus do
  # Pure. What each node is to the topology: connected, missing, or not needed.
  @moduledoc false

  alias Caravan.Cluster.Membership.Links
  alias Caravan.Cluster.Membership.Peer
  alias Caravan.Cluster.Membership.State

  @typedoc """
  What a node is to the topology, and whether it is a member:

    * `:preferred`, `:stand_in`: it is connected. Without a limit of links, all connected members are preferred;
    * `:connected`: it is connected, and the topology does not need the connection;
    * `{:missing, since, draining}`: it is to be connected, and is not. `draining` says whether it has announced that it
      leaves;
    * `:unlinked`: it is not connected, and the topology does not need a connection.
  """
  @type t ::
          {member :: boolean,
           :preferred
           | :stand_in
           | :connected
           | {:missing, since :: integer, draining :: boolean}
           | :unlinked}

  @doc "Returns the members and the connected nodes of the topology, each with its status."
  @spec nodes(State.t()) :: [{String.t(), t}]
  def nodes(%State{} = state),
    do: for({name, peer} <- state.peers, do: {name, status(state, peer)})

  @doc "Returns the number of members that are not connected, but should be."
  @spec missing(State.t()) :: non_neg_integer
  def missing(%State{links: nil, unconnected: unconnected}), do: unconnected

  def missing(%State{links: links} = state),
    do: Enum.count(Links.preferred(links), &(not Peer.connected?(state.peers[&1])))

  defp status(state, peer) do
    case {Peer.member?(peer), Peer.connected?(peer)} do
      {true, true} -> {true, connection(State.link(state, peer))}
      {true, false} -> {true, if(needed?(state, peer), do: missing_status(peer), else: :unlinked)}
      {false, _connected} -> {false, :connected}
    end
  end

  defp connection(nil), do: :preferred
  defp connection(link) when link in [:preferred, :stand_in], do: link
  defp connection(_released_or_other), do: :connected

  defp needed?(%{links: nil}, _peer), do: true
  defp needed?(%{links: links}, peer), do: Links.preferred?(links, peer.name)

  defp missing_status(peer), do: {:missing, peer.missing_since, peer.draining}
end
