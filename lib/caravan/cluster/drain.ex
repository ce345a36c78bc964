defmodule Caravan.Cluster.Drain do
  # Leaving the cluster, and staying out.
  #
  # OTP has no switch for that. net_kernel:allow/1 cannot be taken back, and a node that is disconnected
  # again whenever it connects is seen to come and go by everybody. So there are three steps:
  #
  #   * Its peers' strategies are told, and dial this node once a minute, not at once.
  #   * Each peer gets a cookie that nobody knows (erlang:set_cookie/2 is per node). Whoever dials this
  #     node then, of whatever library, fails in the handshake and never sees it come up; and what
  #     connects by itself because somebody here sends a message fails as well. Hidden nodes are no
  #     peers: a remote console still comes in.
  #   * global:disconnect/0 (OTP 25.1) leaves without reports of lost connections, on which
  #     prevent_overlapping_partitions of the others would drop healthy nodes.
  #
  # What this changed stands in a persistent term, so that a strategy that crashes stays out.
  @moduledoc false

  import Bitwise, only: [<<<: 2]

  alias Caravan.Cluster.NodeName
  alias Caravan.Epmd.Peers

  # Names the strategy on all nodes: where its peers are reached, and what it says in the table.
  @typedoc "The name under which the strategy is registered."
  @type key :: atom

  @goodbye 1_000
  @deadline 10_000
  @again 50

  @doc "Milliseconds that `leave/2` takes at most."
  @spec deadline() :: pos_integer
  def deadline, do: @deadline

  @spec drained?(key) :: boolean
  def drained?(key), do: :persistent_term.get(term(key), nil) != nil

  @doc "From here on the node counts as drained."
  @spec start(key) :: :ok
  def start(key) do
    # Without the true cookie it cannot be guessed, and whoever has that is no stranger.
    seed = {:erlang.get_cookie(), make_ref(), System.system_time(), :rand.uniform(1 <<< 60)}

    secret =
      seed |> :erlang.term_to_binary() |> :erlang.md5() |> Base.encode16() |> String.to_atom()

    :persistent_term.put(term(key), {secret, %{}})
  end

  @doc """
  Tells the peers, disconnects, and returns when nobody is connected. `known` are names of nodes that
  may come back. To be run as a job.
  """
  @spec leave(key, known :: [String.t()]) :: :ok
  def leave(key, known) do
    if Node.alive?(), do: goodbye(key, known), else: :ok
  end

  defp goodbye(key, known) do
    _ = GenServer.multi_call(to_leave(), key, {:left, node()}, @goodbye)
    stay_out(key, known)
  end

  @doc "As `leave/2`, for whoever has connected meanwhile."
  @spec stay_out(key, known :: [String.t()]) :: :ok
  def stay_out(key, known) do
    nodes = to_leave()
    shut(key, nodes ++ atoms(known))

    if nodes == [] do
      :ok
    else
      disconnect(nodes)
      stay_out(key, [])
    end
  end

  @doc "Whether somebody is connected who should not be."
  @spec intruded?() :: boolean
  def intruded?, do: to_leave() != []

  @spec resume(key) :: :ok
  def resume(key) do
    {_secret, cookies} = :persistent_term.get(term(key), {nil, %{}})
    Enum.each(cookies, fn {node, cookie} -> :erlang.set_cookie(node, cookie) end)
    _ = :persistent_term.erase(term(key))
    :ok
  end

  # All visible nodes but those of other topologies, which stand in the table. Ours do not any more.
  defp to_leave do
    case Node.list() do
      [] -> []
      nodes -> nodes -- atoms(for {name, _port, _addresses} <- Peers.list(), do: name)
    end
  end

  defp shut(key, nodes) do
    {secret, cookies} = :persistent_term.get(term(key))

    new = Enum.reject(nodes, &is_map_key(cookies, &1))

    if new != [] do
      # First what resume/1 needs.
      cookies = Enum.reduce(new, cookies, &Map.put(&2, &1, :erlang.get_cookie(&1)))
      :persistent_term.put(term(key), {secret, cookies})
    end

    Enum.each(new, &:erlang.set_cookie(&1, secret))
  end

  defp disconnect(nodes) do
    _ = if function_exported?(:global, :disconnect, 0), do: :global.disconnect()

    # Those that `global` does not know: it was told of them too late, or `-connect_all false`.
    _ = if still(nodes) != [], do: Process.sleep(@again)
    Enum.each(still(nodes), &Node.disconnect/1)
  end

  defp still(nodes), do: Enum.filter(Node.list(), &(&1 in nodes))

  # A name without an atom has never been connected.
  defp atoms(names), do: for(name <- names, {:ok, node} <- [NodeName.existing(name)], do: node)

  defp term(key), do: {__MODULE__, key}
end
