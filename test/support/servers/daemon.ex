defmodule Caravan.Test.Daemon do
  @moduledoc """
  Runs a server program that ends with the process that called `start/2`, even if the VM is killed.

  This process gets the output of the server as `{port, {:data, bytes}}`, and the end of the server as
  `{port, {:exit_status, status}}`.
  """

  # Each line on stdin is the name of a signal for the server. When stdin ends, the script ends the server.
  # Stdin also ends when the VM dies. When the server ends, the script ends too.
  @keeper """
  dir=$1; shift
  exec 3<&0
  "$@" 3<&- </dev/null & server=$!
  {
    while read -r signal <&3; do kill -s "$signal" "$server"; done
    kill "$server"; sleep 2; kill -s KILL "$server"
  } >/dev/null 2>&1 &
  reader=$!
  exec 3<&- </dev/null >/dev/null 2>&1
  wait "$server"; status=$?
  kill "$reader"
  rm -rf -- "$dir"
  exit "$status"
  """

  @doc "Creates a directory for the files of a server. After `start/2`, it is removed when the server ends."
  @spec directory!(String.t()) :: Path.t()
  def directory!(name) do
    dir = Path.join(System.tmp_dir!(), "#{name}-" <> Base.encode16(:rand.bytes(6), case: :lower))
    File.mkdir!(dir)
    dir
  end

  @doc "Returns the path of a program, or `nil`. It also looks in `/usr/sbin`, where Debian has servers."
  @spec find(String.t()) :: Path.t() | nil
  def find(name), do: System.find_executable(name) || System.find_executable("/usr/sbin/#{name}")

  @doc "Like `find/1`, but raises if the program is not installed."
  @spec find!(String.t(), package :: String.t()) :: Path.t()
  def find!(name, package) do
    find(name) ||
      raise "#{name} is not installed; to install it: apt-get install --no-install-recommends #{package}"
  end

  @doc "Starts a command and returns its port. `dir` is removed when the command ends."
  @spec start(Path.t(), [String.t(), ...]) :: port
  def start(dir, command) do
    options = [:binary, :exit_status, :stderr_to_stdout]

    Port.open(
      {:spawn_executable, "/bin/sh"},
      options ++ [args: ["-c", @keeper, "keeper", dir | command]]
    )
  end

  @doc """
  Waits until `ready?` returns a true value for the state of the process that started the server. The
  state is a map or struct with `os`, the port, and `output`, the end of the output of the server.
  """
  @spec await(state, deadline :: integer, (state -> as_boolean(term))) ::
          {:ok, state} | {:error, :timeout | {:exit_status, integer}, state}
        when state: %{:os => port | nil, :output => String.t(), optional(any) => any}
  def await(%{os: os} = state, deadline, ready?) do
    cond do
      ready?.(state) ->
        {:ok, state}

      System.monotonic_time(:millisecond) > deadline ->
        {:error, :timeout, state}

      true ->
        receive do
          {^os, {:data, bytes}} -> await(keep(state, bytes), deadline, ready?)
          {^os, {:exit_status, status}} -> {:error, {:exit_status, status}, %{state | os: nil}}
        after
          10 -> await(state, deadline, ready?)
        end
    end
  end

  @doc "Appends bytes that the server printed to the `output` of its state, and keeps the last 4,000 bytes."
  @spec keep(state, binary) :: state when state: %{:output => String.t(), optional(any) => any}
  def keep(state, bytes),
    do: %{state | output: binary_slice(state.output <> bytes, -4_000..-1//1)}

  @doc "Sends a signal to the server."
  # Not Port.command/2, which raises if the port has just closed.
  @spec signal(port, String.t()) :: term
  def signal(daemon, name), do: send(daemon, {self(), {:command, [name, ?\n]}})

  @doc "Ends the server and waits until it has ended. After three seconds of SIGTERM it uses SIGKILL."
  @spec stop(port | nil) :: term
  def stop(nil), do: :ok

  def stop(daemon) do
    Enum.find(["TERM", "TERM", "TERM", "KILL"], fn name ->
      signal(daemon, name)

      receive do
        {^daemon, {:exit_status, _status}} -> true
      after
        1_000 -> false
      end
    end)
  end

  @doc "Returns a port of `ip` that is free for UDP and TCP at this moment."
  @spec free_port(:inet.ip_address()) :: :inet.port_number()
  def free_port(ip) do
    options = [if(tuple_size(ip) == 8, do: :inet6, else: :inet), ip: ip]
    {:ok, tcp} = :gen_tcp.listen(0, options)
    {:ok, port} = :inet.port(tcp)
    udp = :gen_udp.open(port, options)
    :gen_tcp.close(tcp)

    case udp do
      {:ok, socket} ->
        :gen_udp.close(socket)
        port

      {:error, :eaddrinuse} ->
        free_port(ip)
    end
  end
end
