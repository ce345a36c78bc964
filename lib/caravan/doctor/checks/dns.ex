defmodule Caravan.Doctor.Checks.Dns do
  # Effect. The checks of the lookups and of the names that follow from their answers.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.OwnNode
  alias Caravan.Cluster.NameList
  alias Caravan.Cluster.OwnName
  alias Caravan.Dns.Error
  alias Caravan.Doctor.Check
  alias Caravan.Doctor.Context
  alias Caravan.Doctor.Lookups
  alias Caravan.Doctor.ResolvConf

  # With these reasons, the nameserver has answered, but without a record that can be used. With all other reasons, the
  # lookup has failed.
  @empty [:nxdomain, :no_records, :not_allowed]

  # The maximum number of names in one finding.
  @shown 5

  # Milliseconds that each of the further lookups of dns.drift may take.
  @again 2_000

  # Milliseconds that each lookup of another name or type may take for dns.empty.
  @elsewhere 1_000

  @spec checks(Context.t()) :: [Check.t()]
  def checks(%Context{topologies: []}) do
    result = {:skipped, "no topology is known that looks something up"}
    [Check.new("dns.lookup", [grounds: ["node.nif"]], fn -> result end)]
  end

  def checks(%Context{lookups: lookups} = context) do
    system = ResolvConf.read()
    self = context.name || "nonode@nohost"
    named = if context.mode == :project, do: [], else: context.topologies

    Enum.map(named, &own_name(context, &1)) ++
      Enum.flat_map(lookups, fn lookup ->
        others? = Context.endpoints(context, lookup.config) != %{}

        [
          check("dns.lookup", lookup, answered(lookup)),
          new("dns.empty", lookup, fn -> empty(lookup, others?) end),
          check("dns.names", lookup, names(lookup)),
          check("dns.search", lookup, search(lookup, system)),
          check("dns.nameserver", lookup, nameserver(lookup, system)),
          new("dns.drift", lookup, fn -> drift(lookup, self) end)
        ]
      end)
  end

  # The answer is there already, so the check need not be done in another process.
  defp check(id, lookup, result), do: new(id, lookup, fn -> result end)

  defp new(id, %{config: config, source: {query, type}}, run) do
    subject = "#{query} #{type |> Atom.to_string() |> String.upcase()}"
    Check.new(id, [topology: Context.topology_name(config), subject: subject], run)
  end

  defp answered(%{result: :client}),
    do: {:skipped, "the :dns_client of the topology does the lookups"}

  defp answered(%{result: {:error, %Error{reason: reason} = error}, config: config} = lookup)
       when reason not in @empty do
    {seen, fix} = error |> Exception.message() |> split()
    {:failed, "#{seen} #{Lookups.effort(lookup)}#{configured(config)}", "an answer", fix}
  end

  defp answered(%{result: {:error, %Error{nameserver: nameserver}}} = lookup),
    do: {:ok, "#{nameserver || "/etc/hosts"} answered #{Lookups.effort(lookup)}"}

  defp answered(%{result: {:ok, answer, _endpoints, _left_out}}) do
    {:ok, Lookups.summary(answer)}
  end

  # Another query or record type of the topology may name all nodes.
  defp empty(%{result: {:error, %Error{reason: reason} = error}} = lookup, others?)
       when reason in @empty do
    {seen, fix} = error |> Exception.message() |> split()
    expected = "a record for each node"

    cond do
      others? -> {:warning, seen <> ", but another lookup names nodes", expected, fix}
      found = elsewhere(lookup) -> {:failed, seen, expected, found}
      true -> {:failed, seen, expected, fix}
    end
  end

  defp empty(%{result: {:ok, answer, _endpoints, _left_out}}, _others?),
    do: {:ok, "#{length(answer.records)} records"}

  defp empty(_lookup, _others?), do: {:skipped, "there is no answer"}

  # The likely mistakes: the records have another type, the query ends in a dot and needs a search domain, an underscore of
  # `_service._protocol.name` is missing, or the query is such a name of SRV records while the addresses are at `name`.
  defp elsewhere(%{result: {:error, %Error{reason: :not_allowed}}}), do: nil

  defp elsewhere(%{config: config, source: {query, type}}) do
    types = for other <- [:srv, :a, :aaaa], other != type, do: {query, other}

    no_dot =
      if config.nameservers == [] and String.ends_with?(query, "."),
        do: [{String.trim_trailing(query, "."), type}],
        else: []

    Enum.find_value(types ++ no_dot ++ service(query), fn {name, other} = source ->
      case Lookups.count(config, source, @elsewhere) do
        0 -> nil
        count -> ~s(query: "#{name}", type: :#{other}\nThis name has #{count} of these records.)
      end
    end)
  end

  # The names of SRV records (RFC 2782).
  defp service(query) do
    case String.split(query, ".", parts: 3) do
      ["_" <> _, "_" <> _, name] when name != "" ->
        [{name, :a}, {name, :aaaa}]

      [service, protocol, name] when protocol in ~w(tcp udp _tcp _udp) and name != "" ->
        [service, protocol] =
          for label <- [service, protocol], do: String.trim_leading(label, "_")

        [{"_#{service}._#{protocol}.#{name}", :srv}]

      _ ->
        []
    end
  end

  defp names(%{result: {:ok, answer, endpoints, left_out}, config: config}) do
    count = map_size(endpoints)

    cond do
      left_out != [] ->
        status = if count == 0, do: :failed, else: :warning

        {status, "#{length(left_out)} records make no node: #{shown(left_out)}",
         "a record whose node name is valid and allowed",
         "correct the records, or the options :node_name and :allow"}

      count > config.max_nodes ->
        {:warning, "the records name #{count} nodes", "#{config.max_nodes} nodes at most",
         "max_nodes: #{count}"}

      count < answer.records |> Enum.uniq_by(&place/1) |> length() ->
        {:warning, "#{length(answer.records)} records have the names of #{count} nodes only",
         "another name for each record", ~s(node_name: "{name}-{port}@{host}")}

      true ->
        {:ok, "the records name #{count} nodes: #{shown(Enum.sort(Map.keys(endpoints)))}"}
    end
  end

  defp names(_lookup), do: {:skipped, "there is no answer"}

  ## The resolver

  # The names that the search list makes of a query (resolv.conf(5)).
  defp search(
         %{config: %Config{nameservers: [], dns_client: nil}, source: {query, _type}},
         system
       ) do
    %{search: domains, ndots: ndots} = system
    dots = query |> String.graphemes() |> Enum.count(&(&1 == "."))

    if domains == [] or String.ends_with?(query, ".") or dots >= ndots do
      {:ok, "the name is looked up as it is first"}
    else
      {:warning,
       "each lookup first tries the search domains of /etc/resolv.conf: #{Enum.join(domains, ", ")} (ndots:#{ndots})",
       "a dot at the end of the name, unless the name needs a search domain",
       ~s(query: "#{query}.")}
    end
  end

  defp search(_lookup, _system), do: {:ok, "the resolver configuration of the system is not used"}

  # Nameservers are asked in their order. So an answer of another one says that the first one did not answer in time, or
  # answered with an error.
  defp nameserver(%{config: %Config{nameservers: []}} = lookup, %{rotate: false} = system),
    do: nameserver(lookup, system.nameservers, "/etc/resolv.conf")

  defp nameserver(%{config: config} = lookup, _system),
    do: nameserver(lookup, config.nameservers, ":nameservers")

  # A name of /etc/hosts has no nameserver.
  defp nameserver(
         %{result: {:ok, %{nameserver: nameserver}, _, _}},
         [first, _second | _],
         where
       )
       when nameserver != nil do
    if address(first) in [nil, nameserver] do
      {:ok, "#{nameserver} answered"}
    else
      {:warning, "the first nameserver, #{first}, gave no answer, and #{nameserver} did",
       "an answer of the first nameserver",
       "the nameserver that answers first in #{where}, or repair #{first}"}
    end
  end

  defp nameserver(_lookup, _nameservers, _where),
    do: {:ok, "there is one nameserver, or no answer"}

  # Returns a nameserver of the option in the form that the answers name it in. Returns nil for one with a protocol.
  defp address(nameserver) do
    text = String.to_charlist(nameserver)

    case {:inet.parse_strict_address(text), nameserver} do
      {{:ok, ip}, _} when tuple_size(ip) == 8 -> "[#{:inet.ntoa(ip)}]:53"
      {{:ok, ip}, _} -> "#{:inet.ntoa(ip)}:53"
      {{:error, _}, nameserver} -> if nameserver =~ "://", do: nil, else: nameserver
    end
  end

  # Looks the name up two more times, because some nameservers answer with only a part of the records.
  defp drift(%{result: {:ok, _answer, endpoints, _left_out}} = lookup, self) do
    sets = for _ <- 1..2, do: names_again(Lookups.again(lookup, self, @again))
    sets = Enum.reject([Map.keys(endpoints) | sets], &(&1 == nil))
    all = sets |> Enum.concat() |> Enum.uniq()

    case Enum.reject(all, fn name -> Enum.all?(sets, &(name in &1)) end) do
      [] ->
        {:ok, "#{length(sets)} lookups name the same nodes"}

      some ->
        {:warning,
         "#{length(sets)} lookups name different nodes. Not all of them name #{shown(Enum.sort(some))}",
         "the same nodes in each answer", drift_fix(lookup.config)}
    end
  end

  defp drift(_lookup, _self), do: {:skipped, "there is no answer"}

  defp drift_fix(%Config{prune: nil, keep: keep}) do
    "nothing: a node stays a member for #{keep} ms (:keep) after the last answer with it, so the members become complete. " <>
      "This is harmless where a server answers with a part of its records, or where nodes start and stop"
  end

  defp drift_fix(_prune) do
    "remove the option :prune, unless nodes start and stop at this moment. It disconnects nodes that the answers lack"
  end

  defp names_again(%{result: {:ok, _answer, endpoints, _left_out}}), do: Map.keys(endpoints)
  defp names_again(_failed), do: nil

  ## The own name

  defp own_name(context, config) do
    fields = [topology: Context.topology_name(config), grounds: ["node.alive", "ports.rule"]]
    endpoints = Context.endpoints(context, config)
    %{name: name, mode: mode} = context

    Check.new("dns.self", fields, fn ->
      if endpoints == %{},
        do: {:skipped, "the lookups name no node"},
        else: own_name(OwnNode.named(name), endpoints, mode)
    end)
  end

  defp own_name(own, endpoints, mode) do
    case OwnName.compare(own, endpoints, &OwnNode.port_of/1) do
      :named ->
        {:ok, "DNS names this node"}

      {:called, name} ->
        {:failed, "DNS calls this node #{name} (another #{differences(own, name)})", own.name,
         OwnName.fix(name, own)}

      {:also_called, name} ->
        {:warning, "DNS also calls this node #{name} (another #{differences(own, name)})",
         "only #{own.name}",
         "delete its record, or let :query, :type and :node_name give one name to each node"}

      # A record often appears after the start of its node.
      _not_named when mode == :eval ->
        {:ok, "DNS does not name this node, which may not run"}

      {:perhaps, name} ->
        {:warning,
         "DNS does not name this node. On this host it names #{name} (another #{differences(own, name)})",
         own.name, "if this record is meant for this node: #{OwnName.fix(name, own)}"}

      :not_named ->
        {:warning, "DNS does not name this node, so the other nodes do not find it", own.name,
         "register the node in DNS, or correct :query and :node_name"}
    end
  end

  defp differences(own, name),
    do: own.name |> OwnName.differences(name) |> Enum.map_join(", ", &difference/1)

  defp difference(:case), do: "case"
  defp difference(:trailing_dot), do: "dot at the end"
  defp difference(what), do: Atom.to_string(what)

  ## Texts

  defp place(%{port: port, target: target}), do: {port, target}
  defp place(ip), do: ip

  defp shown(texts), do: NameList.text(texts, @shown)

  # The message of an error is the error, a semicolon and the advice.
  defp split(message) do
    case String.split(message, "; ", parts: 2) do
      [seen, advice] -> {seen, advice}
      [seen] -> {seen, "correct the option :query"}
    end
  end

  # With one nameserver in the option, the error itself names it.
  defp configured(%Config{nameservers: []}), do: " (nameservers of /etc/resolv.conf)"
  defp configured(%Config{nameservers: [_]}), do: ""

  defp configured(%Config{nameservers: nameservers}),
    do: " (nameservers #{Enum.join(nameservers, ", ")})"
end
