defmodule Caravan.Cluster do
  @moduledoc """
  Shows the status of a topology, waits for its first nodes, leaves the cluster, and joins it again.

  A topology runs as a `Caravan.Cluster.DnsStrategy`. Its name is

    * under libcluster, its key in `:topologies`,
    * as a child of a supervisor, its option `:topology`, which defaults to `:caravan`.

  If no strategy has this name, `await/2`, `drain/1` and `resume/1` log a warning with the topologies that run.

  The functions also take the pid of a strategy. If several strategies have the same name, the functions act on all of
  these strategies, but `status/1` returns the status of the first one.

      # In Application.start/2, after the supervisor has started: waits for two other nodes, for at most 10 s.
      Caravan.Cluster.await(:app, nodes: 2, timeout: 10_000)

      # In Application.prep_stop/1: leaves the cluster before the processes of the application stop.
      Caravan.Cluster.drain(:app)

      # In the plug of a readiness probe:
      Caravan.Cluster.ready?(:app, nodes: 1)

  Here the topology is `:app`. A child such as
  `{Caravan.Cluster.DnsStrategy, query: "_app._tcp.example.com", node_sname: "app"}` has no option `:topology`,
  so its calls are `await(:caravan)` and `drain(:caravan)`.
  """

  alias Caravan.Cluster.Distribution.Drain
  alias Caravan.Cluster.DnsStrategy.Status
  alias Caravan.Cluster.Topologies
  alias Caravan.Options

  require Logger

  @typedoc "The name of a topology, or the pid of a strategy."
  @type topology :: atom | pid

  @typedoc """
  The status of a topology. It consists of strings, numbers, booleans, lists and `nil`, so that any JSON library can
  encode it. The lists of nodes are sorted.

    * `:drained`: whether the topology has left the cluster with `drain/1`.
    * `:ready`: what `ready?/1` returns.
    * `:members`: the nodes that DNS names, without this node. A node that DNS names no more stays a member for
      `:keep`, and then until a complete answer lacks it.
    * `:connected`: the connected nodes of the topology. Some of them may be no members any more.
    * `:links`: the members that are connected because the topology needs them. With the option `:links`, these are the
      preferred members and their stand-ins. By default, all members are preferred.
    * `:missing`: the members that the topology needs and that are not connected. `:since_ms` is the time since the last
      nodedown, or since DNS first named the node. `:finding` says why the last attempt to connect the node failed, or
      that the node has announced that it leaves. `:id` is the check that the finding belongs to. Both are `nil` until an
      attempt fails or the node announces that it leaves.
    * `:sources`: the last lookup of each query and type. `:result` is `"ok"`, or the reason of `Caravan.Dns.Error`, such
      as `"nxdomain"`. `:records` is the number of records, `:ttl` their TTL in seconds, `:nameserver` the one that answered
      or that the error is about, and `:age_ms` the time since the lookup ended. All of them are `nil` before the first lookup has
      ended.
  """
  @type status :: %{
          topology: String.t(),
          drained: boolean,
          ready: boolean,
          members: [String.t()],
          connected: [String.t()],
          links: %{preferred: [String.t()], stand_ins: [String.t()]},
          missing: [
            %{
              node: String.t(),
              since_ms: non_neg_integer,
              id: String.t() | nil,
              finding: String.t() | nil
            }
          ],
          sources: [
            %{
              query: String.t(),
              type: String.t(),
              result: String.t() | nil,
              records: non_neg_integer | nil,
              ttl: non_neg_integer | nil,
              nameserver: String.t() | nil,
              age_ms: non_neg_integer | nil
            }
          ]
        }

  # Milliseconds. The strategy replies by the deadline of a call. If there is no reply within this time after the
  # deadline, the VM is too busy to run the strategy, and the call ends with a timeout.
  @grace 1_000

  # The largest value of the option :max_nodes.
  @most_nodes 16_384

  @ready_schema [
    nodes: [
      type: {:in, 0..@most_nodes},
      default: 0,
      doc:
        "The number of nodes, without this node, that must have been connected at the same moment, at least once."
    ]
  ]

  @await_schema [
    nodes: [
      type: {:in, 0..@most_nodes},
      default: 0,
      doc:
        "The number of nodes to wait for, without this node. If the topology has a smaller number in its option " <>
          "`:links`, that number is enough. With `0`, waits until each query has had one answer, which may be " <>
          "\"there is no such name\"."
    ],
    timeout: [
      type: {:in, 0..3_600_000},
      default: 5_000,
      type_doc: "milliseconds",
      doc: "The longest time to wait."
    ]
  ]

  @doc """
  Returns the names of the topologies that run in this VM, in alphabetical order.

      for topology <- Caravan.Cluster.topologies(), do: Caravan.Cluster.status(topology)
  """
  @spec topologies() :: [atom]
  def topologies do
    names = for key <- Topologies.all(), topology = Status.topology(key), do: topology
    names |> Enum.uniq() |> Enum.sort()
  end

  @doc """
  Returns the status of a topology: its members, which of them are missing and why, and the last lookups.

      {:ok, status} = Caravan.Cluster.status(:app)
      for %{node: node, finding: finding} <- status.missing, do: IO.puts([node, ": ", finding || "no failure yet"])

  Reads a table that the strategy writes, and sends no message. So the function returns the status while the strategy
  hangs. After a change, the strategy writes the lists of nodes within 80 ms. In a topology of more than 3,200 nodes, it
  takes 1 ms for each 40 nodes: with 4,000 nodes, the lists can be 100 ms old.

  Returns `{:error, :not_running}` if no strategy of this name runs in this VM.
  """
  @spec status(topology) :: {:ok, status} | {:error, :not_running}
  def status(topology) do
    topology
    |> tables()
    |> Enum.find_value({:error, :not_running}, fn table ->
      with {:error, :not_running} <- Status.read(table), do: nil
    end)
  end

  @doc """
  Returns whether the topology is ready, for readiness and startup probes.

  It becomes ready when both are true, and stays ready until `drain/1`:

    * each query has had at least one answer, which may be "there is no such name",
    * the given number of nodes have been connected at the same moment, at least once. The default is 0, so that the
      first node does not wait for others. If the topology has a smaller number in its option `:links`, that number is
      enough.

  So the loss of a node makes no other node unready. After `resume/1`, the number of nodes has to be connected again.
  After a restart of the strategy, both have to become true again.

  The call takes a few microseconds and sends no message. It never raises. It returns `false` if no strategy of this name runs
  in this VM, and for a wrong option, which it logs as an error.

  ## Options

  #{Options.docs(@ready_schema)}
  """
  @spec ready?(topology, [{:nodes, non_neg_integer}]) :: boolean
  def ready?(topology, options \\ []) do
    nodes = ready_nodes(options)

    results = for table <- tables(topology), do: Status.ready?(table, nodes)
    results = Enum.reject(results, &(&1 == :not_running))
    results != [] and Enum.all?(results)
  rescue
    # `false` only keeps requests away from this node. An exception in the plug could do more harm.
    error in ArgumentError ->
      Logger.error("[caravan] " <> Exception.message(error))
      false
  end

  # A probe asks often, and the options are most often one of these.
  defp ready_nodes([]), do: 0
  defp ready_nodes(nodes: nodes) when nodes in 0..@most_nodes, do: nodes

  defp ready_nodes(options),
    do: Options.validate!(options, @ready_schema, "Caravan.Cluster.ready?/2").nodes

  @doc """
  Waits until nodes of the topology are connected.

  Returns

    * `:ok` when enough nodes are connected,
    * `{:error, :timeout}` at the end of the time. The strategy still connects nodes that it finds later, so the
      application can continue,
    * `{:error, :not_running}` if no strategy of this name runs in this VM, or if it ends during the call.

  ## Options

  #{Options.docs(@await_schema)}
  """
  @spec await(topology, [{:nodes, non_neg_integer} | {:timeout, non_neg_integer}]) ::
          :ok | {:error, :timeout | :not_running}
  def await(topology, options \\ []) do
    options = Options.validate!(options, @await_schema, "Caravan.Cluster.await/2")
    deadline = System.monotonic_time(:millisecond) + options.timeout

    each(topology, fn pid ->
      left = max(0, deadline - System.monotonic_time(:millisecond))
      call(pid, {:await, options.nodes, left}, left + @grace)
    end)
  end

  @doc """
  Leaves the cluster, and stays out of it until `resume/1`.

  The strategy stops all lookups. It tells the other nodes that this node leaves, and disconnects them with
  `:global.disconnect/0`. That function does not report lost connections, so the other nodes stay connected with
  each other (see `prevent_overlapping_partitions` of `:kernel`).

  The call disconnects all visible nodes, of this topology or not, and members of the topology that are
  connected as hidden nodes. It does not disconnect

    * other hidden nodes, such as remote consoles, which can still connect;
    * nodes that another topology of this VM names, unless it has `links: 0`;
    * nodes whose strategy of the other topology wants a link to this node, does not reply, or has had no answer yet.

  The other topology keeps its nodes until it is drained too. `:global.disconnect/0` disconnects these nodes for a moment,
  and the other topology connects them again at once. With `connect_all: false` of `:kernel`, they stay connected.

  While the strategy of another topology does not reply, or while its queries have not all had an answer since it
  started, its nodes are unknown. Then no node is disconnected.

  To leave all nodes, drain all topologies at the same time. Then none of them waits for the first answer of another one:

      drains = for topology <- Caravan.Cluster.topologies(), do: Task.async(Caravan.Cluster, :drain, [topology])
      Task.await_many(drains, 15_000)

  Until `resume/1`, connection attempts from known nodes fail in the handshake. Peers with Caravan dial this node
  only every 30 to 60 s. Both sides log each attempt as rejected. A node that was never seen before can connect once, and is
  disconnected at once. But if `connect_all` is in force and a node of another topology is connected, it stays connected,
  because `global` would disconnect healthy nodes otherwise.

  The topology stays drained if the strategy crashes or is restarted. `resume/1` ends that, and so does the end
  of the VM.

  Returns

    * `:ok` when the nodes are disconnected,
    * `{:error, :timeout}` if nodes were still connected after #{Drain.deadline()} ms, or if the nodes of another topology
      were unknown until then. The strategy continues,
    * `{:error, :failed}` if leaving raised an error, which is in the log, or if `resume/1` was called meanwhile,
    * `{:error, :not_running}` if no strategy of this name runs in this VM, or if it ends during the call.
  """
  @spec drain(topology) :: :ok | {:error, :timeout | :failed | :not_running}
  def drain(topology), do: each(topology, &call(&1, :drain, Drain.deadline() + @grace))

  @doc """
  Joins the cluster again after `drain/1`.

      :ok = Caravan.Cluster.resume(:app)

  From then on, each node that was kept out has its cookie set by `:erlang.set_cookie/2`. So a later
  `:erlang.set_cookie/1` changes the cookie for other nodes only.

  Returns

    * `:ok` at once, also if the topology is not drained,
    * `{:error, :timeout}` if the strategy did not reply within #{Drain.deadline()} ms,
    * `{:error, :not_running}` as `drain/1` does.
  """
  @spec resume(topology) :: :ok | {:error, :timeout | :not_running}
  def resume(topology), do: each(topology, &call(&1, :resume, Drain.deadline()))

  # The tables have the registered names of the strategies.
  defp tables(pid) when is_pid(pid), do: List.wrap(Topologies.name(pid))
  defp tables(topology) when is_atom(topology), do: Topologies.names(topology)
  defp tables(_other), do: []

  defp each(pid, fun) when is_pid(pid), do: fun.(pid)

  defp each(topology, fun) when is_atom(topology) do
    case Topologies.whereis(topology) do
      [] -> not_running(topology)
      [pid] -> fun.(pid)
      pids -> each_at_once(pids, fun)
    end
  end

  # A drain waits for the first answer of the other strategies, until they are drained too.
  defp each_at_once(pids, fun) do
    calls = for pid <- pids, do: Task.async(fn -> fun.(pid) end)
    calls |> Task.await_many(:infinity) |> Enum.find(:ok, &(&1 != :ok))
  end

  # Applications often ignore the result.
  defp not_running(topology) do
    running =
      case topologies() do
        [] -> "No topology runs in this VM"
        running -> "These topologies run: #{Enum.map_join(running, ", ", &inspect/1)}"
      end

    Logger.warning("[caravan] the topology #{inspect(topology)} does not run. #{running}")
    {:error, :not_running}
  end

  defp call(pid, request, timeout) do
    GenServer.call(pid, request, timeout)
  catch
    :exit, {:timeout, _call} -> {:error, :timeout}
    :exit, _reason -> {:error, :not_running}
  end
end
