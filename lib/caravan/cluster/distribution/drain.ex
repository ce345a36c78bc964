defmodule Caravan.Cluster.Distribution.Drain do
  # Leaving the cluster, and staying out.
  #
  # OTP has no switch for that. net_kernel:allow/1 cannot be taken back, and a node that is disconnected
  # again whenever it connects is seen to come and go by everybody. So there are three steps:
  #
  #   * Each peer gets a cookie that nobody knows (erlang:set_cookie/2 is per node). Whoever dials this
  #     node then, of whatever library, fails in the handshake and never sees it come up; and what
  #     connects by itself because somebody here sends a message fails as well. Hidden nodes that are no
  #     members are no peers: a remote console still comes in.
  #   * Its peers' strategies are told, and dial this node once a minute, not at once.
  #   * global:disconnect/0 (OTP 25.1) leaves without reports of lost connections, on which
  #     prevent_overlapping_partitions of the others would drop healthy nodes.
  #
  # A node that another strategy of this VM names stays, unless that one is drained too. Who is named is
  # asked anew each time: what a strategy knows ends with it. Should it be asked while it cannot answer,
  # its connects open what was shut for its want.
  #
  # What this changed stands in a persistent term, so that a strategy that crashes stays out. There is one
  # for the VM, because a peer has one cookie, and one writer at a time.
  @moduledoc false

  import Bitwise, only: [<<<: 2]

  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Job
  alias Caravan.Cluster.Topologies

  # Names the strategy on all nodes: where its peers are reached.
  @typedoc "The name under which the strategy is registered."
  @type key :: atom

  @answers 1_000
  @deadline 10_000
  @retry_after 50

  # For a VM too busy to run a few lines.
  @busy 5_000

  @doc "Milliseconds that `leave/2` takes at most."
  @spec deadline() :: pos_integer
  def deadline, do: @deadline

  @spec drained?(key) :: boolean
  def drained?(key), do: key in load().keys

  @doc "From here on the node counts as drained."
  @spec start(key) :: :ok
  def start(key) do
    change(fn saved ->
      %{saved | secret: saved.secret || secret(), keys: Enum.uniq([key | saved.keys])}
    end)
  end

  @doc """
  Tells the peers, disconnects, and returns when nobody is connected who has to leave, with the nodes that
  may stay. `known` are names of nodes that may come back. To be run as a job.
  """
  @spec leave(key, known :: [String.t()]) :: exempt :: [node]
  def leave(key, known) do
    if Node.alive?() and drained?(key) do
      exempt = Topologies.all() |> ask(:peer_names) |> List.flatten() |> atoms()
      quarantine(key, Enum.uniq(Node.list() ++ atoms(known)) -- exempt)

      case to_disconnect(exempt) do
        [] ->
          exempt

        nodes ->
          _ = ask(for(key <- load().keys, node <- nodes, do: {key, node}), {:draining, node()})
          disconnect(nodes)
          leave(key, known)
      end
    else
      []
    end
  end

  @doc "Whether somebody is connected who should not be. `exempt` are nodes that should."
  @spec unexpected_connections?(exempt :: [node]) :: boolean
  def unexpected_connections?(exempt), do: to_disconnect(exempt) != []

  @doc "Before a strategy that is not drained connects a node: another's drain may have shut it."
  @spec release(key, String.t()) :: :ok
  def release(key, name) do
    {:ok, node} = NodeAtom.existing(name)
    if is_map_key(load().cookies, node), do: change(&release_one(&1, key, node)), else: :ok
  end

  @spec resume(key) :: :ok
  def resume(key) do
    change(fn saved ->
      saved = %{saved | keys: List.delete(saved.keys, key)}
      # What is still shut for another, a connect opens.
      if saved.keys == [],
        do: saved.cookies |> Map.keys() |> Enum.reduce(saved, &restore/2),
        else: saved
    end)
  end

  # Hidden nodes that were shut are members.
  defp to_disconnect(exempt) do
    cookies = load().cookies
    (Node.list() ++ Enum.filter(Node.list(:hidden), &is_map_key(cookies, &1))) -- exempt
  end

  # The replies that come in time.
  defp ask(servers, request) do
    until = System.monotonic_time(:millisecond) + @answers
    requests = for server <- servers, do: :gen_server.send_request(server, request)

    for id <- requests,
        {:reply, reply} <- [:gen_server.receive_response(id, {:abs, until})],
        do: reply
  end

  defp disconnect(nodes) do
    # It leaves all, even who may stay and is dialled again then: to leave some of a mesh makes `global`
    # drop connections between the others.
    visible = Enum.any?(Node.list(), &(&1 in nodes))
    mesh = visible and Application.get_env(:kernel, :connect_all, true)
    _ = if mesh and function_exported?(:global, :disconnect, 0), do: :global.disconnect()

    # Those that `global` does not know: it was told of them too late, or they are hidden.
    _ = if mesh and still_connected(nodes) != [], do: Process.sleep(@retry_after)
    Enum.each(still_connected(nodes), &Node.disconnect/1)
  end

  defp still_connected(nodes), do: Enum.filter(Node.list(:connected), &(&1 in nodes))

  # A name without an atom has never been connected.
  defp atoms(names), do: for(name <- names, {:ok, node} <- [NodeAtom.existing(name)], do: node)

  ## Cookies

  defp quarantine(key, nodes) do
    # Looked at anew, whatever is saved: distribution that was started again has forgotten it.
    secret = load().secret

    if Enum.any?(nodes, &(:erlang.get_cookie(&1) != secret)),
      do: change(&quarantine_all(&1, key, nodes)),
      else: :ok
  end

  # A job of somebody who resumed meanwhile comes too late.
  defp quarantine_all(saved, key, nodes) do
    new =
      for node <- nodes, key in saved.keys, cookie = other_cookie(node, saved), do: {node, cookie}

    # First what resume/1 needs.
    saved = save(%{saved | cookies: Map.merge(saved.cookies, Map.new(new))})
    Enum.each(new, fn {node, _cookie} -> :erlang.set_cookie(node, saved.secret) end)
    saved
  end

  defp other_cookie(node, saved) do
    cookie = :erlang.get_cookie(node)
    if cookie != saved.secret, do: cookie
  end

  defp release_one(saved, key, node) do
    if key not in saved.keys and is_map_key(saved.cookies, node),
      do: restore(node, saved),
      else: saved
  end

  # Whoever set another meanwhile meant it.
  defp restore(node, saved) do
    {cookie, cookies} = Map.pop!(saved.cookies, node)
    _ = if :erlang.get_cookie(node) == saved.secret, do: :erlang.set_cookie(node, cookie)
    %{saved | cookies: cookies}
  end

  # Without the true cookie it cannot be guessed, and whoever has that is no stranger.
  defp secret do
    seed = {:erlang.get_cookie(), make_ref(), System.system_time(), :rand.uniform(1 <<< 60)}
    seed |> :erlang.term_to_binary() |> :erlang.md5() |> Base.encode16() |> String.to_atom()
  end

  ## What is saved

  defp load, do: :persistent_term.get(__MODULE__, %{secret: nil, keys: [], cookies: %{}})

  defp save(saved) do
    :persistent_term.put(__MODULE__, saved)
    saved
  end

  # In a process of its own, which nobody stops half-way.
  defp change(fun) do
    {:ok, _saved} =
      Job.run(
        fn ->
          lock()
          save(fun.(load()))
        end,
        @busy
      )

    :ok
  end

  # A registered name is free again when its process ends.
  defp lock do
    Process.register(self(), __MODULE__)
  rescue
    ArgumentError ->
      ref = Process.monitor(__MODULE__)

      receive do
        {:DOWN, ^ref, :process, _holder, _reason} -> lock()
      end
  end
end
