defmodule Caravan.Cluster do
  @moduledoc """
  What an application asks of a topology that `Caravan.Cluster.DnsStrategy` runs: to wait for its first
  nodes, and to leave it.

  A topology is named by the atom it has under libcluster, by the option `:topology` of a plain child
  (`:caravan` if there is none), or by the pid of the strategy. An atom that several strategies share
  means all of them.

      # In Application.start/2, after the supervisor was started: go on with three nodes, or after 10 s.
      Caravan.Cluster.await(:app, nodes: 3, timeout: 10_000)

      # In Application.prep_stop/1, or wherever SIGTERM is heard of: leave before the work stops.
      Caravan.Cluster.drain(:app)
  """

  alias Caravan.Cluster.Distribution.Drain
  alias Caravan.Cluster.Topologies
  alias Caravan.Options

  @typedoc "A topology's name, or a strategy's pid."
  @type topology :: atom | pid

  # The strategy answers by the deadline; this is for a VM too busy to run it.
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
  Waits until the topology has found its first nodes, or the time is over.

  #{Options.docs(@await_schema)}

  `{:error, :timeout}`: the application can go on; nodes that are found later are connected all the same.
  `{:error, :not_running}`: no such strategy runs in this VM, or it ended meanwhile.
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
  Leaves the cluster, and stays out until `resume/1`.

  Discovery stops. The other nodes are told, so that those with Caravan do not dial this one; then
  `:global.disconnect/0` leaves them all, which spares them what a lost node costs
  (`prevent_overlapping_partitions`). Whoever dials this node afterwards fails in the handshake, and both
  sides log that as a connection that was rejected. Only a node that was unknown here until then gets in, for
  a moment and once.

  Returns when nobody is connected whom this call has to leave: all visible nodes, of this topology or not,
  and its members that are connected hidden. Remote consoles, which are hidden too, still come in, and stay.

  So do nodes that another topology names whose strategy runs in this VM and is not drained: drain each to
  leave all. Unless `connect_all` of `:kernel` is `false`, `:global.disconnect/0` takes these along, where
  others have to be left, and they are dialled again at once.

  A crash of the strategy, or a restart of it, changes nothing: only `resume/1`, or the end of the VM, does.

  `{:error, :timeout}`: somebody was still connected after #{Drain.deadline()} ms. It is tried again for as long
  as the topology is drained. `{:error, :failed}`: leaving raised an error, which is logged, or somebody called
  `resume/1` meanwhile.
  """
  @spec drain(topology) :: :ok | {:error, :timeout | :failed | :not_running}
  def drain(topology), do: each(topology, &call(&1, :drain, Drain.deadline() + @grace))

  @doc "Takes part again after `drain/1`; returns at once."
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
