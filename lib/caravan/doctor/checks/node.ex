defmodule Caravan.Doctor.Checks.Node do
  # Effect. The checks of the node's name and host, of Caravan's library and of the VM arguments.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.NodeName
  alias Caravan.Doctor.Check
  alias Caravan.Doctor.Context
  alias Caravan.Epmd.Settings
  alias Caravan.Native

  @vm_args "in rel/vm.args.eex and rel/remote.vm.args.eex:\n"

  # The ids of the checks of the files that have the VM arguments.
  @vm_args_files ["release.rel_missing", "release.vm_args"]

  @own_address "the address of this machine in the network of the nodes, in rel/env.sh.eex:\n" <>
                 "export RELEASE_NODE=\"app-4001@$(hostname -i)\""

  @spec checks(Context.t()) :: [Check.t()]
  def checks(%Context{mode: :project}), do: [Check.new("node.nif", &nif/0)]

  def checks(context) do
    [
      Check.new("node.alive", fn -> alive(context) end),
      Check.new("node.nif", &nif/0),
      check("node.epmd_module", @vm_args_files, fn -> epmd_module(context.mode) end),
      check("node.epmd_started", @vm_args_files, fn -> epmd_started(context.mode) end),
      check("node.longnames", ["release.rel_missing"], fn -> longnames(context) end),
      check("node.host", ["node.longnames"], fn -> host(context) end)
    ]
  end

  defp check(id, grounds, run), do: Check.new(id, [grounds: ["node.alive" | grounds]], run)

  defp alive(%{name: nil, mode: mode}) do
    seen =
      if mode == :eval,
        do: "RELEASE_DISTRIBUTION is #{inspect(System.get_env("RELEASE_DISTRIBUTION"))}",
        else: "this VM runs without a node name"

    {:failed, seen, "a node name",
     """
     in rel/env.sh.eex:
     export RELEASE_DISTRIBUTION=name
     export RELEASE_NODE="${RELEASE_NODE:-app-4001@$(hostname -f)}"
     Without a release, start the VM with: --name app-4001@127.0.0.1
     """}
  end

  defp alive(%{mode: :eval, name: name}), do: {:ok, "bin/app start would start #{name}"}
  defp alive(%{name: name}), do: {:ok, name}

  ## The library

  defp nif do
    case Native.load() do
      :ok ->
        {:ok, "Caravan's library is loaded, #{features()}"}

      {:error, message} ->
        message = IO.chardata_to_string(message)
        [seen, _advice] = String.split(message, ". Build it for this machine", parts: 2)
        {:failed, seen, "a library for this machine", library_fix(seen)}
    end
  end

  # The features of the library that cargo built.
  defp features do
    features = Native.dns_features()

    Enum.map_join([tls: "TLS", dnssec: "DNSSEC"], ", ", fn {feature, name} ->
      if feature in features, do: "with " <> name, else: "without " <> name
    end)
  end

  # The text comes from the loader (dlopen). It says "no such file" also if the file is for another CPU.
  defp library_fix(text) do
    [path] = Regex.run(~r/library (.+\.so) cannot be loaded/, text, capture: :all_but_first)

    cond do
      not File.exists?(path) ->
        "build the release again. The library is #{path}"

      text =~ ~r/version .+ not found/ ->
        "build the release on the system of the image that runs it, or on an older one"

      missing = missing_library(text, path) ->
        "install the library #{missing} in the image (libgcc_s.so.1: apt-get install libgcc-s1, or apk add libgcc)"

      true ->
        "build the release for the CPU and the system of this machine: docker build --platform …, or CARAVAN_NIF=/path/to/FILE mix deps.compile caravan --force && mix release"
    end
  end

  defp missing_library(text, path) do
    case Regex.run(~r/([^\s':]+\.so[^\s':]*): cannot open shared object file/, text,
           capture: :all_but_first
         ) do
      [^path] -> nil
      [library] -> library
      nil -> nil
    end
  end

  ## VM arguments

  defp epmd_module(mode) do
    case if(mode == :node, do: inspect(:net_kernel.epmd_module()), else: module_argument()) do
      "Caravan.Epmd" ->
        {:ok, "Caravan.Epmd"}

      other ->
        {:failed, "the epmd module is #{other}", "Caravan.Epmd",
         @vm_args <> "-epmd_module Elixir.Caravan.Epmd\n-start_epmd false"}
    end
  end

  # The node of a release gets the same VM arguments as `bin/app eval`. Of several values, OTP uses the first one
  # (net_kernel:epmd_module/0). Creates no atom.
  defp module_argument do
    case argument(:epmd_module, &List.first/1) do
      nil -> ":erl_epmd"
      ~c"Elixir." ++ module -> List.to_string(module)
      module -> ":#{module}"
    end
  end

  # If a VM has a name among its arguments, the program erl starts an epmd daemon before the VM, unless -start_epmd false
  # is there (erts/etc/common/erlexec.c).
  defp epmd_started(mode) do
    named = mode == :eval or last_argument(:name) != nil or last_argument(:sname) != nil

    if not named or last_argument(:start_epmd) == ~c"false" do
      {:ok, "the start of the node starts no epmd daemon"}
    else
      {:warning, "the start of the node starts an epmd daemon", "-start_epmd false",
       @vm_args <> "-start_epmd false"}
    end
  end

  defp last_argument(flag), do: argument(flag, &List.last/1)

  defp argument(flag, choose) do
    with {:ok, values} <- :init.get_argument(flag), [value | _] <- choose.(values) do
      value
    else
      _ -> nil
    end
  end

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
     "another host in RELEASE_NODE, or #{@vm_args}-proto_dist #{protocol}"}
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
    own = own_addresses()
    text = texts(ips)

    if Enum.any?(ips, &(&1 in own or loopback?(&1))) do
      {:ok, "the host #{host} is #{text}"}
    else
      {:warning, "the host #{host} is #{text}, which is not an address of this machine",
       "an address of this machine, unless a NAT or a port mapping leads from that address to this machine",
       "RELEASE_NODE=app-4001@ADDRESS with one of: #{texts(Enum.reject(own, &loopback?/1))}"}
    end
  end

  defp own_addresses do
    {:ok, interfaces} = :inet.getifaddrs()
    for {_name, options} <- interfaces, {:addr, ip} <- options, do: ip
  end

  defp texts(ips), do: Enum.map_join(ips, ", ", &:inet.ntoa/1)
end
