defmodule Caravan.Cluster.Distribution.Probe do
  # Effect. Connects to the address and port of a node and closes the connection at once, to find out whether the node
  # listens.
  #
  # net_kernel can do that too. But while it waits for a host that drops the packets, no other attempt to connect that
  # node begins until net_setuptime is over, and the operating system sends a new SYN only after 1, 3 and 7 seconds. A
  # connect that is refused costs net_kernel more than a probe. A probe that is accepted is one more connection for the
  # other node, which logs nothing about it (test/caravan/cluster/distribution/probe_test.exs).
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.NodeName
  alias Caravan.Epmd.Settings

  @type finding ::
          {:name_type, host :: String.t()}
          | {:unresolvable, host :: String.t()}
          | {:no_port, term}
          | {:refused | :no_reply | :accepted, where :: String.t()}
          | {:network, where :: String.t(), :inet.posix()}

  @type address :: {:inet | :inet6, :inet.ip_address(), :inet.port_number()}

  # The :connect functions that ask Caravan.Epmd for the address and the port.
  @net_kernel [
    {:net_kernel, :connect_node, []},
    {:net_kernel, :hidden_connect_node, []},
    {Node, :connect, []}
  ]

  @doc """
  Returns whether the `:connect` function of this topology begins with the TCP connect that a probe does.

  This is not known of a module of `-proto_dist` that is not part of OTP. It may use something else than TCP.
  """
  @spec possible?(Config.t()) :: boolean
  def possible?(%Config{} = config) do
    net_kernel?(config) and Node.alive?() and :net_kernel.epmd_module() == Caravan.Epmd and
      Settings.tcp?()
  end

  @doc "Returns whether the `:connect` function of this topology is one of OTP."
  @spec net_kernel?(Config.t()) :: boolean
  def net_kernel?(%Config{connect: connect}), do: connect in @net_kernel

  @doc """
  Returns whether a node listens, or why it cannot be reached. Run it in a job.

  Every `every` milliseconds, another attempt begins while the earlier ones go on, until one of them has a reply. After
  `timeout` milliseconds, the finding is `:no_reply`. The time to resolve the host comes on top.
  """
  @spec find(String.t(), timeout :: pos_integer, every :: pos_integer) :: finding
  def find(node, timeout, every) do
    with {:ok, {family, ip, port} = address} <- address(node) do
      connect = &connect(family, ip, port, &1)
      result = if every < timeout, do: repeat(connect, timeout, every), else: connect.(timeout)
      finding(result, address)
    end
  end

  @doc "Returns the address and port to which OTP connects a node, or why there is none."
  @spec address(String.t()) :: {:ok, address} | finding
  def address(node) do
    [name, host] = node |> String.split("@", parts: 2) |> Enum.map(&String.to_charlist/1)
    family = Settings.family()

    with :ok <- name_type(node),
         {:port, _port, _version} <- Caravan.Epmd.port_please(name, host),
         {:ok, ip, port, _version} <- Caravan.Epmd.address_please(name, host, family) do
      {:ok, {family, ip, port}}
    else
      {:name_type, _host} = finding -> finding
      :noport -> {:no_port, node}
      {:error, _reason} -> {:unresolvable, List.to_string(host)}
    end
  end

  @doc """
  Returns `:ok`, or that OTP does not connect a node of this name, because one of the two nodes has a short name and the
  other a long one.

  net_kernel does the same before it asks for a port, and logs an error (splitnode in kernel/src/inet_tcp_dist.erl).
  """
  @spec name_type(String.t()) :: :ok | finding
  def name_type(node) do
    host = NodeName.host(node)

    # A name such as app@node1 does not say whether this node was started with -sname or with -name. Only then,
    # net_kernel is asked.
    refused? =
      case NodeName.long?(NodeAtom.to_name(node())) or :net_kernel.longnames() do
        true -> not NodeName.long?(node)
        false -> host =~ "."
        :ignored -> false
      end

    if refused?, do: {:name_type, host}, else: :ok
  end

  # Calls the module that OTP calls, with the same configured options (inet_tcp_dist.erl). :gen_tcp would exit for an
  # address that connect(2) refuses. Closes the socket without a reset, because after a reset inet_tls_dist of the other
  # node would log that its peer has no address.
  defp connect(family, ip, port, timeout) do
    driver = if family == :inet6, do: :inet6_tcp, else: :inet_tcp
    options = Application.get_env(:kernel, :inet_dist_connect_options, [])

    with {:ok, socket} <- driver.connect(ip, port, options ++ [active: false], timeout),
         do: driver.close(socket)
  end

  # Each attempt has a process, because a connect waits. These processes are linked to the caller of find/3, and end with
  # it.
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

  # Ends the attempts that still wait. Otherwise the other node would have to accept them too.
  defp stop(pids) do
    for pid <- pids do
      Process.unlink(pid)
      Process.exit(pid, :kill)
    end

    :ok
  end

  @doc "Returns what follows from the result of a TCP connect."
  @spec finding(:ok | {:error, :timeout | :inet.posix()}, address) :: finding
  def finding(:ok, address), do: {:accepted, where(address)}
  def finding({:error, :econnrefused}, address), do: {:refused, where(address)}

  def finding({:error, timeout}, address) when timeout in [:timeout, :etimedout],
    do: {:no_reply, where(address)}

  def finding({:error, reason}, address), do: {:network, where(address), reason}

  @doc "Returns an address with its port as text."
  @spec where(address) :: String.t()
  def where({:inet6, ip, port}), do: "[#{:inet.ntoa(ip)}]:#{port}"
  def where({:inet, ip, port}), do: "#{:inet.ntoa(ip)}:#{port}"

  defp now, do: System.monotonic_time(:millisecond)
end
