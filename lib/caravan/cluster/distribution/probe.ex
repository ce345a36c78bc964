defmodule Caravan.Cluster.Distribution.Probe do
  # Effect. Connects to the address and port of a node and closes the connection at once, to find out whether the node
  # listens.
  #
  # net_kernel can do that too. But a connect to a host that drops the packets occupies it until its timeout: nothing
  # else can connect that node, and the kernel sends a new SYN after 1, 3 and 7 seconds only. And a connect that is
  # refused costs net_kernel more than a probe. A probe that is accepted is one more connection for the other node. It
  # logs nothing about it (test/caravan/cluster/distribution/probe_test.exs).
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Epmd.Settings

  @type finding ::
          {:name_type, host :: String.t()}
          | {:unresolvable, host :: String.t()}
          | {:no_port, term}
          | {:refused | :no_reply | :accepted, where :: String.t()}
          | {:network, where :: String.t(), :inet.posix()}

  # The :connect functions that ask Caravan.Epmd for the address and the port.
  @net_kernel [
    {:net_kernel, :connect_node, []},
    {:net_kernel, :hidden_connect_node, []},
    {Node, :connect, []}
  ]

  @doc """
  Returns whether a probe does what the `:connect` function of this topology does first.

  A module of `-proto_dist` that is not part of OTP may use something else than TCP.
  """
  @spec possible?(Config.t()) :: boolean
  def possible?(%Config{connect: connect}) do
    connect in @net_kernel and Node.alive?() and :net_kernel.epmd_module() == Caravan.Epmd and
      Settings.tcp?()
  end

  @doc """
  Returns whether a node listens, or why it cannot be reached. Run it in a job.

  Every `every` milliseconds, another attempt begins while the earlier ones go on, until one of them has a reply. After
  `timeout` milliseconds, the finding is `:no_reply`. The time to resolve the host comes on top.
  """
  @spec find(String.t(), timeout :: pos_integer, every :: pos_integer) :: finding
  def find(node, timeout, every) do
    [name, host] = node |> String.split("@", parts: 2) |> Enum.map(&String.to_charlist/1)
    family = Settings.family()

    with :ok <- name_type(host, :net_kernel.longnames()),
         {:port, _port, _version} <- Caravan.Epmd.port_please(name, host),
         {:ok, ip, port, _version} <- Caravan.Epmd.address_please(name, host, family) do
      connect = &connect(family, ip, port, &1)
      result = if every < timeout, do: repeat(connect, timeout, every), else: connect.(timeout)
      finding(result, where(ip, port))
    else
      {:name_type, _host} = finding -> finding
      :noport -> {:no_port, node}
      {:error, _reason} -> {:unresolvable, List.to_string(host)}
    end
  end

  # The check that net_kernel does before it asks for a port (splitnode in kernel/src/inet_tcp_dist.erl).
  defp name_type(host, long) do
    dotted = ?. in host
    refused = {:name_type, List.to_string(host)}

    cond do
      dotted and long == false -> refused
      dotted or long != true -> :ok
      match?({:ok, _ip}, :inet.parse_strict_address(host)) -> :ok
      true -> refused
    end
  end

  # The module that net_kernel calls too, with its options (inet_tcp_dist.erl). :gen_tcp would exit for an address
  # that connect(2) refuses. The socket is closed without a reset: inet_tls_dist logs that its peer has no address then.
  defp connect(family, ip, port, timeout) do
    driver = if family == :inet6, do: :inet6_tcp, else: :inet_tcp
    options = Application.get_env(:kernel, :inet_dist_connect_options, [])

    with {:ok, socket} <- driver.connect(ip, port, options ++ [active: false], timeout),
         do: driver.close(socket)
  end

  # Each attempt has a process, because a connect waits. The processes end with this one.
  defp repeat(connect, timeout, every),
    do: repeat(connect, make_ref(), [], now() + timeout, every)

  defp repeat(connect, ref, pids, deadline, every) do
    left = deadline - now()
    caller = self()
    pid = spawn_link(fn -> send(caller, {ref, connect.(left)}) end)
    await(connect, ref, [pid | pids], deadline, every, now() + min(every, left))
  end

  defp await(connect, ref, pids, deadline, every, next) do
    receive do
      {^ref, timeout} when timeout in [{:error, :timeout}, {:error, :etimedout}] ->
        await(connect, ref, pids, deadline, every, next)

      {^ref, result} ->
        stop(pids)
        result
    after
      max(0, next - now()) ->
        if next < deadline do
          repeat(connect, ref, pids, deadline, every)
        else
          stop(pids)
          {:error, :timeout}
        end
    end
  end

  # The other node would have to accept the attempts that go on.
  defp stop(pids) do
    for pid <- pids do
      Process.unlink(pid)
      Process.exit(pid, :kill)
    end

    :ok
  end

  defp finding(:ok, where), do: {:accepted, where}
  defp finding({:error, :econnrefused}, where), do: {:refused, where}

  defp finding({:error, timeout}, where) when timeout in [:timeout, :etimedout],
    do: {:no_reply, where}

  defp finding({:error, reason}, where), do: {:network, where, reason}

  defp where(ip, port) when tuple_size(ip) == 8, do: "[#{:inet.ntoa(ip)}]:#{port}"
  defp where(ip, port), do: "#{:inet.ntoa(ip)}:#{port}"

  defp now, do: System.monotonic_time(:millisecond)
end
