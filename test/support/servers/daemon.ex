defmodule Caravan.Test.Daemon do
  @moduledoc """
  A server of the operating system that ends with the process that started it, however that ends.

  What it prints comes as `{port, {:data, bytes}}`, its end as `{port, {:exit_status, status}}`, to the
  process that started it.
  """

  # A line on stdin is a signal for the server. The end of stdin, which also comes when the VM dies in
  # whatever way, ends the server; the end of the server, for whatever reason, ends this script.
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

  @doc "A directory for the server's files: `start/2` takes it away with the server."
  @spec directory!(String.t()) :: Path.t()
  def directory!(name) do
    dir = Path.join(System.tmp_dir!(), "#{name}-" <> Base.encode16(:rand.bytes(6), case: :lower))
    File.mkdir!(dir)
    dir
  end

  @doc "Returns the path of a program, or `nil`. Debian has servers in `/usr/sbin`, which only root has in `PATH`."
  @spec find(String.t()) :: Path.t() | nil
  def find(name), do: System.find_executable(name) || System.find_executable("/usr/sbin/#{name}")

  @doc "Like `find/1`, but raises if the program is not installed."
  @spec find!(String.t(), package :: String.t()) :: Path.t()
  def find!(name, package) do
    find(name) ||
      raise "#{name} is not installed; to install it: apt-get install --no-install-recommends #{package}"
  end

  @spec start(Path.t(), [String.t(), ...]) :: port
  def start(dir, command) do
    options = [:binary, :exit_status, :stderr_to_stdout]

    Port.open(
      {:spawn_executable, "/bin/sh"},
      options ++ [args: ["-c", @keeper, "keeper", dir | command]]
    )
  end

  @doc """
  Waits until `ready?` says yes to the state of the process that started the server: a map or struct
  with `os`, the port, and `output`, the end of what it printed.
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

  @doc "Adds what the server printed to the `output` of its state."
  @spec keep(state, binary) :: state when state: %{:output => String.t(), optional(any) => any}
  def keep(state, bytes),
    do: %{state | output: binary_slice(state.output <> bytes, -4_000..-1//1)}

  # Port.command/2 would raise if the port has just closed.
  @spec signal(port, String.t()) :: term
  def signal(daemon, name), do: send(daemon, {self(), {:command, [name, ?\n]}})

  @doc "Ends it, and waits until it has ended."
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

  @doc "A port of `ip` that is free for UDP and TCP at this moment."
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
