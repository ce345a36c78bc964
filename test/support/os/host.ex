defmodule Caravan.Test.Host do
  @moduledoc """
  Finds TCP ports and processes of this machine, and waits for processes or stops them. It reads `/proc`, so it needs Linux.
  """

  import ExUnit.Assertions, only: [assert: 2]
  import ExUnit.Callbacks, only: [on_exit: 1]

  alias Caravan.Test.Eventually

  # Linux gives ports from 32768 on to outgoing connections. The ports here are lower, so that no connection takes
  # one between free_port/0 and the start of the node that uses it.
  @first_port 10_000
  @ports 22_000

  @doc "Returns a port that is free, and that none of the last 22,000 calls in this VM has returned."
  @spec free_port() :: :inet.port_number()
  def free_port do
    # The pid gives each test VM a first port of its own. 1,009 calls later, it comes to the first port of the VM with the
    # next pid.
    offset =
      String.to_integer(System.pid()) * 1_009 + System.unique_integer([:positive, :monotonic])

    port = @first_port + rem(offset, @ports)

    case :gen_tcp.listen(port, []) do
      {:ok, socket} ->
        :gen_tcp.close(socket)
        port

      {:error, :eaddrinuse} ->
        free_port()
    end
  end

  @doc "Returns the TCP ports that a process listens on, sorted."
  @spec listening_ports(String.t()) :: [:inet.port_number()]
  def listening_ports(os_pid),
    do: Enum.sort(for {"0A", local, _remote} <- tcp_sockets(os_pid), uniq: true, do: local)

  @doc "Returns the established TCP connections of a process, each as `{local_port, remote_port}`."
  @spec connections(String.t()) :: [{:inet.port_number(), :inet.port_number()}]
  def connections(os_pid),
    do: for({"01", local, remote} <- tcp_sockets(os_pid), do: {local, remote})

  @doc "For `setup`: fails the test if an epmd daemon was started during the test."
  @spec forbid_epmd(map) :: :ok
  def forbid_epmd(_context) do
    before = pids_of("epmd")
    on_exit(fn -> assert pids_of("epmd") -- before == [], "an epmd daemon was started" end)
  end

  @doc "Returns the ids of the processes with this name. Linux cuts the name of a program to 15 characters."
  @spec pids_of(String.t()) :: [String.t()]
  def pids_of(name) do
    for path <- Path.wildcard("/proc/[0-9]*/comm"), File.read(path) == {:ok, name <> "\n"} do
      path |> Path.split() |> Enum.at(2)
    end
  end

  @doc "Returns the ids of the processes that have `NAME=value` in their environment."
  @spec pids_with_env(String.t()) :: [String.t()]
  def pids_with_env(variable) do
    for path <- Path.wildcard("/proc/[0-9]*/environ"),
        {:ok, environ} <- [File.read(path)],
        variable in String.split(environ, <<0>>),
        do: path |> Path.split() |> Enum.at(2)
  end

  @doc "Waits until a process has ended. After 20 seconds, it kills the process and prints a line."
  @spec await_end(String.t()) :: :ended | :killed
  def await_end(os_pid) do
    if Eventually.true?(fn -> not alive?(os_pid) end, 20_000) do
      :ended
    else
      System.cmd("kill", ["-9", os_pid], stderr_to_stdout: true)
      IO.puts("\nprocess #{os_pid} did not end by itself and was killed")
      :killed
    end
  end

  @doc "Like `await_end/1`, but fails the test if the process had to be killed."
  @spec await_exit(String.t()) :: :ok
  def await_exit(os_pid) do
    assert await_end(os_pid) == :ended, "process #{os_pid} did not end"
    :ok
  end

  @doc "Stops a process by SIGSTOP until the end of the test. Returns when it has stopped."
  @spec suspend(String.t()) :: :ok
  def suspend(os_pid) do
    {_, 0} = System.cmd("kill", ["-STOP", os_pid])
    ExUnit.Callbacks.on_exit(fn -> System.cmd("kill", ["-CONT", os_pid]) end)
    await(fn -> File.read!("/proc/#{os_pid}/stat") =~ ") T " end, "process #{os_pid} to stop")
    :ok
  end

  @doc "Returns whether the process runs. A zombie does not run."
  @spec alive?(String.t()) :: boolean
  def alive?(os_pid) do
    case File.read("/proc/#{os_pid}/stat") do
      {:ok, stat} -> not String.contains?(stat, ") Z ")
      {:error, _reason} -> false
    end
  end

  @doc "Polls until the condition holds. Fails the test if that takes over `timeout` ms."
  @spec await((() -> as_boolean(term)), String.t(), timeout_ms :: pos_integer) :: true
  def await(condition, what, timeout \\ 60_000),
    do: assert(Eventually.true?(condition, timeout), "waited #{timeout} ms in vain: #{what}")

  # Returns state, local port and remote port of each socket. The format is in proc(5), /proc/net/tcp.
  defp tcp_sockets(os_pid) do
    inodes = socket_inodes(os_pid)

    for table <- ["/proc/net/tcp", "/proc/net/tcp6"],
        line <- table |> File.read!() |> String.split("\n", trim: true) |> tl(),
        [_, local, remote, state, _, _, _, _, _, inode | _] <- [String.split(line)],
        inode in inodes,
        do: {state, port(local), port(remote)}
  end

  defp port(address), do: address |> String.split(":") |> List.last() |> String.to_integer(16)

  defp socket_inodes(os_pid) do
    dir = "/proc/#{os_pid}/fd"

    for fd <- File.ls!(dir),
        {:ok, "socket:[" <> rest} <- [File.read_link(Path.join(dir, fd))],
        do: String.trim_trailing(rest, "]")
  end
end
