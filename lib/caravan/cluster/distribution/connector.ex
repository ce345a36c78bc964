defmodule Caravan.Cluster.Distribution.Connector do
  # Effect. The functions connect, disconnect and list_nodes of a topology, as libcluster defines them, and what
  # their results mean. The user may have written these functions, so they may raise, hang, or return any term.
  # Therefore they run as jobs.
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

  @doc """
  Returns whether the strategy has nothing to do, as in `iex -S mix`, a test or a Mix task.

  This VM is then not alive and not a release, and `:connect` is a function of OTP, which connects no node while the VM
  is not alive.
  """
  @spec idle?(Config.t()) :: boolean
  def idle?(%Config{} = config),
    do: Probe.net_kernel?(config) and not Node.alive?() and not release?()

  @doc "Returns whether this VM runs a release. The script of a release sets the variable `RELEASE_NAME`."
  @spec release?() :: boolean
  def release?, do: System.get_env("RELEASE_NAME") != nil

  @doc """
  Returns a function that connects a node. The name becomes an atom here, before the job runs.

  With a limited number of links, it matters which of two nodes dials. The other node may have dialled during the probe.
  So if the node is already connected, the function does not dial, but returns `{Connector, :already}`.
  """
  @spec connect(Config.t(), String.t()) :: (() -> term)
  def connect(%Config{connect: mfa, links: :all}, name), do: call(mfa, name)

  def connect(%Config{connect: mfa}, name) do
    connect = call(mfa, name)
    node = NodeAtom.create(name)
    fn -> if node in Node.list(:connected), do: {__MODULE__, :already}, else: connect.() end
  end

  @doc """
  Returns a function that probes a node, with a new attempt every `every` milliseconds. If the node accepts, the
  function calls `connect`. If `every` is `nil`, there is no probe: the function calls `connect` if OTP connects nodes
  with such a name, and if the node has a port and an address.

  The probe takes at most a second. It ends 50 ms before `:connect_timeout`, so that the job returns the finding of the
  probe and not a timeout. If `:connect_timeout` is less than 100 ms, the probe takes half of that time.
  """
  @spec probe(Config.t(), String.t(), every :: pos_integer | nil, connect :: (() -> term)) ::
          (() -> term)
  def probe(%Config{connect_timeout: timeout}, name, every, connect) do
    timeout = min(@probe_timeout, max(timeout - 50, div(timeout, 2)))

    fn ->
      started = System.monotonic_time()

      # The host is resolved here first. While the resolver is silent, net_kernel would wait 8 s for each host that is not in
      # Caravan.Epmd.Peers. It would send no ticks meanwhile, so the other nodes would take this one for dead.
      case if(every, do: Probe.find(name, timeout, every), else: Probe.address(name)) do
        {:ok, _address} -> connect.()
        {:accepted, _where} -> connect.()
        finding -> {Probe, finding, System.monotonic_time() - started}
      end
    end
  end

  @doc "Returns a function that disconnects a node."
  @spec disconnect(Config.t(), String.t()) :: (() -> term)
  def disconnect(%Config{disconnect: mfa}, name), do: call(mfa, name)

  @doc "Returns a function that lists the connected nodes."
  @spec list(Config.t()) :: (() -> term)
  def list(%Config{list_nodes: {module, function, arguments}}),
    do: fn -> apply(module, function, arguments) end

  @doc "Returns the connected nodes, from the outcome of a job that ran the function of `list/1`."
  @spec listed(Job.outcome()) :: {:ok, [node]} | {:error, term}
  def listed({:ok, nodes}) do
    if is_list(nodes) and not List.improper?(nodes) and Enum.all?(nodes, &is_atom/1),
      do: {:ok, nodes},
      else: {:error, {:returned, nodes}}
  end

  def listed({:error, reason}), do: {:error, reason}

  @doc "Returns the result of a connect or a disconnect, from the outcome of its job."
  @spec result(Job.outcome()) :: result
  def result({:ok, true}), do: :ok
  def result({:ok, {__MODULE__, :already}}), do: :ok
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
