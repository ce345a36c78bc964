defmodule Caravan.Doctor.Checks.Host do
  # Effect. The checks of the host in the node's name: whether OTP starts a node with such a name, and whether other nodes
  # can connect to it.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Distribution.OwnNode
  alias Caravan.Cluster.NodeName
  alias Caravan.Doctor.Check
  alias Caravan.Doctor.Context
  alias Caravan.Epmd.Settings

  # `hostname -i` prints a loopback address on many hosts, and the program of Alpine has no `-I`.
  @own_address "the address of this machine in the network of the nodes, in rel/env.sh.eex:\n" <>
                 "export RELEASE_NODE=\"app-4001@$({ hostname -I 2>/dev/null || hostname -i; } | cut -d ' ' -f 1)\""

  @spec checks(Context.t()) :: [Check.t()]
  def checks(%Context{mode: :project}), do: []

  def checks(context) do
    [
      check("node.longnames", "release.rel_missing", fn -> longnames(context) end),
      check("node.host", "node.longnames", fn -> host(context) end)
    ]
  end

  defp check(id, ground, run), do: Check.new(id, [grounds: ["node.alive", ground]], run)

  ## Short and long names

  # OTP starts no node whose host does not fit to the kind of its name (kernel/src/net_kernel.erl), and it connects no
  # nodes of different kinds.
  defp longnames(%{long: long} = context) do
    host = Context.host(context)
    address = match?({:ok, _ip}, address(host))
    other = Enum.find(context.topologies, &(long_names?(&1, context) not in [nil, long]))
    kind = if long, do: "long", else: "short"

    cond do
      long and not (host =~ "." or address) ->
        {:failed, "the node has a long name, but its host #{host} has no dot",
         "a host with a dot, or an address", @own_address}

      not long and host =~ "." ->
        {:failed, "the node has a short name, but its host #{host} has a dot", "a long name",
         "RELEASE_DISTRIBUTION=name"}

      other != nil ->
        {:failed,
         "the node has a #{kind} name, but the topology #{inspect(other.topology)} has nodes of the other kind",
         "names of one kind", "RELEASE_DISTRIBUTION=#{if long, do: "sname", else: "name"}"}

      true ->
        {:ok, "a #{kind} name"}
    end
  end

  # Returns whether the nodes of a topology have long names, or nil if this depends on records and DNS has none.
  defp long_names?(%Config{templates: templates} = config, context) do
    kinds = for {_type, template} <- templates, do: template |> host_part() |> long_host?()
    names = context |> Context.endpoints(config) |> Map.keys() |> Enum.sort()
    Enum.find(kinds ++ Enum.map(names, &NodeName.long?/1), &(&1 != nil))
  end

  # The parts of a template after the @.
  defp host_part(template) do
    [first | rest] = Enum.drop_while(template, &(not (is_binary(&1) and &1 =~ "@")))
    [first |> String.split("@") |> List.last() | rest]
  end

  defp long_host?(parts) do
    literal = parts |> Enum.filter(&is_binary/1) |> Enum.join()

    cond do
      :ip in parts or literal =~ "." or literal =~ ":" -> true
      :host in parts -> nil
      true -> false
    end
  end

  ## The host

  defp host(context) do
    host = Context.host(context)

    with :ok <- no_capitals(context, host),
         {:ok, ips} <- resolve(context, host, Settings.family()),
         :ok <- each(ips, &usable(host, &1)),
         others = if(Enum.all?(ips, &loopback?/1), do: others(context), else: []),
         :ok <- each(others, &local(host, &1)) do
      on_this_machine(host, ips)
    end
  end

  defp each(items, check) do
    Enum.find_value(items, :ok, fn item ->
      with :ok <- check.(item), do: nil
    end)
  end

  defp no_capitals(context, host) do
    lower = String.downcase(host)
    templates = Enum.flat_map(context.topologies, &Map.values(&1.templates))

    if host != lower and Enum.any?(templates, &NodeName.host_from_record?/1) do
      {:failed, "the host #{host} has capital letters, and DNS returns hosts in lower case",
       lower, "RELEASE_NODE=#{String.replace_suffix(context.name, host, lower)}"}
    else
      :ok
    end
  end

  # The nodes of a topology use the addresses of its records, even if the resolver of the system has none.
  defp resolve(context, host, family) do
    other = if family == :inet, do: :inet6, else: :inet

    from_records =
      for %{addresses: ips} <- own_endpoints(context), ip <- ips, family_of(ip) == family, do: ip

    with [] <- from_records,
         {:error, reason} <- addresses(host, family),
         {:error, _} <- addresses(host, other) do
      {:failed, "the host #{host} does not resolve: #{:inet.format_error(reason)}",
       "a host that the other nodes can resolve, or an address", @own_address}
    else
      [_ | _] = ips ->
        {:ok, ips}

      {:ok, [ip | _] = ips} ->
        if family_of(ip) == family, do: {:ok, ips}, else: other_family(host, family, other)
    end
  end

  defp own_endpoints(%{name: name} = context) do
    for config <- context.topologies,
        %{^name => endpoint} <- [Context.endpoints(context, config)],
        do: endpoint
  end

  defp other_family(host, family, other) do
    protocol = if other == :inet6, do: "inet6", else: "inet"
    protocol = protocol <> if Settings.tls?(), do: "_tls", else: "_tcp"

    {:failed, "the host #{host} has addresses of #{version(other)} only",
     "an address of #{version(family)}, which distribution uses (-proto_dist)",
     "another host in RELEASE_NODE, or in rel/vm.args.eex and rel/remote.vm.args.eex:\n-proto_dist #{protocol}"}
  end

  defp version(:inet), do: "IPv4"
  defp version(:inet6), do: "IPv6"

  defp addresses(host, family) do
    case address(host) do
      {:ok, ip} -> if family_of(ip) == family, do: {:ok, [ip]}, else: {:error, :nxdomain}
      {:error, _} -> host |> String.to_charlist() |> :inet.getaddrs(family)
    end
  end

  defp address(host), do: host |> String.to_charlist() |> :inet.parse_strict_address()

  defp family_of(ip), do: if(tuple_size(ip) == 8, do: :inet6, else: :inet)

  defp usable(host, ip) do
    kind =
      case ip do
        {0, 0, 0, 0} -> "the unspecified address"
        {0, 0, 0, 0, 0, 0, 0, 0} -> "the unspecified address"
        {169, 254, _, _} -> "a link-local address"
        {a, _, _, _, _, _, _, _} when a in 0xFE80..0xFEBF -> "a link-local address"
        _ -> nil
      end

    if kind,
      do:
        {:failed, "the host #{host} is #{kind}, #{:inet.ntoa(ip)}",
         "an address that the other nodes can connect to", @own_address},
      else: :ok
  end

  # A node on a loopback address can be connected only from its own machine.
  defp local(host, other) do
    with {:ok, ip} <- other |> NodeName.host() |> address(),
         false <- loopback?(ip) do
      {:failed, "the host #{host} is a loopback address, and #{other} is not on one",
       "an address that #{other} can connect to", @own_address}
    else
      _ -> :ok
    end
  end

  defp others(context),
    do:
      Enum.map(Node.list(:connected), &NodeAtom.to_name/1) ++
        Enum.flat_map(context.endpoints, fn {_, endpoints} -> Map.keys(endpoints) end)

  defp loopback?({127, _, _, _}), do: true
  defp loopback?({0, 0, 0, 0, 0, 0, 0, 1}), do: true
  defp loopback?(_ip), do: false

  defp on_this_machine(host, ips) do
    {:ok, own} = OwnNode.host_addresses()
    text = texts(ips)

    if Enum.any?(ips, &(&1 in own or loopback?(&1))) do
      {:ok, "the host #{host} is #{text}"}
    else
      {:warning, "the host #{host} is #{text}, which is not an address of this machine",
       "an address of this machine, unless a NAT or a port mapping leads from that address to this machine",
       "RELEASE_NODE=app-4001@ADDRESS with one of: #{texts(Enum.reject(own, &loopback?/1))}"}
    end
  end

  defp texts(ips), do: Enum.map_join(ips, ", ", &:inet.ntoa/1)
end
