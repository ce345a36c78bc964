defmodule Caravan.Test.Soak.Vm do
  @moduledoc """
  A process that starts and ends the VMs of one node of a soak, one VM at a time, and calls functions in them.

  `perform/2` returns at once. The process carries out one action after the other, and `await_actions/1` waits for
  the last one. If a VM ends by itself, that is a failure, and the process starts the next one.
  """

  use GenServer

  alias Caravan.Test.PeerNode
  alias Caravan.Test.Soak.LogFile
  alias Caravan.Test.Soak.Node
  alias Caravan.Test.Soak.Schedule

  # Milliseconds.
  @boot_timeout 60_000
  @call_timeout 20_000

  @enforce_keys [:id, :name, :address, :dir, :args, :options]
  defstruct @enforce_keys ++
              [
                peer: nil,
                os_pid: nil,
                strategy: nil,
                starts: 0,
                started_at: nil,
                paused: false,
                failures: []
              ]

  @typedoc """
    * `:address`: where the next VM listens
    * `:args`, `:options`: further arguments of the VM, and the options of the strategy
    * `:peer`: the process of `:peer` that controls the VM. `nil`: no VM runs
    * `:strategy`: the pid of the strategy after the start of the VM
    * `:starts`: how many VMs were started
    * `:started_at`: when the last one was started, in milliseconds
    * `:paused`: whether the VM got SIGSTOP
    * `:failures`: texts, newest first
  """
  @type t :: %__MODULE__{
          id: Schedule.id(),
          name: String.t(),
          address: :inet.ip4_address(),
          dir: Path.t(),
          args: [String.t()],
          options: keyword,
          peer: pid | nil,
          os_pid: String.t() | nil,
          strategy: pid | nil,
          starts: non_neg_integer,
          started_at: integer | nil,
          paused: boolean,
          failures: [String.t()]
        }

  @type action ::
          :start
          | :kill
          | :pause
          | :continue
          | :drain
          | :resume
          | :reload
          | {:address, :inet.ip4_address()}

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(fields), do: GenServer.start_link(__MODULE__, struct!(__MODULE__, fields))

  @doc "Starts an action. All actions but `:start` do nothing if no VM runs."
  @spec perform(GenServer.server(), action) :: :ok
  def perform(vm, action), do: GenServer.cast(vm, action)

  @doc "Waits until all actions have ended. Returns the state. The next call returns only newer failures."
  @spec await_actions(GenServer.server()) :: t
  def await_actions(vm), do: GenServer.call(vm, :await_actions, 2 * @boot_timeout)

  @doc "Calls a function in the VM. Returns `nil` if no VM runs, and `{class, reason}` if the call fails."
  @spec call(GenServer.server(), module, atom, [term]) :: term
  def call(vm, module, function, arguments),
    do: GenServer.call(vm, {:call, module, function, arguments}, 2 * @boot_timeout)

  @doc "Returns the path of the log of one VM of the node. The VM started first is number 1."
  @spec log(t, start :: pos_integer) :: Path.t()
  def log(%__MODULE__{} = vm, start), do: Path.join(vm.dir, "node#{vm.id}-#{start}.log")

  @impl true
  def init(vm) do
    # Without trap_exit, terminate/2 is not called, and the VM outlives the soak.
    Process.flag(:trap_exit, true)
    {:ok, vm}
  end

  @impl true
  def handle_call(:await_actions, _from, vm), do: {:reply, vm, %{vm | failures: []}}

  def handle_call({:call, module, function, arguments}, _from, vm),
    do: {:reply, peer_call(vm, module, function, arguments), vm}

  @impl true
  def handle_cast({:address, address}, vm), do: {:noreply, %{vm | address: address}}
  def handle_cast(:start, %{peer: nil} = vm), do: {:noreply, start(vm)}
  def handle_cast(:kill, vm), do: {:noreply, kill(vm)}
  def handle_cast(_action, %{peer: nil} = vm), do: {:noreply, vm}

  def handle_cast(:pause, vm) do
    signal(vm, "STOP")
    {:noreply, %{vm | paused: true}}
  end

  def handle_cast(:continue, vm) do
    signal(vm, "CONT")
    {:noreply, %{vm | paused: false}}
  end

  def handle_cast(action, vm) do
    case peer_call(vm, Node, action, []) do
      :ok -> {:noreply, vm}
      other -> {:noreply, failed(vm, "#{action} returned #{inspect(other)}")}
    end
  end

  @impl true
  def handle_info({:DOWN, _ref, :process, peer, reason}, %{peer: peer} = vm) do
    vm = failed(vm, "the VM ended by itself: #{inspect(reason)}")
    {:noreply, start(%{vm | peer: nil, os_pid: nil})}
  end

  # The end of a VM that kill/1 ended, the exit of a port of System.cmd/2, or a reply that came after its timeout.
  def handle_info(_message, vm), do: {:noreply, vm}

  @impl true
  def terminate(_reason, vm), do: kill(vm)

  defp start(vm) do
    vm = %{vm | starts: vm.starts + 1, paused: false}

    with {:ok, peer, _node} <- boot(vm),
         vm = %{vm | peer: peer, os_pid: peer |> :peer.call(:os, :getpid, []) |> to_string()},
         :ok <- peer_call(vm, Node, :start, [vm.options]) do
      _ = Process.monitor(peer)
      strategy = peer_call(vm, Node, :strategy, [])
      %{vm | strategy: strategy, started_at: System.monotonic_time(:millisecond)}
    else
      error -> vm |> kill() |> failed("it does not start: #{inspect(error)}")
    end
  end

  defp boot(vm) do
    :peer.start(peer_options(vm))
  catch
    :exit, reason -> {:error, reason}
  end

  defp kill(%{peer: nil} = vm), do: vm

  defp kill(%{peer: peer} = vm) do
    ref = Process.monitor(peer)
    signal(vm, "KILL")

    receive do
      {:DOWN, ^ref, :process, ^peer, _reason} -> :ok
    after
      @call_timeout -> raise "VM #{vm.os_pid} does not end"
    end

    %{vm | peer: nil, os_pid: nil, strategy: nil, paused: false}
  end

  defp signal(vm, name), do: {_, 0} = System.cmd("kill", ["-" <> name, vm.os_pid])

  defp failed(vm, text), do: %{vm | failures: ["#{vm.name}: #{text}" | vm.failures]}

  defp peer_call(%{peer: nil}, _module, _function, _arguments), do: nil
  defp peer_call(%{paused: true}, _module, _function, _arguments), do: nil

  defp peer_call(vm, module, function, arguments) do
    :peer.call(vm.peer, module, function, arguments, @call_timeout)
  catch
    class, reason -> {class, reason}
  end

  # Writes its process id to a file before it becomes the VM. With setpriv, the kernel kills the VM when the soak
  # ends, even if the VM is stopped. Without it, .ci/soak kills the VMs in the file.
  @wrapper ~S"""
  echo $$ >>"$0/pids"
  if command -v setpriv >/dev/null; then exec setpriv --pdeathsig KILL "$@"; else exec "$@"; fi
  """

  defp peer_options(vm) do
    env =
      PeerNode.clean_env([{"ERL_CRASH_DUMP", Path.join(vm.dir, "crash#{vm.id}-#{vm.starts}")}])

    exec = env ++ ["sh", "-c", @wrapper, vm.dir, "erl"]

    %{
      connection: :standard_io,
      exec: {~c"/usr/bin/env", charlists(exec)},
      args:
        charlists(["-name", vm.name] ++ paths() ++ PeerNode.epmd_args() ++ args(vm) ++ vm.args),
      wait_boot: @boot_timeout
    }
  end

  defp paths do
    for app <- [:elixir, :logger, :caravan],
        arg <- ["-pa", Application.app_dir(app, "ebin")],
        do: arg
  end

  # With this net_ticktime, OTP detects a cut link within 3 to 5 seconds instead of 60. Connections start from the
  # address of the node, so that the firewall can tell nodes apart.
  defp args(vm) do
    ip = to_string(:io_lib.format("~w", [vm.address]))

    ~w(-setcookie soak -kernel net_ticktime 4 inet_dist_use_interface #{ip}) ++
      ["inet_dist_connect_options", "[{ip,#{ip}}]"] ++
      LogFile.args(log(vm, vm.starts)) ++
      ~w(+S 1:1 +SDcpu 1:1 +SDio 1 +sbwt none +sbwtdcpu none +sbwtdio none)
  end

  defp charlists(texts), do: Enum.map(texts, &String.to_charlist/1)
end
