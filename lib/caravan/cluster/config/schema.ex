defmodule Caravan.Cluster.Config.Schema do
  # Pure. The options of Caravan.Cluster.DnsStrategy: the type, the default and the documentation of each.
  @moduledoc false

  alias Caravan.Cluster.NodeName
  alias Caravan.Dns
  alias Caravan.Options

  @types [:srv, :a, :aaaa]

  # Values of :dns_client that mean Caravan's own resolver. The example in the documentation of Caravan 1.0 has the
  # behaviour Caravan.DnsClient in place of a module that implements it. The default of 1.0 was InetRes.
  @builtin_clients [nil, Caravan.DnsClient, Caravan.DnsClient.InetRes]

  @dns_schema Dns.schema()

  # The levels of OTP (logger:level/0), and the one that turns logging off.
  @levels [:debug, :info, :notice, :warning, :error, :critical, :alert, :emergency, :none]

  # The largest number in :links. A node that needs more links takes :all.
  @max_links 1_024

  # Characters of a topology. The registered name of its strategy is longer, and an atom has at most 255 (ERTS,
  # MAX_ATOM_CHARACTERS).
  @max_topology 200

  @schema [
    query: [
      type: {:custom, __MODULE__, :check_query, []},
      type_doc: "string, `{basename, string}`, list of them, or `:ignore`",
      required: true,
      doc:
        "The DNS names to look up. The members of the cluster are the nodes that any of the answers contains. " <>
          "With `{basename, string}`, the string is the DNS name, and the basename is the value of the placeholder " <>
          "`{name}` for its records. A list may have one DNS name with several basenames. Each record then makes one " <>
          "node per basename. With `:ignore` or `nil`, the strategy starts and does nothing."
    ],
    type: [
      type: {:custom, __MODULE__, :check_type, []},
      type_doc: "`:srv`, `:a`, `:aaaa`, or a list of them",
      default: [:srv],
      doc: "The record types to look up for each query."
    ],
    node_sname: [
      type: {:custom, __MODULE__, :check_basename, []},
      type_doc: "string",
      default: nil,
      doc:
        "The value of the placeholder `{name}` in `:node_name`. Defaults to the name of this node up to the `@`. If " <>
          "`:node_name` has the placeholder `{port}`, the digits at the end and a `-` before them are left out."
    ],
    node_basename: [
      type: {:custom, __MODULE__, :check_basename, []},
      type_doc: "string",
      default: nil,
      doc: "The same as `:node_sname`, under the name that libcluster's own strategies use."
    ],
    node_name: [
      type: {:custom, __MODULE__, :check_template, []},
      type_doc: "string",
      default: nil,
      doc:
        "The template that makes a node name from a record. It may have the placeholder `{name}`. For SRV " <>
          "records it may also have `{port}`, `{host}` and `{host_label}` (the host up to its first dot), " <>
          "for A and AAAA records `{ip}`. Defaults to `\"{name}-{port}@{host}\"` for SRV records, to " <>
          "`\"{name}@{host}\"` for SRV records with `ports: :srv`, and to `\"{name}@{ip}\"` for A and AAAA " <>
          "records."
    ],
    ports: [
      type: {:in, [:name, :srv]},
      default: :name,
      doc:
        "Where the distribution port of a node comes from. With `:name`, it follows from the node name by " <>
          "the port rule of `Caravan.Epmd`. With `:srv`, it is the port of the node's SRV record."
    ],
    poll_interval: [
      type: {:in, 100..3_600_000},
      type_doc: "milliseconds",
      default: 5_000,
      doc:
        "The longest time from an answer to the next lookup. An answer with a shorter TTL is looked up " <>
          "again when its TTL is over, unless the TTL is 0."
    ],
    min_interval: [
      type: {:or, [{:in, 50..3_600_000}, nil]},
      type_doc: "milliseconds",
      default: nil,
      doc:
        "The shortest time from an answer to the next lookup, however short the TTL is. Jitter can shorten " <>
          "it by a fifth. The wait after the first answer is random and can be shorter. When a node is lost, the " <>
          "time counts from the start of the last lookup. Defaults to `1_000`, or to half of `:poll_interval` if " <>
          "that is less."
    ],
    keep: [
      type: {:in, 0..86_400_000},
      type_doc: "milliseconds",
      default: 300_000,
      doc:
        "How long a node stays a member after the last answer that contained it. After that, the next complete " <>
          "answer without the node removes it."
    ],
    prune: [
      type: {:custom, __MODULE__, :check_prune, []},
      type_doc: "`[after: 1..1_000]`",
      default: nil,
      doc:
        "Disconnects a node that is no longer a member and was missing from this number of consecutive " <>
          "complete answers of every query. This is rarely worth it, see \"Pruning\" in " <>
          "`Caravan.Cluster.DnsStrategy`. By default, Caravan disconnects no node."
    ],
    links: [
      type: {:custom, __MODULE__, :check_links, []},
      type_doc: "`:all`, or integer, 0 to 1,024",
      default: :all,
      doc:
        "The number of members that this node connects to. With `0`, the strategy connects none, and only writes the ports and " <>
          "addresses of the members into `Caravan.Epmd.Peers`. " <>
          "A number needs `-connect_all false`, see \"Links\" in `Caravan.Cluster.DnsStrategy`."
    ],
    release_links: [
      type: {:or, [:boolean, nil]},
      type_doc: "boolean",
      default: nil,
      doc:
        "Whether stand-ins are disconnected when the preferred members are back, see \"Links\" in " <>
          "`Caravan.Cluster.DnsStrategy`. Only with a number in `:links`. Defaults to `true`."
    ],
    max_nodes: [
      type: {:in, 1..16_384},
      default: 1_024,
      doc:
        "The maximum number of node names in the topology. If DNS has more, the nodes that are connected stay, then " <>
          "those that were connected, then the names that are known longest. The others are left out."
    ],
    max_new_names: [
      type: {:in, 1..1_000_000},
      default: 10_000,
      doc: "The maximum number of node names that may become new atoms within 24 hours."
    ],
    nameservers: @dns_schema[:nameservers],
    lookup_timeout: @dns_schema[:timeout],
    lookup_attempts: @dns_schema[:attempts],
    allow: @dns_schema[:allow],
    dnssec: @dns_schema[:dnssec],
    trust_anchors: @dns_schema[:trust_anchors],
    ca_file: @dns_schema[:ca_file],
    randomize_case: @dns_schema[:randomize_case],
    connect_timeout: [
      type: {:in, 100..60_000},
      type_doc: "milliseconds",
      default: 5_000,
      doc: "The timeout of one connection attempt."
    ],
    max_connects: [
      type: {:in, 1..1_024},
      default: 128,
      doc:
        "The maximum number of connection attempts at the same time. An attempt that has had no reply for " <>
          "100 ms no longer counts, so that dead addresses do not delay other nodes. Including attempts that no longer count, " <>
          "at most 512 are in progress, or `:max_connects` if that is more."
    ],
    dns_client: [
      type: {:custom, __MODULE__, :check_client, []},
      type_doc: "module",
      default: nil,
      doc:
        "A `Caravan.DnsClient` that looks up the queries in place of Caravan's resolver. It returns ports " <>
          "and hosts, as SRV records do."
    ],
    topology: [
      type: {:custom, __MODULE__, :check_topology, []},
      type_doc: "atom",
      default: :caravan,
      doc:
        "The name of the topology in log lines, events and calls of `Caravan.Cluster`, of at most " <>
          "#{@max_topology} characters. Under libcluster, the name comes from libcluster's configuration."
    ],
    log_level: [
      type: {:in, @levels},
      type_doc: "level of `Logger`, or `:none`",
      default: :info,
      doc:
        "The lowest level of the lines that the strategy logs. Changes have the level `:info`, problems " <>
          "`:warning`."
    ],
    connect: [
      type: :mfa,
      default: {:net_kernel, :connect_node, []},
      doc:
        "The function that connects a node. It gets the node after the arguments and returns `true` if the " <>
          "node is connected."
    ],
    disconnect: [
      type: :mfa,
      default: {:erlang, :disconnect_node, []},
      doc:
        "The function that disconnects a node. It gets the node after the arguments and is called only for " <>
          "`:prune` and `:links`."
    ],
    list_nodes: [
      type: :mfa,
      default: {:erlang, :nodes, [:connected]},
      doc:
        "The function that returns the list of connected nodes. The list must include hidden nodes if " <>
          "`:connect` makes hidden connections."
    ]
  ]

  @spec schema() :: Options.schema()
  def schema, do: @schema

  ## Custom types

  @doc false
  @spec check_query(term) :: Options.checked()
  def check_query(ignore) when ignore in [nil, :ignore], do: {:ok, []}

  def check_query(query) do
    queries = List.wrap(query)

    if queries != [] and not List.improper?(queries) and Enum.all?(queries, &query?/1),
      do: {:ok, queries |> Enum.map(&with_basename/1) |> Enum.uniq()},
      else:
        {:error,
         "a DNS name such as \"_app._tcp.example.com\", {basename, string}, a list of them, or :ignore"}
  end

  defp query?({basename, query}) when is_binary(query),
    do: match?({:ok, _}, check_basename(basename)) and query?(query)

  defp query?(query), do: is_binary(query) and query != ""

  defp with_basename({basename, query}), do: {basename, query}
  defp with_basename(query), do: {nil, query}

  @doc false
  @spec check_type(term) :: Options.checked()
  def check_type(type) do
    types = List.wrap(type)

    if types != [] and not List.improper?(types) and types -- @types == [],
      do: {:ok, types},
      else: {:error, ":srv, :a or :aaaa, or a list of them"}
  end

  @doc false
  @spec check_basename(term) :: Options.checked()
  def check_basename(nil), do: {:ok, nil}

  def check_basename(name) do
    if is_binary(name) and NodeName.basename?(name),
      do: {:ok, name},
      else: {:error, "a string of ASCII letters, digits, - and _, such as \"app\""}
  end

  @doc false
  @spec check_template(term) :: Options.checked()
  def check_template(nil), do: {:ok, nil}
  def check_template(text) when is_binary(text), do: {:ok, text}
  def check_template(_other), do: {:error, "a string such as \"{name}-{port}@{host}\""}

  @doc false
  @spec check_prune(term) :: Options.checked()
  def check_prune(off) when off in [nil, false], do: {:ok, nil}
  def check_prune(after: count) when is_integer(count) and count in 1..1_000, do: {:ok, count}

  def check_prune(_other),
    do: {:error, "[after: answers] with a number from 1 to 1_000, such as [after: 3], or false"}

  @doc false
  @spec check_links(term) :: Options.checked()
  def check_links(:all), do: {:ok, :all}
  def check_links(links) when is_integer(links) and links in 0..@max_links, do: {:ok, links}

  def check_links(_other),
    do: {:error, ":all, or the number of members to connect to, from 0 to 1_024, such as 3"}

  @doc false
  @spec check_client(term) :: Options.checked()
  def check_client(client) when client in @builtin_clients, do: {:ok, nil}

  def check_client(client) do
    if is_atom(client) and Code.ensure_loaded?(client) and
         function_exported?(client, :get_nodes, 1),
       do: {:ok, client},
       else: {:error, "a module that exports get_nodes/1 (Caravan.DnsClient)"}
  end

  @doc false
  @spec check_topology(term) :: Options.checked()
  def check_topology(topology) do
    if is_atom(topology) and topology != nil and
         String.length(Atom.to_string(topology)) <= @max_topology,
       do: {:ok, topology},
       else: {:error, "an atom of at most #{@max_topology} characters, such as :app"}
  end
end
