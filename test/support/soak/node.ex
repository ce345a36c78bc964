defmodule Caravan.Test.Soak.Node do
  @moduledoc "What runs inside each VM of a soak: the strategy, a witness of its connections, and measurements."

  use GenServer

  alias Caravan.Cluster.DnsStrategy
  alias Caravan.Native
  alias Caravan.Test.Soak.LogFile

  @topology :soak
  @supervisor Module.concat(__MODULE__, Supervisor)

  @reloads 20

  # Milliseconds to wait until no process runs the old code.
  @purges 1_000

  # Milliseconds in which a connected node has to answer.
  @reply_timeout 1_000

  @typedoc """
  Counts, and `:rss`, the bytes of the VM that are in RAM.

  The process, the port and the descriptor of each connection are not counted, because connections come and go.
  Processes of OTP's `global` are not counted either.

  `:global_backlog` is the number of messages that wait for `global`. Before OTP 27.2.1 it has a fault: after a
  reconnect, two nodes may send each other such messages endlessly (erlang/otp#9117).
  """
  @type sample :: %{
          atoms: pos_integer,
          processes: pos_integer,
          ports: pos_integer,
          descriptors: pos_integer,
          rss: pos_integer,
          global_backlog: non_neg_integer
        }

  @spec topology() :: atom
  def topology, do: @topology

  @doc "Starts the witness and the strategy under a supervisor that outlives the caller."
  @spec start(strategy :: keyword) :: :ok
  def start(options) do
    load_code()
    {:ok, _} = :application.ensure_all_started(:logger)
    caller = self()

    options = [topology: @topology, disconnect: {__MODULE__, :disconnect, []}] ++ options

    spawn(fn ->
      children = [__MODULE__, {DnsStrategy, options}]
      limits = [max_restarts: 1_000, max_seconds: 1, name: @supervisor]
      {:ok, _} = Supervisor.start_link(children, [strategy: :one_for_one] ++ limits)
      send(caller, :started)
      Process.sleep(:infinity)
    end)

    receive do
      :started -> LogFile.note("strategy #{inspect(strategy())}")
    end
  end

  # A release loads its code at boot. Code that is loaded later would look like a leak.
  defp load_code do
    for app <- [:kernel, :stdlib, :elixir, :logger, :caravan] do
      _ = :application.load(app)
      {:ok, modules} = :application.get_key(app, :modules)
      :ok = :code.ensure_modules_loaded(modules)
    end
  end

  @doc "The strategy's function that disconnects a node: notes that it was called."
  @spec disconnect(node) :: boolean | :ignored
  def disconnect(node) do
    LogFile.note("disconnect #{node}")
    :erlang.disconnect_node(node)
  end

  @spec drain() :: :ok | {:error, atom}
  def drain, do: Caravan.Cluster.drain(@topology)

  @spec resume() :: :ok | {:error, atom}
  def resume, do: Caravan.Cluster.resume(@topology)

  @doc """
  Loads `Caravan.Native` many times. Like a release handler, it first waits until no process runs the old code.
  """
  @spec reload() :: :ok | :busy
  def reload, do: reload(@reloads, @purges)

  defp reload(0, _purges), do: :ok
  defp reload(_reloads, 0), do: :busy

  defp reload(reloads, purges) do
    if :code.soft_purge(Native) do
      {:module, Native} = :code.load_file(Native)
      reload(reloads - 1, @purges)
    else
      Process.sleep(1)
      reload(reloads, purges - 1)
    end
  end

  @doc "Returns the process of the strategy."
  @spec strategy() :: pid | :restarting | :undefined
  def strategy do
    {_id, pid, _type, _modules} =
      @supervisor |> Supervisor.which_children() |> List.keyfind({DnsStrategy, @topology}, 0)

    pid
  end

  @doc """
  Returns all connected nodes, and those of `nodes` that reply to a message within a second. The message does not
  connect nodes.
  """
  @spec links([node]) :: %{connected: [node], answering: [node]}
  def links(nodes) do
    connected = Node.list()
    ref = make_ref()

    for node <- nodes, node in connected do
      _ = :erlang.send({__MODULE__, node}, {:ping, self(), ref}, [:noconnect, :nosuspend])
    end

    deadline = System.monotonic_time(:millisecond) + @reply_timeout
    count = Enum.count(nodes, &(&1 in connected))
    %{connected: connected, answering: replies(ref, count, deadline, [])}
  end

  defp replies(_ref, 0, _deadline, nodes), do: nodes

  defp replies(ref, count, deadline, nodes) do
    receive do
      {^ref, node} -> replies(ref, count - 1, deadline, [node | nodes])
    after
      max(0, deadline - System.monotonic_time(:millisecond)) -> nodes
    end
  end

  @doc "Measures this VM, with all garbage collected."
  @spec sample() :: sample
  def sample do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    [_, kilobytes] = Regex.run(~r/^VmRSS:\s+(\d+) kB$/m, File.read!("/proc/self/status"))

    connected = length(Node.list(:connected))

    processes =
      Enum.reject(Process.list(), fn pid ->
        match?({_, {:global, _name, _arity}}, Process.info(pid, :current_function))
      end)

    %{
      atoms: :erlang.system_info(:atom_count),
      processes: length(processes) - connected,
      ports: :erlang.system_info(:port_count) - connected,
      descriptors: length(File.ls!("/proc/self/fd")) - connected,
      rss: String.to_integer(kilobytes) * 1_024,
      global_backlog: global_backlog()
    }
  end

  # The messages wait for a process that is linked to the server of `global`.
  defp global_backlog do
    {:links, links} = :global_name_server |> Process.whereis() |> Process.info(:links)

    lengths =
      for pid <- links, is_pid(pid), {_, length} <- [Process.info(pid, :message_queue_len)] do
        length
      end

    Enum.max(lengths, fn -> 0 end)
  end

  ## The witness

  @spec start_link(term) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil) do
    :ok = :net_kernel.monitor_nodes(true, [:nodedown_reason])
    for node <- Node.list(), do: LogFile.note("up #{node}")
    {:ok, nil}
  end

  @impl true
  def handle_info({:ping, from, ref}, state) do
    _ = :erlang.send(from, {ref, node()}, [:noconnect, :nosuspend])
    {:noreply, state}
  end

  def handle_info({:nodeup, node, _info}, state) do
    LogFile.note("up #{node}")
    {:noreply, state}
  end

  def handle_info({:nodedown, node, info}, state) do
    LogFile.note("down #{node} #{inspect(info[:nodedown_reason])}")
    {:noreply, state}
  end
end
