defmodule Caravan.Test.Soak.Vm do
  @moduledoc """
  One node of a soak: a process that starts, ends and calls the VMs of this node, one at a time.

  `act/2` returns at once. The process carries out one action after the other; `sync/1` waits until none is left.
  If a VM ends by itself, that is a failure, and the next one is started.
  """

  use GenServer

  alias Caravan.Test.PeerNode
  alias Caravan.Test.Soak.LogFile
  alias Caravan.Test.Soak.Node
  alias Caravan.Test.Soak.Schedule

  @boot_timeout 60_000
  @call_timeout 20_000

  @enforce_keys [:id, :name, :address, :dir, :args, :strategy]
  defstruct @enforce_keys ++
              [
                peer: nil,
                os_pid: nil,
                pid: nil,
                starts: 0,
                started_at: nil,
                paused: false,
                failures: []
              ]

  @typedoc """
    * `:peer`: the process that controls the VM
    * `:pid`: the process of the strategy in the VM
    * `:starts`: how many VMs were started; `:started_at`: when the last one was, in milliseconds
    * `:paused`: the VM was sent SIGSTOP
    * `:failures`: texts, newest first
  """
  @type t :: %__MODULE__{
          id: Schedule.id(),
          name: String.t(),
          address: :inet.ip4_address(),
          dir: Path.t(),
          args: [String.t()],
          strategy: keyword,
          peer: pid | nil,
          os_pid: String.t() | nil,
          pid: pid | nil,
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

  @spec act(GenServer.server(), action) :: :ok
  def act(vm, action), do: GenServer.cast(vm, action)

  @doc "Waits until all actions have ended. Returns the state, and forgets the failures in it."
  @spec sync(GenServer.server()) :: t
  def sync(vm), do: GenServer.call(vm, :sync, 2 * @boot_timeout)

  @doc """
  Calls a function of `Caravan.Test.Soak.Node` in the VM. Returns `nil` if no VM runs, and `{class, reason}` if the
  call fails.
  """
  @spec call(GenServer.server(), atom, [term]) :: term
  def call(vm, function, arguments \\ []),
    do: GenServer.call(vm, {:call, function, arguments}, 2 * @boot_timeout)

  @doc "Returns the path of the log of the last VM."
  @spec log(t) :: Path.t()
  def log(%__MODULE__{} = vm), do: Path.join(vm.dir, "node#{vm.id}-#{vm.starts}.log")

  @impl true
  def init(vm) do
    # For terminate/2.
    Process.flag(:trap_exit, true)
    {:ok, vm}
  end

  @impl true
  def handle_call(:sync, _from, vm), do: {:reply, vm, %{vm | failures: []}}

  def handle_call({:call, function, arguments}, _from, vm),
    do: {:reply, peer_call(vm, function, arguments), vm}

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
    case peer_call(vm, action, []) do
      :ok -> {:noreply, vm}
      other -> {:noreply, failed(vm, "#{action} returned #{inspect(other)}")}
    end
  end

  @impl true
  def handle_info({:DOWN, _ref, :process, peer, reason}, %{peer: peer} = vm) do
    vm = failed(vm, "the VM ended by itself: #{inspect(reason)}")
    {:noreply, start(%{vm | peer: nil, os_pid: nil})}
  end

  def handle_info(_late, vm), do: {:noreply, vm}

  @impl true
  def terminate(_reason, vm), do: kill(vm)

  defp start(vm) do
    vm = %{vm | starts: vm.starts + 1, paused: false}

    with {:ok, peer, _node} <- boot(vm),
         vm = %{vm | peer: peer, os_pid: peer |> :peer.call(:os, :getpid, []) |> to_string()},
         :ok <- peer_call(vm, :start, [vm.strategy]) do
      _ = Process.monitor(peer)
      %{vm | pid: peer_call(vm, :strategy, []), started_at: System.monotonic_time(:millisecond)}
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

    %{vm | peer: nil, os_pid: nil, pid: nil, paused: false}
  end

  defp signal(vm, name), do: {_, 0} = System.cmd("kill", ["-" <> name, vm.os_pid])

  defp failed(vm, text), do: %{vm | failures: ["#{vm.name}: #{text}" | vm.failures]}

  defp peer_call(%{peer: nil}, _function, _arguments), do: nil
  defp peer_call(%{paused: true}, _function, _arguments), do: nil

  defp peer_call(vm, function, arguments) do
    :peer.call(vm.peer, Node, function, arguments, @call_timeout)
  catch
    class, reason -> {class, reason}
  end

  # Writes its id to a file before it becomes the VM. With setpriv, the kernel kills the VM when the soak ends, even
  # after SIGSTOP. Without it, .ci/soak kills the VMs.
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

  # OTP detects a cut link within 3 to 5 seconds instead of 60. Connections start from the address of the node, so
  # that the firewall can tell nodes apart.
  defp args(vm) do
    ip = to_string(:io_lib.format("~w", [vm.address]))

    ~w(-setcookie soak -kernel net_ticktime 4 inet_dist_use_interface #{ip}) ++
      ["inet_dist_connect_options", "[{ip,#{ip}}]"] ++
      LogFile.args(log(vm)) ++
      ~w(+S 1:1 +SDcpu 1:1 +SDio 1 +sbwt none +sbwtdcpu none +sbwtdio none)
  end

  defp charlists(texts), do: Enum.map(texts, &String.to_charlist/1)
end
