defmodule Caravan.Cluster.Distribution.Diagnosis do
  # Effect. Finds out why a node cannot be connected, because net_kernel returns only `false`. Repeats the steps of a
  # connect, up to the handshake.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Epmd.Settings

  @type finding ::
          {:name_type, host :: String.t()}
          | {:unresolvable, host :: String.t()}
          | {:no_port, term}
          | {:refused | :no_reply | :accepted, where :: String.t()}
          | {:network, where :: String.t(), :inet.posix()}

  # Milliseconds to wait for a TCP connection. The default of distribution, net_setuptime, is 7,000.
  @connect_timeout 2_000

  # Milliseconds that `find/1` may take in total: the resolver of the host may be slow.
  @deadline 10_000

  # The :connect functions that ask Caravan.Epmd for the address and the port.
  @net_kernel [
    {:net_kernel, :connect_node, []},
    {:net_kernel, :hidden_connect_node, []},
    {Node, :connect, []}
  ]

  @doc "Returns the deadline of the job that runs `find/1`, in milliseconds."
  @spec deadline() :: pos_integer
  def deadline, do: @deadline

  @doc "Returns whether `find/1` knows what the `:connect` function of this topology does."
  @spec possible?(Config.t()) :: boolean
  def possible?(%Config{connect: connect}) do
    connect in @net_kernel and Node.alive?() and :net_kernel.epmd_module() == Caravan.Epmd
  end

  @doc "Finds out why a node cannot be connected. Run it as a job."
  @spec find(String.t()) :: finding
  def find(node) do
    [name, host] = node |> String.split("@", parts: 2) |> Enum.map(&String.to_charlist/1)
    family = Settings.family()

    with :ok <- name_type(host, :net_kernel.longnames()),
         {:port, _port, _version} <- Caravan.Epmd.port_please(name, host),
         {:ok, ip, port, _version} <- Caravan.Epmd.address_please(name, host, family) do
      dial(ip, port, family)
    else
      {:name_type, _host} = finding -> finding
      :noport -> {:no_port, node}
      {:error, _reason} -> {:unresolvable, List.to_string(host)}
    end
  end

  @doc "Returns the text for the log."
  @spec text(finding) :: String.t()
  def text({:name_type, host}) do
    {this, other} = if host =~ ".", do: {"short", "long"}, else: {"long", "short"}

    "this node has a #{this} name, but #{host} is the host of a #{other} one. Start all nodes with " <>
      "-name, or all with -sname"
  end

  def text({:unresolvable, host}),
    do:
      "its host #{host} does not resolve. Check the output of `getent ahosts #{host}` on this machine"

  def text({:no_port, node}),
    do: "its port is not known. See Caravan.Epmd.dist_port(#{inspect(node)})"

  def text({:refused, where}),
    do: "nothing listens on #{where}: the node is down, or has another port"

  def text({:no_reply, where}),
    do: "#{where} does not reply: the host is down, or a firewall drops the packets"

  def text({:accepted, where}) do
    tls =
      if Settings.tls?(),
        do:
          "one of the two nodes refuses the certificate of the other, the node does not use TLS",
        else: "it uses TLS"

    "#{where} accepts, but the handshake fails: the node has another cookie or another name, #{tls}, or it hangs"
  end

  def text({:network, where, :einval}),
    do:
      "#{where} is not an address that a node can connect to. A link-local address (fe80::/10) is not, because it " <>
        "lacks the network interface"

  def text({:network, where, reason}), do: "#{where}: #{:inet.format_error(reason)}"

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

  defp dial(ip, port, family) do
    where = where(ip, port)

    # The module that net_kernel calls too. :gen_tcp would exit for an address that connect(2) refuses.
    driver = if family == :inet6, do: :inet6_tcp, else: :inet_tcp

    case driver.connect(ip, port, [active: false], @connect_timeout) do
      {:ok, socket} ->
        :ok = driver.close(socket)
        {:accepted, where}

      {:error, :econnrefused} ->
        {:refused, where}

      {:error, timeout} when timeout in [:timeout, :etimedout] ->
        {:no_reply, where}

      {:error, reason} ->
        {:network, where, reason}
    end
  end

  defp where(ip, port) when tuple_size(ip) == 8, do: "[#{:inet.ntoa(ip)}]:#{port}"
  defp where(ip, port), do: "#{:inet.ntoa(ip)}:#{port}"
end
