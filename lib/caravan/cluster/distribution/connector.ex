defmodule Caravan.Cluster.Distribution.Connector do
  # Effect. The functions connect, disconnect and list_nodes of a topology, as libcluster defines them, and what
  # their results mean. The user may have written them. So they run as jobs: they may raise, hang, or return
  # any term.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Distribution.Probe
  alias Caravan.Cluster.Job

  # Milliseconds that a probe waits for a reply at most. It is longer than a round trip around the world.
  @probe_timeout 1_000

  @type result :: :ok | {:error, reason}
  @type reason ::
          :unreachable
          | :not_distributed
          | :timeout
          | {:crashed, term}
          | {:returned, term}
          | {:probe, Probe.finding(), duration :: integer}

  @doc "Returns the call that connects a node. The name becomes an atom here, before the job runs."
  @spec connect(Config.t(), String.t()) :: (() -> term)
  def connect(%Config{connect: mfa}, name), do: call(mfa, name)

  @doc """
  Returns the call that probes a node every `every` milliseconds, and calls `connect` if the node accepts.

  The probe ends 50 ms before `:connect_timeout`, or after half of it, so that its finding is the result of the call.
  """
  @spec probe(Config.t(), String.t(), every :: pos_integer, connect :: (() -> term)) ::
          (() -> term)
  def probe(%Config{connect_timeout: timeout}, name, every, connect) do
    timeout = min(@probe_timeout, max(timeout - 50, div(timeout, 2)))

    fn ->
      started = System.monotonic_time()

      case Probe.find(name, timeout, every) do
        {:accepted, _where} -> connect.()
        finding -> {Probe, finding, System.monotonic_time() - started}
      end
    end
  end

  @doc "Returns the call that disconnects a node."
  @spec disconnect(Config.t(), String.t()) :: (() -> term)
  def disconnect(%Config{disconnect: mfa}, name), do: call(mfa, name)

  @doc "Returns the call that lists the connected nodes."
  @spec list(Config.t()) :: (() -> term)
  def list(%Config{list_nodes: {module, function, arguments}}),
    do: fn -> apply(module, function, arguments) end

  @doc "Returns the connected nodes, from the outcome of the call of `list/1`."
  @spec listed(Job.outcome()) :: {:ok, [node]} | {:error, term}
  def listed({:ok, nodes}) do
    if is_list(nodes) and not List.improper?(nodes) and Enum.all?(nodes, &is_atom/1),
      do: {:ok, nodes},
      else: {:error, {:returned, nodes}}
  end

  def listed({:error, reason}), do: {:error, reason}

  @doc "Returns the result of a connect or a disconnect, from the outcome of its call."
  @spec result(Job.outcome()) :: result
  def result({:ok, true}), do: :ok
  def result({:ok, false}), do: {:error, :unreachable}
  def result({:ok, :ignored}), do: {:error, :not_distributed}
  def result({:ok, {Probe, finding, duration}}), do: {:error, {:probe, finding, duration}}
  def result({:ok, other}), do: {:error, {:returned, other}}
  def result({:error, reason}), do: {:error, reason}

  defp call({module, function, arguments}, name) do
    node = NodeAtom.create(name)
    fn -> apply(module, function, arguments ++ [node]) end
  end
end
