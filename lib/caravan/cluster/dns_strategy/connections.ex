defmodule Caravan.Cluster.DnsStrategy.Connections do
  # Effect. Starts the jobs that connect, disconnect and diagnose the nodes of a topology, and reports their outcomes.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.Connector
  alias Caravan.Cluster.Distribution.Diagnosis
  alias Caravan.Cluster.Distribution.Drain
  alias Caravan.Cluster.Distribution.Probe
  alias Caravan.Cluster.DnsStrategy.Jobs
  alias Caravan.Cluster.Job
  alias Caravan.Cluster.Report

  @type tag ::
          {:connect | :disconnect, String.t()}
          | {:diagnose, String.t(), Connector.reason()}

  # Diagnoses at a time. A failed connect beyond them is reported without a diagnosis.
  @max_diagnoses 8

  @doc """
  Starts a job that connects a node. The name becomes an atom here, in the calling process.

  If `probe_every` is a number, the job first probes the node, if that is possible.
  """
  @spec connect(Jobs.t(), Config.t(), Drain.key(), String.t(), probe_every :: pos_integer | nil) ::
          Jobs.t()
  def connect(jobs, config, key, name, probe_every) do
    connect = Connector.connect(config, name)

    release_and_connect = fn ->
      :ok = Drain.release(key, name)
      connect.()
    end

    connect =
      if probe_every && Probe.possible?(config),
        do: Connector.probe(config, name, probe_every, release_and_connect),
        else: release_and_connect

    Jobs.start(jobs, {:connect, name}, connect, config.connect_timeout)
  end

  @doc "Starts a job that disconnects a node."
  @spec disconnect(Jobs.t(), Config.t(), String.t()) :: Jobs.t()
  def disconnect(jobs, config, name) do
    disconnect = Connector.disconnect(config, name)
    Jobs.start(jobs, {:disconnect, name}, disconnect, config.connect_timeout)
  end

  @doc "Reports why a node cannot be connected. If a diagnosis may say more, a job finds that out first."
  @spec report_failure(Jobs.t(), Config.t(), String.t(), Connector.reason() | :not_listed) ::
          Jobs.t()
  def report_failure(jobs, config, name, {:probe, finding, duration}) do
    :ok = Report.diagnosed(config, name, finding, duration)
    jobs
  end

  def report_failure(jobs, config, name, reason) do
    diagnoses = Jobs.count(jobs, &match?({:diagnose, _name, _reason}, &1))

    if reason in [:unreachable, :timeout] and diagnoses < @max_diagnoses and
         Probe.possible?(config) do
      diagnose = fn -> Diagnosis.find(name) end
      Jobs.start(jobs, {:diagnose, name, reason}, diagnose, Diagnosis.deadline())
    else
      :ok = Report.connect_failed(config, name, Report.describe(reason))
      jobs
    end
  end

  @doc "Reports the outcome of a job, and returns the events that follow from it."
  @spec finished(tag, Job.outcome(), duration :: integer, Config.t(), (String.t() -> boolean)) ::
          [{:connect_result, String.t(), Connector.result()}]
  def finished({:connect, name}, outcome, duration, config, _connected?) do
    result = Connector.result(outcome)
    :ok = report_connect(config, name, result, duration)
    [{:connect_result, name, failure_kind(result, config)}]
  end

  def finished({:disconnect, name}, outcome, duration, config, _connected?) do
    :ok = Report.disconnected(config, name, Connector.result(outcome), duration)
    []
  end

  # A node that was connected during its diagnosis is reported as connected only.
  #
  # A probe was accepted before the connect failed. If the diagnosis finds anything else, it was at another address of
  # the node, or the node has gone down meanwhile. The probes report that themselves, with the same text.
  def finished({:diagnose, name, reason}, outcome, duration, config, connected?) do
    case {connected?.(name), outcome} do
      {true, _outcome} ->
        :ok

      {false, {:ok, {:accepted, _} = finding}} ->
        Report.diagnosed(config, name, finding, duration)

      {false, _other} ->
        Report.connect_failed(config, name, Report.describe(reason))
    end

    []
  end

  # A lost node is probed several times a second. Its failed probes are reported once, as a diagnosis.
  defp report_connect(_config, _name, {:error, {:probe, _finding, _duration}}, _total), do: :ok

  defp report_connect(config, name, result, duration),
    do: Report.connected(config, name, result, duration)

  # Attempts to connect a node that hangs end by :connect_timeout, or by OTP's timeout. The membership logs each kind
  # of failure once. Both ways are one kind, because a diagnosis logs the same line for them.
  defp failure_kind({:error, :timeout} = result, config),
    do: if(Probe.possible?(config), do: {:error, :unreachable}, else: result)

  defp failure_kind(result, _config), do: result
end
