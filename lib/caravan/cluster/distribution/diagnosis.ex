defmodule Caravan.Cluster.Distribution.Diagnosis do
  # Effect. Finds out why a node cannot be connected, because net_kernel returns only `false`. Repeats the steps of a
  # connect, up to the handshake.
  @moduledoc false

  alias Caravan.Cluster.Distribution.Probe
  alias Caravan.Epmd.Settings

  # Milliseconds to wait for a TCP connection. The default of distribution, net_setuptime, is 7,000.
  @connect_timeout 2_000

  # Milliseconds that `find/1` may take in total: the resolver of the host may be slow.
  @deadline 10_000

  @doc "Returns the deadline of the job that runs `find/1`, in milliseconds."
  @spec deadline() :: pos_integer
  def deadline, do: @deadline

  @doc "Finds out why a node cannot be connected, if `Probe.possible?/1` is true. Run it as a job."
  @spec find(String.t()) :: Probe.finding()
  def find(node), do: Probe.find(node, @connect_timeout, @connect_timeout)

  @doc "Returns the text for the log."
  @spec text(Probe.finding()) :: String.t()
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
end
