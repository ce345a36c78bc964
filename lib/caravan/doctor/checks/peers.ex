defmodule Caravan.Doctor.Checks.Peers do
  # Effect. The checks of the members of a topology. For each member that is not connected, one check repeats the steps
  # of a connect, one after the other. The check gets the id of the step that fails.
  @moduledoc false

  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Distribution.Diagnosis
  alias Caravan.Cluster.Distribution.Handshake
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Distribution.OwnNode
  alias Caravan.Cluster.Distribution.Probe
  alias Caravan.Cluster.NodeName
  alias Caravan.Cluster.OwnName
  alias Caravan.Doctor.Check
  alias Caravan.Doctor.Context
  alias Caravan.Epmd.Boot
  alias Caravan.Epmd.PortRule
  alias Caravan.Epmd.Settings
  alias Caravan.Native

  @grounds ["node.longnames", "ports.rule"]

  @vm_args "in rel/vm.args.eex and rel/remote.vm.args.eex:\n"

  @spec checks(Context.t()) :: [Check.t()]
  def checks(%Context{mode: :project}), do: []
  def checks(context), do: Enum.flat_map(context.topologies, &members(context, &1))

  defp members(context, config) do
    endpoints = Context.endpoints(context, config)
    names = Context.members(context, config) -- own(context, endpoints)
    connected = MapSet.new(Node.list(:connected), &NodeAtom.to_name/1)

    missing = Map.new(Context.status(config, :missing), &{&1.node, &1.id})

    {up, down} = names |> Enum.sort() |> Enum.split_with(&(&1 in connected))

    cond do
      true in Context.status(config, :drained) ->
        [known_result(config, drained(config.topology, "this node", "this node is drained"))]

      down == [] ->
        [known_result(config, {:ok, "#{length(up)} of #{length(names)} members are connected"})]

      not (Probe.net_kernel?(config) and Settings.tcp?()) ->
        [known_result(config, {:skipped, "the nodes are not connected over OTP's TCP or TLS"})]

      true ->
        about = about(context, config)

        for name <- down, endpoint = endpoints[name] || %Endpoint{} do
          about = Map.merge(about, about_member(name, config, missing))
          new(config, name, fn -> peer(endpoint, about) end)
        end
    end
  end

  # The names of this node, also the wrong ones: the check dns.self finds these.
  defp own(%{name: nil}, _endpoints), do: []

  defp own(%{name: name}, endpoints) do
    others = OwnName.others(OwnNode.named(name), endpoints, &OwnNode.port_of/1)
    NodeName.aliases(name) ++ others
  end

  defp known_result(config, result), do: new(config, nil, fn -> result end)

  defp new(config, name, run) do
    fields = [grounds: @grounds, topology: Context.topology_name(config), subject: name]
    Check.new("peer.connected", fields, run)
  end

  # What the checks of all members need. Each check copies it to a process, so it does not have the whole context.
  defp about(context, config) do
    %{
      mode: context.mode,
      own: context.name,
      host: context.name && Context.host(context),
      topology: config.topology,
      links: config.links
    }
  end

  # With a limited number of links, this node wants a link only to members that its strategy calls missing.
  defp about_member(name, config, missing) do
    %{
      name: name,
      wanted: config.links == :all or is_map_key(missing, name),
      drained: missing[name] == "peer.drained"
    }
  end

  defp peer(endpoint, %{name: name} = about) do
    family = Settings.family()

    with {:ok, port} <- port(name, endpoint),
         {:ok, ip} <- address(name, endpoint, family) do
      address = {family, ip, port}

      finding =
        address
        |> Diagnosis.ask(about.host, name, cookie(about))
        |> Diagnosis.handshake(name, address)

      case answer(finding, Map.put(about, :where, Probe.where(address))) do
        {status, _seen, _expected, _fix} = outcome when status == :failed ->
          {Diagnosis.id(finding), outcome}

        other ->
          other
      end
    end
  end

  defp cookie(%{mode: :node, name: name}), do: Handshake.cookie(name)
  defp cookie(_about), do: System.get_env("RELEASE_COOKIE")

  defp port(_name, %Endpoint{ports: [port | _]}), do: {:ok, port}

  defp port(name, _endpoint) do
    {_ips, from_table} = table(name)

    case from_table || PortRule.port(name) do
      {:error, reason} ->
        {"ports.rule",
         {:failed, Boot.text(PortRule.refusal(name, reason)), "a name that has a port",
          "give #{name} another name, or correct the record that names it"}}

      port ->
        {:ok, port}
    end
  end

  defp address(name, endpoint, family) do
    {from_table, _port} = table(name)
    host = name |> NodeName.host() |> String.to_charlist()
    size = if family == :inet6, do: 8, else: 4

    with nil <- Enum.find(endpoint.addresses ++ from_table, &(tuple_size(&1) == size)),
         {:error, reason} <- :inet.getaddr(host, family) do
      {"peer.resolve",
       {:failed, "its host #{host} does not resolve: #{:inet.format_error(reason)}",
        "an address of #{if family == :inet6, do: "IPv6", else: "IPv4"}",
        "a record for #{host}. This shows what the system finds: getent ahosts #{host}"}}
    else
      {:ok, ip} -> {:ok, ip}
      ip -> {:ok, ip}
    end
  end

  # What discovery has stored for the node.
  defp table(name) do
    case Native.peers_find(name) do
      {port, ips} -> {ips, port}
      nil -> {[], nil}
    end
  end

  ## What the handshake says

  defp answer({:no_tls, where}, _about) do
    {:failed, "#{where} does not speak TLS, and this node does",
     "TLS on both nodes or on neither",
     @vm_args <> Diagnosis.tls_argument() <> "\nThis is for the other node."}
  end

  defp answer({:certificate, where, alert}, _about) do
    {:failed, "the TLS handshake with #{where} fails: #{alert}",
     "a certificate of each node that the other one accepts",
     "correct cacertfile, certfile and verify in the files of -ssl_dist_optfile, or the certificates"}
  end

  # In eval, no distribution has read the options of TLS.
  defp answer({:unexamined, where}, %{mode: :eval}), do: {:ok, "#{where} speaks TLS"}
  defp answer({:unexamined, where}, %{wanted: false}), do: {:ok, "#{where} speaks TLS"}

  defp answer({:unexamined, where}, _about) do
    {:failed, "#{where} speaks TLS, and the node is not connected", "a connection",
     "put the options of TLS into a file (-ssl_dist_optfile), so that the doctor sees the handshake. Else compare the " <>
       "certificates, the cookies and the names of both nodes"}
  end

  defp answer({:tls, where}, _about) do
    {:failed, "#{where} speaks TLS, and this node does not", "TLS on both nodes or on neither",
     @vm_args <> Diagnosis.tls_argument() <> "\nThis is for this node."}
  end

  defp answer({:refused, where}, _about) do
    {:failed, "nothing listens on #{where}", "a node that listens there",
     "start the node, or correct its port in its name or record"}
  end

  defp answer({:no_reply, where}, _about) do
    {:failed, "#{where} does not reply within 2 seconds", "a reply",
     "start the host, or open the port in the firewall between the nodes"}
  end

  defp answer({:network, where, reason}, _about) do
    {:failed, "#{where}: #{:inet.format_error(reason)}", "a network that reaches the address",
     "a route to the address, or another address in the record"}
  end

  defp answer({:protocol, where, what}, _about) do
    {:failed, "#{where} accepts, and #{what}", "a node of Erlang",
     "find out what listens on #{where}. If it is the node, it has no free file descriptor (raise ulimit -n), or it hangs " <>
       "(restart it)"}
  end

  defp answer({:version, where}, _about) do
    {:failed, "#{where} allows no connection of this node", "a node that allows it",
     "releases of OTP on both nodes that are two apart at most, and no net_kernel:allow/1 there"}
  end

  defp answer({:cookie, _where}, _about) do
    {:failed, "the node refuses the cookie of this node", "the same cookie on all nodes",
     "the same RELEASE_COOKIE in the environment of both nodes"}
  end

  # No cookie was sent.
  defp answer({:own_cookie, where}, %{mode: :eval}), do: {:ok, "#{where} has this name"}
  defp answer({:own_cookie, where}, %{wanted: false}), do: {:ok, "#{where} has this name"}

  defp answer({:own_cookie, _where}, %{drained: true, topology: topology}),
    do: drained(topology, "that node", "that node has announced that it leaves")

  defp answer({:own_cookie, _where}, %{name: name}) do
    {:failed,
     "this node has a cookie for that node alone (Node.set_cookie/2), and they are not connected",
     "the cookie that the node has for this one",
     "in this node: Node.set_cookie(:\"#{name}\", COOKIE), with the cookie of that node"}
  end

  defp answer({:name, where, own}, %{own: own, name: name}) do
    {:failed, "#{where} is this node, whose name is #{own}", "#{name}, which DNS names",
     "RELEASE_NODE=#{name}, or correct the records or the option :node_name"}
  end

  defp answer({:name, where, other}, %{name: name}) do
    {:failed, "the node at #{where} has the name #{other}", "#{name}, which DNS names",
     "RELEASE_NODE=#{name} there, or correct the records or the option :node_name"}
  end

  defp answer({:accepted, where}, %{mode: :eval}), do: {:ok, "#{where} accepts this node"}

  defp answer({:accepted, where}, %{wanted: false, links: links}),
    do: {:ok, "#{where} accepts this node, which connects to #{links} other nodes (:links)"}

  # With `drained: true`, the node has announced that it leaves, or its connect failed although the diagnosis of the
  # strategy found no step that fails.
  defp answer({:accepted, _where}, %{drained: true, topology: topology}) do
    drained(
      topology,
      "that node",
      "that node accepts the cookie of this node, and refuses its connection, as a drained node does"
    )
  end

  defp answer({:accepted, _where}, _about) do
    {"peer.connected",
     {:failed, "the node accepts the cookie of this node, and is not connected", "a connection",
      "wait for the next attempt of the strategy, and run the doctor again"}}
  end

  defp drained(topology, node, seen) do
    {"peer.drained",
     {:failed, seen, "a node that takes part in the cluster",
      "Caravan.Cluster.resume(#{inspect(topology)}) in #{node}"}}
  end
end
