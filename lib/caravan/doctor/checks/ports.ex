defmodule Caravan.Doctor.Checks.Ports do
  # Effect. The checks of the port that follows from the node's name, and whether the node listens and is reached there.
  @moduledoc false

  alias Caravan.Doctor.Check
  alias Caravan.Doctor.Context
  alias Caravan.Doctor.Listener
  alias Caravan.Cluster.Distribution.Diagnosis
  alias Caravan.Cluster.Distribution.Handshake
  alias Caravan.Cluster.Distribution.OwnNode
  alias Caravan.Cluster.Distribution.Probe
  alias Caravan.Cluster.Distribution.TlsSocket
  alias Caravan.Epmd.Boot
  alias Caravan.Epmd.Names
  alias Caravan.Epmd.PortRule
  alias Caravan.Epmd.Settings

  # The port of "a" shows the base port of a node. The port of "a2000" shows its port rule.
  @examples ["a", "a2000"]

  # Milliseconds that connected nodes have to answer.
  @rpc_timeout 1_000

  # The maximum number of nodes in one finding.
  @shown 5

  @spec checks(Context.t()) :: [Check.t()]
  def checks(%Context{mode: :project}), do: []

  def checks(context) do
    [
      check("ports.rule", ["node.alive", "node.nif", "node.epmd_module"], fn -> rule(context) end),
      check("ports.listen", ["ports.rule"], fn -> listen(context) end),
      check("ports.advertised", ["node.host", "ports.listen"], fn -> advertised(context) end)
    ]
  end

  defp check(id, grounds, run), do: Check.new(id, [grounds: grounds], run)

  defp rule(%{name: name} = context) do
    with {:ok, _settings} <- Settings.read(), port when is_integer(port) <- PortRule.port(name) do
      case differing_nodes(context) do
        [] ->
          {:ok, "by its name, the node has port #{port}"}

        nodes ->
          {:failed,
           "base_port or port_rule differ on #{Enum.join(Enum.take(nodes, @shown), ", ")}",
           "the same base_port and port_rule on all nodes",
           "the same CARAVAN_BASE_PORT and CARAVAN_PORT_RULE in the environment of all nodes"}
      end
    else
      {:error, reason} when is_atom(reason) ->
        {:failed, Boot.text(PortRule.refusal(name, reason)), "a name that has a port",
         "RELEASE_NODE=app-4001@#{Context.host(context)}"}

      {:error, message} ->
        {:failed, Boot.text(message), "a setting that Caravan.Epmd can read",
         "correct the value, or remove it"}
    end
  end

  # Connected nodes whose port rule gives other ports than that of this node. With `ports: :srv` they may differ. Nodes
  # without Caravan have no rule.
  defp differing_nodes(%{mode: :node, topologies: topologies}) do
    if Enum.any?(topologies, &(&1.ports == :srv)) do
      []
    else
      nodes = Node.list()

      for name <- @examples,
          own = PortRule.port(name),
          answers = :erpc.multicall(nodes, Caravan.Epmd, :dist_port, [name], @rpc_timeout),
          {node, {:ok, port}} when port != own <- Enum.zip(nodes, answers),
          uniq: true,
          do: node
    end
  end

  defp differing_nodes(_context), do: []

  ## Listening

  defp listen(%{mode: :node, name: name}) do
    port = listen_port(name)

    case Names.own() do
      [{_name, ^port}] ->
        {:ok, "the node listens on port #{port}"}

      [] ->
        {:failed, "the node does not listen", "a node that listens on port #{port}",
         "remove -dist_listen false from the VM arguments"}

      [{_name, other}] ->
        {:failed, "the node listens on port #{other}",
         "port #{port}, which follows from the name and the settings",
         "restart the node: a setting has changed since its start, or correct the setting"}
    end
  end

  # The node does not run, or it runs beside this VM.
  defp listen(%{mode: :eval, name: name} = context) do
    port = listen_port(name)
    {driver, any} = driver(Settings.family())

    case driver.listen(port, reuseaddr: true, ip: interface(any)) do
      {:ok, socket} ->
        driver.close(socket)
        {:ok, "port #{port} is free"}

      {:error, :eaddrinuse} ->
        in_use(context, port)

      {:error, reason} ->
        {:failed, "the node cannot listen on port #{port}: #{:inet.format_error(reason)}",
         "a port that this user may listen on",
         "another number in RELEASE_NODE, or CARAVAN_LISTEN_PORT=PORT"}
    end
  end

  defp in_use(%{name: name} = context, port) do
    family = Settings.family()
    loopback = if family == :inet6, do: {0, 0, 0, 0, 0, 0, 0, 1}, else: {127, 0, 0, 1}

    answer =
      if Settings.tls?(),
        do: :unknown,
        else: Handshake.ask({family, interface(loopback), port}, Context.host(context))

    case answer do
      {:ok, %{name: ^name}} ->
        {:ok, "the node runs, and listens on port #{port}"}

      {:ok, %{name: other}} ->
        {:failed, "the node #{other} listens on port #{port}#{by(Listener.find(port))}",
         "a free port", "stop #{other}, or take another number in RELEASE_NODE"}

      :unknown ->
        {:skipped, "a program listens on port #{port}. Over TLS, it may be the node itself"}

      {:error, _reason} ->
        program = Listener.find(port)

        {:failed, "another program listens on port #{port}#{by(program)}", "a free port",
         "stop the program, or take another number in RELEASE_NODE" <> shown_by(program, port)}
    end
  end

  defp by(nil), do: ""
  defp by(program), do: ": #{program}"

  # Root sees the processes of all users.
  defp shown_by(nil, port),
    do: ". As root, this shows the program:\nss -ltnp 'sport = :#{port}'"

  defp shown_by(_program, _port), do: ""

  defp listen_port(name) do
    {:ok, settings} = Settings.read()
    settings.listen_port || PortRule.port(name)
  end

  defp driver(:inet), do: {:inet_tcp, {0, 0, 0, 0}}
  defp driver(:inet6), do: {:inet6_tcp, {0, 0, 0, 0, 0, 0, 0, 0}}

  defp interface(default), do: Application.get_env(:kernel, :inet_dist_use_interface, default)

  ## Being reached

  defp advertised(%{mode: :eval}),
    do: {:skipped, "this VM is not the node. In the node, use bin/app rpc 'Caravan.doctor!()'"}

  defp advertised(%{name: name} = context) do
    family = Settings.family()
    host = Context.host(context)
    {port, ip} = advertised_at(context, host, family)
    address = {family, ip, port}

    # Without the options of TLS, the question would be a line in the log of the node.
    if Settings.tls?() and TlsSocket.options() == :error do
      {:skipped, "the options of TLS are not in a file (-ssl_dist_optfile)"}
    else
      result = Diagnosis.ask(address, host, name, nil)
      {:ok, own} = OwnNode.host_addresses()
      reached(result, name, Probe.where(address), ip in own)
    end
  end

  # Where the other nodes look for this one.
  defp advertised_at(%{name: name, topologies: topologies} = context, host, family) do
    endpoints =
      for config <- topologies, endpoint = Context.endpoints(context, config)[name], do: endpoint

    ports = Enum.flat_map(endpoints, & &1.ports) ++ [PortRule.port(name)]
    size = if family == :inet6, do: 8, else: 4

    case for(endpoint <- endpoints, ip <- endpoint.addresses, tuple_size(ip) == size, do: ip) do
      [ip | _] ->
        {hd(ports), ip}

      [] ->
        {:ok, ip} = host |> String.to_charlist() |> :inet.getaddr(family)
        {hd(ports), ip}
    end
  end

  defp reached({:ok, %{name: name}}, name, where, _own),
    do: {:ok, "a connection to #{where} reaches this node"}

  defp reached({:ok, %{name: other}}, _name, where, _own) do
    {:failed, "a connection to #{where} reaches the node #{other}", "this node",
     "correct the port mapping, or the address in RELEASE_NODE"}
  end

  # An alert depends on the certificates, which the check of each member examines.
  defp reached({:error, {:tls_alert, alert}}, _name, where, _own),
    do: {:skipped, "the TLS handshake with #{where} fails: #{alert}"}

  # From inside, a NAT often does not lead back to this machine, although it does so from outside.
  defp reached({:error, error}, _name, where, own) do
    status = if own, do: :failed, else: :warning

    {status, "a connection to #{where} does not reach this node: #{reason(error)}",
     "a connection that reaches this node",
     "open the port in the firewall, and correct inet_dist_use_interface (application kernel) or the port mapping"}
  end

  defp reason({:connect, :econnrefused}), do: "nothing listens there"

  defp reason({:connect, timeout}) when timeout in [:timeout, :etimedout],
    do: "no reply within 2 seconds"

  defp reason({:connect, reason}), do: "#{:inet.format_error(reason)}"
  defp reason(_error), do: "another program listens there"
end
