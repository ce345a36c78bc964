defmodule Caravan.Cluster.Config do
  # Pure. The options of Caravan.Cluster.DnsStrategy, as a schema and as a struct.
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

  # Default of :min_interval in milliseconds, unless half of :poll_interval is less.
  @min_interval 1_000

  @kubernetes "Caravan finds Kubernetes pods by the DNS name of a headless Service, such as " <>
                "query: \"_dist._tcp.app.default.svc.cluster.local\""

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
        "The number of members that this node connects to. With `0`, only the addresses of the members are published. " <>
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
          "100 ms no longer counts, so that dead addresses do not delay other nodes. With those that no longer count, " <>
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

  # The options that Caravan.Dns has under the same names.
  @dns_options for {name, _option} <- @schema, Keyword.has_key?(@dns_schema, name), do: name

  @no_dns "Caravan finds nodes by DNS alone, and Cluster.Strategy.Epmd and Gossip also work with Caravan.Epmd"

  # Options of libcluster's strategies, of libcluster_dynamic_srv and of dns_cluster, and what Caravan has in their place.
  @renamed %{
    polling_interval: "Caravan calls this option :poll_interval",
    interval: "Caravan calls this option :poll_interval",
    resource_types: "Caravan calls this option :type",
    application_name: "Caravan calls this option :node_sname",
    kubernetes_node_basename: "Caravan calls this option :node_sname",
    name: "Caravan calls this option :topology",
    log: "Caravan calls this option :log_level",
    resolver:
      "Caravan calls this option :dns_client, which takes a module. :nameservers takes addresses",
    disconnect_on_deregister:
      "Caravan disconnects no node that is gone from DNS, unless :prune is given",
    service:
      "Caravan calls this option :query, and needs the whole name, such as \"app.default.svc.cluster.local.\"",
    namespace: @kubernetes,
    mode: @kubernetes,
    kubernetes_selector: @kubernetes,
    kubernetes_namespace: @kubernetes,
    kubernetes_service_name: @kubernetes,
    kubernetes_ip_lookup_mode: @kubernetes,
    kubernetes_use_cached_resources: @kubernetes,
    hosts: @no_dns,
    if_addr: @no_dns,
    multicast_addr: @no_dns,
    multicast_if: @no_dns,
    secret: @no_dns
  }

  # The options from which :sources, :templates, :basename and :basenames are made.
  @derived [:query, :type, :node_sname, :node_basename, :node_name]
  @enforce_keys [:sources, :templates, :basename, :basenames]

  defstruct @enforce_keys ++ Map.to_list(Map.drop(Options.defaults(@schema), @derived))

  @typedoc "A query with one of its record types. Each source is looked up separately."
  @type source :: {query :: String.t(), Dns.type()}

  @typedoc """
  The options. `:basenames` has the basenames of each query. In this list, `nil` means `:basename`, or if that is `nil`
  too, the basename of this node.
  """
  @type t :: %__MODULE__{
          sources: [source],
          templates: %{Dns.type() => NodeName.template()},
          basename: String.t() | nil,
          basenames: %{(query :: String.t()) => [String.t() | nil]},
          ports: :name | :srv,
          poll_interval: pos_integer,
          min_interval: pos_integer,
          keep: non_neg_integer,
          prune: pos_integer | nil,
          links: :all | 0..1_024,
          release_links: boolean,
          max_nodes: pos_integer,
          max_new_names: pos_integer,
          nameservers: [String.t()],
          lookup_timeout: pos_integer,
          lookup_attempts: pos_integer | nil,
          allow: [String.t()],
          dnssec: boolean,
          trust_anchors: Path.t() | nil,
          ca_file: Path.t() | nil,
          randomize_case: boolean,
          connect_timeout: pos_integer,
          max_connects: pos_integer,
          dns_client: module | nil,
          topology: atom,
          log_level: Logger.level() | :none,
          connect: mfa_tuple,
          disconnect: mfa_tuple,
          list_nodes: mfa_tuple
        }

  @typep mfa_tuple :: {module, atom, [term]}

  @doc """
  Returns the configuration of a topology, from libcluster's `Cluster.Strategy.State` or from the options
  of a plain child.

  Raises `ArgumentError` for an invalid option.
  """
  @spec new!(map | keyword) :: t
  def new!(%{__struct__: Cluster.Strategy.State} = state) do
    unless Keyword.keyword?(state.config) do
      refuse!([topology: state.topology], :config, "a keyword list", state.config)
    end

    state
    |> Map.take([:topology, :connect, :disconnect, :list_nodes])
    |> Enum.reject(fn {_key, value} -> value == nil end)
    |> then(&Keyword.merge(state.config, &1))
    |> new!()
  end

  def new!(options) do
    _ = if Keyword.keyword?(options), do: refuse_renamed!(options)
    options = Options.validate!(options, @schema, owner(options))
    {derived, rest} = Map.split(options, @derived)

    if rest.dns_client && derived.type != [:srv] do
      refuse!(options, :type, ":srv if :dns_client is given", derived.type)
    end

    if rest.dns_client && rest.allow != [] do
      expected = "[] if :dns_client is given, because the records of a client have no addresses"
      refuse!(options, :allow, expected, rest.allow)
    end

    if rest.dns_client && rest.dnssec do
      expected =
        "false if :dns_client is given, because the records of a client are not validated"

      refuse!(options, :dnssec, expected, true)
    end

    if rest.ports == :srv and :srv not in derived.type do
      refuse!(options, :ports, ":name if :type has no :srv", :srv)
    end

    if rest.trust_anchors && not rest.dnssec do
      refuse!(options, :dnssec, "true if :trust_anchors is given", false)
    end

    rest = %{
      rest
      | min_interval: min_interval!(rest, options),
        release_links: release_links!(rest, options)
    }

    templates = Map.new(derived.type, &{&1, template!(&1, derived, rest.ports, options)})

    struct!(
      __MODULE__,
      Map.merge(rest, %{
        sources:
          for({_, query} <- derived.query, type <- derived.type, uniq: true, do: {query, type}),
        templates: templates,
        basename: basename!(derived, options),
        basenames: Enum.group_by(derived.query, &elem(&1, 1), &elem(&1, 0))
      })
    )
  end

  @doc "Returns how many connected nodes are enough for a caller that asks for `nodes`: at most the number in `:links`."
  @spec nodes_to_wait_for(t, non_neg_integer) :: non_neg_integer
  def nodes_to_wait_for(%__MODULE__{links: :all}, nodes), do: nodes
  def nodes_to_wait_for(%__MODULE__{links: links}, nodes), do: min(nodes, links)

  @doc "Returns the documentation of all options as a Markdown list."
  @spec docs() :: String.t()
  def docs, do: Options.docs(@schema)

  @doc "Returns the options of `Caravan.Dns` that do not depend on the type of the lookup."
  @spec dns_options(t) :: [Dns.option()]
  def dns_options(%__MODULE__{} = config) do
    same = config |> Map.take(@dns_options) |> Map.to_list()
    [timeout: config.lookup_timeout, attempts: config.lookup_attempts] ++ same
  end

  @doc "Returns the values of `{name}` in the names of the nodes of a source. `self` is the name of this node."
  @spec basenames(t, source, self :: String.t()) :: [String.t()]
  def basenames(%__MODULE__{} = config, {query, type}, self) do
    for basename <- config.basenames[query], uniq: true do
      basename || config.basename || NodeName.own_basename(self, config.templates[type])
    end
  end

  @doc """
  Returns whether the node names of a source depend on the name of this node. Then the source is not looked up before
  this node has a name.
  """
  @spec own_basename?(t, source) :: boolean
  def own_basename?(%__MODULE__{} = config, {query, type}) do
    nil in config.basenames[query] and config.basename == nil and :name in config.templates[type]
  end

  ## Options that depend on each other

  defp min_interval!(%{min_interval: nil, poll_interval: poll}, _options),
    do: min(@min_interval, div(poll, 2))

  defp min_interval!(%{min_interval: min, poll_interval: poll}, _options) when min <= poll,
    do: min

  defp min_interval!(%{min_interval: min, poll_interval: poll}, options) do
    refuse!(options, :min_interval, "at most :poll_interval, which is #{poll}", min)
  end

  defp release_links!(%{links: :all, release_links: given}, options) when given != nil do
    expected = "a number such as 3, because :release_links is given (or leave :release_links out)"
    refuse!(options, :links, expected, :all)
  end

  defp release_links!(%{links: links, max_nodes: most}, options)
       when is_integer(links) and links > most do
    expected = "at most :max_nodes, which is #{most} (give fewer links, or a larger :max_nodes)"
    refuse!(options, :links, expected, links)
  end

  defp release_links!(%{release_links: given}, _options), do: given != false

  defp template!(type, derived, ports, options) do
    text = derived.node_name || NodeName.default_template(type, ports)

    case NodeName.parse_template(text, type) do
      {:ok, template} -> template
      {:error, expected} -> refuse!(options, :node_name, expected, text)
    end
  end

  defp basename!(derived, options) do
    case {derived.node_sname, derived.node_basename} do
      {name, nil} -> name
      {nil, name} -> name
      {name, name} -> name
      {_, other} -> refuse!(options, :node_basename, "equal to :node_sname, or left out", other)
    end
  end

  defp refuse_renamed!(options) do
    for {key, value} <- options, advice = @renamed[key] do
      raise ArgumentError,
            "#{owner(options)}: unknown option #{inspect(key)} (given #{inspect(value)}). #{advice}"
    end
  end

  @spec refuse!(term, atom, String.t(), term) :: no_return
  defp refuse!(options, key, expected, got) do
    raise ArgumentError,
          "#{owner(options)}: expected #{inspect(key)} to be #{expected}, got: #{inspect(got)}"
  end

  defp owner(options) do
    topology = if Keyword.keyword?(options) or is_map(options), do: options[:topology]

    "Caravan.Cluster.DnsStrategy" <>
      if(topology, do: " (topology #{inspect(topology)})", else: "")
  end

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
         "a DNS name such as \"_app._tcp.example.com\", {basename, name}, a list of them, or :ignore"}
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
