defmodule Caravan.Cluster.DnsStrategy.Connections do
  # Effect. Starts the jobs that connect, disconnect and diagnose the nodes of a topology, and reports their outcomes.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.ConnectAll
  alias Caravan.Cluster.Distribution.Connector
  alias Caravan.Cluster.Distribution.Diagnosis
  alias Caravan.Cluster.Distribution.Drain
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Distribution.Probe
  alias Caravan.Cluster.DnsStrategy.Jobs
  alias Caravan.Cluster.Job
  alias Caravan.Cluster.Report
  alias Caravan.Cluster.Topologies

  @type tag ::
          {:connect | :disconnect | :release, String.t()}
          | {:diagnose, String.t(), Connector.reason()}

  # Milliseconds to wait for the replies of other strategies.
  @reply_timeout 1_000

  # Maximum number of diagnoses at a time. While it is reached, failed connects are reported without a diagnosis.
  @max_diagnoses 8

  @doc """
  Starts a job that connects a node. The name becomes an atom here, in the calling process.

  If `probe_every` is a number, the job first probes the node, if that is possible. With `nil`, it only checks whether OTP
  connects nodes with such a name, and whether the host resolves.
  """
  @spec connect(Jobs.t(), Config.t(), Drain.key(), String.t(), probe_every :: pos_integer | nil) ::
          Jobs.t()
  def connect(jobs, config, key, name, probe_every) do
    connect = Connector.connect(config, name)

    release_and_connect = fn ->
      :ok = Drain.release(key, [name])
      connect.()
    end

    connect =
      if Probe.possible?(config),
        do: Connector.probe(config, name, probe_every, release_and_connect),
        else: release_and_connect

    Jobs.start(jobs, {:connect, name}, connect, config.connect_timeout)
  end

  @doc """
  Starts a job that disconnects a node, unless another strategy of this VM wants the link. `key` is the registered name
  of the calling strategy.
  """
  @spec disconnect(Jobs.t(), Config.t(), Drain.key(), String.t()) :: Jobs.t()
  def disconnect(jobs, config, key, name) do
    disconnect = Connector.disconnect(config, name)

    disconnect = fn ->
      case kept(others_here(key, name)) do
        nil -> disconnect.()
        why -> {:kept, why}
      end
    end

    Jobs.start(jobs, {:disconnect, name}, disconnect, disconnect_timeout(config))
  end

  @doc """
  Starts a job that disconnects a stand-in, unless another strategy of this VM or the strategy of the other node wants the
  link, or `connect_all` is in force. `key` is the registered name of the calling strategy.

  With `connect_all`, `global` would report the lost connection to all nodes, and these would disconnect healthy nodes
  (`prevent_overlapping_partitions`).
  """
  @spec release(Jobs.t(), Config.t(), Drain.key(), String.t()) :: Jobs.t()
  def release(jobs, config, key, name) do
    disconnect = Connector.disconnect(config, name)

    release = fn ->
      if (Node.alive?() and ConnectAll.in_force()) or wanted_by_others?(key, name),
        do: :kept,
        else: {:disconnected, disconnect.()}
    end

    Jobs.start(jobs, {:release, name}, release, disconnect_timeout(config))
  end

  # The replies of other strategies take none of the time that the disconnect function has.
  defp disconnect_timeout(config), do: @reply_timeout + config.connect_timeout

  # The other node may prefer this one, and count the link as its own.
  defp wanted_by_others?(key, name) do
    {:ok, node} = NodeAtom.existing(name)
    # The request would connect a node that is not connected.
    there = for ^node <- Node.list(:connected), do: {{key, node}, NodeAtom.to_name(node())}
    kept(there ++ others_here(key, name)) != nil
  end

  defp others_here(key, name), do: for(other <- Topologies.all() -- [key], do: {other, name})

  # Returns why a link must stay: a strategy wants it, or does not know that yet, or does not reply.
  defp kept(strategies) do
    deadline = System.monotonic_time(:millisecond) + @reply_timeout

    requests =
      for {strategy, wanted} <- strategies,
          do: :gen_server.send_request(strategy, {:wants, wanted})

    replies = for request <- requests, do: :gen_server.receive_response(request, {:abs, deadline})

    cond do
      {:reply, true} in replies -> :wanted
      Enum.any?(replies, &(&1 in [{:reply, :unknown}, :timeout])) -> :unknown
      true -> nil
    end
  end

  @doc "Reports why a node cannot be connected. If a diagnosis may say more, starts it as a job, which reports instead."
  @spec report_failure(Jobs.t(), Config.t(), String.t(), Connector.reason() | :not_listed) ::
          Jobs.t()
  def report_failure(jobs, config, name, {:probe, finding, duration}) do
    :ok = Report.diagnosed(config, name, finding, duration)
    jobs
  end

  def report_failure(jobs, config, name, reason) do
    diagnoses = Jobs.count(jobs, &match?({:diagnose, _name, _reason}, &1))

    if reason == :unreachable and diagnoses < @max_diagnoses and Probe.possible?(config) do
      diagnose = fn -> Diagnosis.find(name) end
      Jobs.start(jobs, {:diagnose, name, reason}, diagnose, Diagnosis.deadline())
    else
      :ok = Report.connect_failed(config, name, reason)
      jobs
    end
  end

  @doc "Reports the outcome of a job, and returns the events that follow from it."
  @spec finished(tag, Job.outcome(), duration :: integer, Config.t(), (String.t() -> boolean)) ::
          [
            {:connect_result, String.t(), Connector.result() | :already}
            | {:release_result, String.t(), :released | :kept}
          ]
  def finished({:connect, name}, outcome, duration, config, _connected?) do
    result = Connector.result(outcome)
    :ok = report_connect(config, name, result, duration)
    already? = outcome == {:ok, {Connector, :already}}
    [{:connect_result, name, if(already?, do: :already, else: failure_kind(result, config))}]
  end

  def finished({:disconnect, name}, {:ok, {:kept, why}}, _duration, config, _connected?) do
    :ok = Report.kept(config, name, why)
    []
  end

  def finished({:disconnect, name}, outcome, duration, config, _connected?) do
    :ok = Report.disconnected(config, name, Connector.result(outcome), duration)
    []
  end

  def finished({:release, name}, outcome, duration, config, _connected?) do
    case outcome do
      {:ok, :kept} ->
        [{:release_result, name, :kept}]

      {:ok, {:disconnected, returned}} ->
        result = Connector.result({:ok, returned})
        :ok = Report.disconnected(config, name, result, duration)
        [{:release_result, name, if(result == :ok, do: :released, else: :kept)}]

      {:error, _reason} ->
        :ok = Report.disconnected(config, name, Connector.result(outcome), duration)
        [{:release_result, name, :kept}]
    end
  end

  # A node that was connected during its diagnosis is reported as connected only.
  #
  # Before the connect failed, the node accepted a probe. If the diagnosis cannot even open a connection, it has dialled
  # another address of the node, or the node has gone down since. Such a finding is not logged here, because the next
  # probes report it, with the same text.
  def finished({:diagnose, name, reason}, outcome, duration, config, connected?) do
    case {connected?.(name), outcome} do
      {true, _outcome} ->
        :ok

      {false, {:ok, finding}} ->
        if Diagnosis.handshake?(finding),
          do: Report.diagnosed(config, name, finding, duration),
          else: Report.connect_failed(config, name, reason)

      {false, _other} ->
        Report.connect_failed(config, name, reason)
    end

    []
  end

  # A lost node is probed several times a second. Its failed probes are reported once, as a diagnosis.
  defp report_connect(_config, _name, {:error, {:probe, _finding, _duration}}, _total), do: :ok

  defp report_connect(config, name, result, duration),
    do: Report.connected(config, name, result, duration)

  # If a node hangs, a connect to it ends at :connect_timeout, or at the timeout of OTP (net_setuptime). The membership
  # logs each kind of failure once. The two timeouts are one kind, because a diagnosis logs the same line for both.
  defp failure_kind({:error, :timeout} = result, config),
    do: if(Probe.possible?(config), do: {:error, :unreachable}, else: result)

  defp failure_kind(result, _config), do: result
end
