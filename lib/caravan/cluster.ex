defmodule Caravan.Cluster do
  @moduledoc """
  Waits for the first nodes of a topology, leaves the cluster, and joins it again.

  A topology runs as a `Caravan.Cluster.DnsStrategy`. Its name is

    * under libcluster, its key in `:topologies`,
    * as a child of a supervisor, its option `:topology`, which defaults to `:caravan`.

  The functions also take the pid of a strategy. If several strategies have the same name, they act on all of
  them.

      # In Application.start/2, after the supervisor has started: waits for three nodes, for at most 10 s.
      Caravan.Cluster.await(:app, nodes: 3, timeout: 10_000)

      # In Application.prep_stop/1: leaves the cluster before the processes of the application stop.
      Caravan.Cluster.drain(:app)

  Here the topology is `:app`. A child such as
  `{Caravan.Cluster.DnsStrategy, query: "_app._tcp.example.com", node_sname: "app"}` has no option `:topology`,
  so its calls are `await(:caravan)` and `drain(:caravan)`.
  """

  alias Caravan.Cluster.Distribution.Drain
  alias Caravan.Cluster.Topologies
  alias Caravan.Options

  @typedoc "The name of a topology, or the pid of a strategy."
  @type topology :: atom | pid

  # Milliseconds past the deadline, by which the strategy has replied. After them, the call ends with a timeout:
  # the VM is too busy to run the strategy.
  @grace 1_000

  @await_schema [
    nodes: [
      type: {:in, 0..16_384},
      default: 0,
      doc:
        "The number of nodes to wait for, without this node. With `0`, waits until each query has had one " <>
          "answer, which may be \"there is no such name\"."
    ],
    timeout: [
      type: {:in, 0..3_600_000},
      default: 5_000,
      type_doc: "milliseconds",
      doc: "The longest time to wait."
    ]
  ]

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
    * nodes that another topology of this VM names, until that topology is drained too. To leave all nodes, drain
      each topology. `:global.disconnect/0` disconnects these nodes for a moment, and the other topology
      connects them again at once. With `connect_all: false` of `:kernel`, they stay connected.

  Until `resume/1`, connection attempts from known nodes fail in the handshake. Peers with Caravan dial this node
  once a minute. Both sides log each attempt as rejected. A node that was never seen before can connect once;
  it is disconnected at once.

  The topology stays drained if the strategy crashes or is restarted. `resume/1` ends that, and so does the end
  of the VM.

  Returns

    * `:ok` when the nodes are disconnected,
    * `{:error, :timeout}` if nodes were still connected after #{Drain.deadline()} ms. The strategy continues to
      disconnect them,
    * `{:error, :failed}` if leaving raised an error, which is in the log, or if `resume/1` was called meanwhile,
    * `{:error, :not_running}` if no strategy of this name runs in this VM, or if it ends during the call.
  """
  @spec drain(topology) :: :ok | {:error, :timeout | :failed | :not_running}
  def drain(topology), do: each(topology, &call(&1, :drain, Drain.deadline() + @grace))

  @doc """
  Joins the cluster again after `drain/1`.

  Returns `:ok` at once, also if the topology is not drained, or `{:error, :not_running}` as `drain/1` does.
  """
  @spec resume(topology) :: :ok | {:error, :not_running}
  def resume(topology), do: each(topology, &call(&1, :resume, Drain.deadline()))

  defp each(pid, fun) when is_pid(pid), do: fun.(pid)

  defp each(topology, fun) when is_atom(topology) do
    case Topologies.whereis(topology) do
      [] -> {:error, :not_running}
      pids -> Enum.reduce(pids, :ok, &with(:ok <- fun.(&1), do: &2))
    end
  end

  defp call(pid, request, timeout) do
    GenServer.call(pid, request, timeout)
  catch
    :exit, {:timeout, _call} -> {:error, :timeout}
    :exit, _reason -> {:error, :not_running}
  end
end
