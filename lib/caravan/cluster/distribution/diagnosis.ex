defmodule Caravan.Cluster.Distribution.Diagnosis do
  # Effect. Finds out why a node cannot be connected, because net_kernel returns only `false`. Repeats the steps of a
  # connect and of the handshake, under another name.
  @moduledoc false

  alias Caravan.Cluster.Distribution.Handshake
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Distribution.Probe
  alias Caravan.Cluster.NodeName
  alias Caravan.Epmd.Settings

  # Milliseconds that `find/1` may take in total: the resolver of the host may be slow.
  @deadline 10_000

  @handshake [
    :accepted,
    :protocol,
    :tls,
    :no_tls,
    :unexamined,
    :certificate,
    :name,
    :version,
    :cookie,
    :own_cookie
  ]

  @doc "Returns the deadline of the job that runs `find/1`, in milliseconds."
  @spec deadline() :: pos_integer
  def deadline, do: @deadline

  @typedoc """
  What a probe finds, or the step of the handshake that fails. These are no such steps:

    * `:accepted`: no step fails;
    * `:tls`: only the other node uses TLS;
    * `:no_tls`: only this node uses TLS;
    * `:unexamined`: both nodes use TLS, and the handshake could not be examined;
    * `:own_cookie`: no step before the cookie fails. The cookie was not sent, because this node has a cookie that is for
      the other node only.
  """
  @type finding ::
          Probe.finding()
          | {:tls | :no_tls | :unexamined | :version | :cookie | :own_cookie, where :: String.t()}
          | {:certificate, where :: String.t(), alert :: String.t()}
          | {:name, where :: String.t(), other :: String.t()}
          | {:protocol, where :: String.t(), what :: String.t()}

  @doc "Finds out why a node cannot be connected, if `Probe.possible?/1` is true. Run it as a job."
  @spec find(String.t()) :: finding
  def find(node) do
    with {:ok, address} <- Probe.address(node) do
      host = NodeAtom.to_name(node()) |> NodeName.host()
      address |> ask(host, node, Handshake.cookie(node)) |> handshake(node, address)
    end
  end

  @doc "Asks the node `name` at an address, with or without TLS as this VM does. `host` is the host of this node's name."
  @spec ask(Probe.address(), host :: String.t(), name :: String.t(), cookie :: String.t() | nil) ::
          {:ok, Handshake.peer()} | {:error, Handshake.error()}
  def ask(address, host, name, cookie) do
    if Settings.tls?(),
      do: Handshake.ask_over_tls(address, host, NodeName.host(name), cookie),
      else: Handshake.ask(address, host, cookie)
  end

  @doc "Returns whether a finding is one of the handshake, which a probe does not examine."
  @spec handshake?(finding) :: boolean
  def handshake?(finding),
    do: elem(finding, 0) in @handshake

  @doc "Returns what follows from the answer of `Handshake.ask/3` for the node `name`."
  @spec handshake(
          {:ok, Handshake.peer()} | {:error, Handshake.error()},
          String.t(),
          Probe.address()
        ) ::
          finding
  def handshake({:error, {:connect, reason}}, _name, address),
    do: Probe.finding({:error, reason}, address)

  def handshake({:error, :tls}, _name, address),
    do: {if(Settings.tls?(), do: :unexamined, else: :tls), Probe.where(address)}

  def handshake({:error, :no_tls}, _name, address), do: {:no_tls, Probe.where(address)}

  def handshake({:error, {:tls_alert, alert}}, _name, address),
    do: {:certificate, Probe.where(address), alert}

  def handshake({:error, {:status, "not_allowed"}}, _name, address),
    do: {:version, Probe.where(address)}

  def handshake({:error, {:cookie, %{name: name}}}, name, address),
    do: {:cookie, Probe.where(address)}

  def handshake({:error, {:cookie, peer}}, _name, address),
    do: {:name, Probe.where(address), peer.name}

  def handshake({:ok, %{name: name, missing_flags: 0, cookie: :accepted}}, name, address),
    do: {:accepted, Probe.where(address)}

  def handshake({:ok, %{name: name, missing_flags: 0}}, name, address),
    do: {:own_cookie, Probe.where(address)}

  def handshake({:ok, %{name: name}}, name, address), do: {:version, Probe.where(address)}
  def handshake({:ok, peer}, _name, address), do: {:name, Probe.where(address), peer.name}

  def handshake({:error, error}, _name, address),
    do: {:protocol, Probe.where(address), protocol(error)}

  defp protocol(:silent), do: "then says nothing for 2 seconds"
  defp protocol(:closed), do: "then closes the connection"
  defp protocol({:status, status}), do: "answers #{status}"
  defp protocol({:other_protocol, bytes}), do: "sends #{inspect(bytes)}"

  @doc "Returns the id of the check that a finding belongs to."
  @spec id(finding) :: String.t()
  def id({:name_type, _host}), do: "node.longnames"
  def id({:unresolvable, _host}), do: "peer.resolve"
  def id({:no_port, _node}), do: "ports.rule"
  def id({:refused, _where}), do: "peer.refused"
  def id({:no_reply, _where}), do: "peer.silent"
  def id({:accepted, _where}), do: "peer.drained"
  def id({:unexamined, _where}), do: "peer.connected"
  def id({:network, _where, _reason}), do: "peer.network"
  def id({:protocol, _where, _what}), do: "peer.protocol"
  def id({tls, _where}) when tls in [:tls, :no_tls], do: "peer.tls"
  def id({:certificate, _where, _alert}), do: "peer.tls"
  def id({:name, _where, _other}), do: "peer.name"
  def id({:version, _where}), do: "peer.version"
  def id({cookie, _where}) when cookie in [:cookie, :own_cookie], do: "peer.cookie"

  @doc "Returns the VM argument for TLS in the address family of this node."
  @spec tls_argument() :: String.t()
  def tls_argument, do: "-proto_dist #{Settings.family()}_tls"

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

  def text({:accepted, where}),
    do:
      "#{where} accepts the cookie of this node, but not its connection. The node may be drained: " <>
        "Caravan.Cluster.resume/1 there ends that"

  def text({:unexamined, where}),
    do:
      "#{where} speaks TLS, but the handshake fails: the node has another cookie or another name, is too slow, or one of the " <>
        "two nodes refuses the certificate of the other. Caravan finds out which one only if the options are in a file " <>
        "(-ssl_dist_optfile)"

  def text({:certificate, where, alert}),
    do:
      "the TLS handshake with #{where} fails: #{alert}. Each of the two nodes needs a certificate that the other one " <>
        "accepts. See -ssl_dist_optfile"

  def text({:tls, where}),
    do:
      "#{where} speaks TLS, and this node does not. Use #{tls_argument()} on both nodes or on neither"

  def text({:no_tls, where}),
    do:
      "#{where} does not speak TLS, and this node does. Use #{tls_argument()} on both nodes or on neither"

  def text({:version, where}) do
    "#{where} allows no connection of this node. Its release of OTP is too far from that of this node, or " <>
      "net_kernel:allow/1 was called there"
  end

  def text({:cookie, where}),
    do:
      "the node at #{where} refuses the cookie of this node. Set the same RELEASE_COOKIE on both nodes"

  def text({:own_cookie, where}) do
    "this node has a cookie for the node at #{where} alone (Node.set_cookie/2), so Caravan does not know whether that node " <>
      "accepts it. Set the cookie of that node. If it is the same, the node may be drained: Caravan.Cluster.resume/1 there " <>
      "ends that"
  end

  def text({:name, where, other}) do
    "the node at #{where} has the name #{other}. Set RELEASE_NODE there to the name that DNS gives it, or correct the " <>
      "records or the option :node_name"
  end

  def text({:protocol, where, what}),
    do:
      "#{where} accepts, and #{what}. It is another program, or the node hangs, or has no free file descriptor (ulimit -n)"

  def text({:network, where, :einval}),
    do:
      "#{where} is not an address that a node can connect to. A link-local address (fe80::/10) is not, because it " <>
        "lacks the network interface"

  def text({:network, where, reason}), do: "#{where}: #{:inet.format_error(reason)}"
end
