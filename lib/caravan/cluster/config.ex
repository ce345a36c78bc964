defmodule Caravan.Cluster.Config do
  # Pure. The options of Caravan.Cluster.DnsStrategy, as a schema and as a struct.
  @moduledoc false

  alias Caravan.Cluster.NodeName
  alias Caravan.Dns
  alias Caravan.Options

  @types [:srv, :a, :aaaa]

  # Values of :dns_client that mean Caravan's own resolver. The example of Caravan 1.0 gives the behaviour
  # itself, and InetRes was its default.
  @builtin_clients [nil, Caravan.DnsClient, Caravan.DnsClient.InetRes]

  @dns_schema Dns.schema()

  # The levels of OTP (logger:level/0), and the one that turns logging off.
  @levels [:debug, :info, :notice, :warning, :error, :critical, :alert, :emergency, :none]

  # Default of :min_interval in milliseconds, unless half of :poll_interval is less.
  @min_interval 1_000

  # Characters of a topology. The registered name of its strategy is longer, and an atom has at most 255 (ERTS,
  # MAX_ATOM_CHARACTERS).
  @max_topology 200

  @schema [
    query: [
      type: {:custom, __MODULE__, :check_query, []},
      type_doc: "string, or list of strings",
      required: true,
      doc:
        "The DNS names to look up. The members of the cluster are the nodes that any of the answers contains."
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
        "The value of the placeholder `{name}` in `:node_name`. Required if `:node_name` has that placeholder."
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
          "again when its TTL is over."
    ],
    min_interval: [
      type: {:or, [{:in, 50..3_600_000}, nil]},
      type_doc: "milliseconds",
      default: nil,
      doc:
        "The shortest time from an answer to the next lookup, however short the TTL is. Jitter can shorten " <>
          "it by a fifth. The wait after the first answer is random and can be shorter. Defaults to " <>
          "`1_000`, or to half of `:poll_interval` if that is less."
    ],
    keep: [
      type: {:in, 0..86_400_000},
      type_doc: "milliseconds",
      default: 300_000,
      doc: "How long a node stays a member after the last answer that contained it."
    ],
    prune: [
      type: {:custom, __MODULE__, :check_prune, []},
      type_doc: "`[after: 1..1_000]`",
      default: nil,
      doc:
        "Disconnects a node that is no longer a member and was missing from this number of consecutive " <>
          "complete answers of every query. This is rarely worth it, see \"Pruning\". By default, Caravan " <>
          "disconnects no node."
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
          "100 ms no longer counts, so that dead addresses do not delay other nodes."
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
          "`:prune`."
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

  # The options from which :sources, :templates and :basename are made.
  @derived [:query, :type, :node_sname, :node_basename, :node_name]
  @enforce_keys [:sources, :templates, :basename]

  defstruct @enforce_keys ++ Map.to_list(Map.drop(Options.defaults(@schema), @derived))

  @typedoc "A query with one of its record types. Each source is looked up separately."
  @type source :: {query :: String.t(), Dns.type()}

  @type t :: %__MODULE__{
          sources: [source],
          templates: %{Dns.type() => NodeName.template()},
          basename: String.t() | nil,
          ports: :name | :srv,
          poll_interval: pos_integer,
          min_interval: pos_integer,
          keep: non_neg_integer,
          prune: pos_integer | nil,
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
    options = Options.validate!(options, @schema, owner(options))
    {derived, rest} = Map.split(options, @derived)

    if rest.dns_client && derived.type != [:srv] do
      refuse!(options, :type, ":srv if :dns_client is given", derived.type)
    end

    if rest.ports == :srv and :srv not in derived.type do
      refuse!(options, :ports, ":name if :type has no :srv", :srv)
    end

    if rest.trust_anchors && not rest.dnssec do
      refuse!(options, :dnssec, "true if :trust_anchors is given", false)
    end

    rest = %{rest | min_interval: min_interval!(rest, options)}
    templates = Map.new(derived.type, &{&1, template!(&1, derived, rest.ports, options)})

    struct!(
      __MODULE__,
      Map.merge(rest, %{
        sources: for(query <- derived.query, type <- derived.type, do: {query, type}),
        templates: templates,
        basename: basename!(derived, templates, options)
      })
    )
  end

  @doc "Returns the documentation of all options as a Markdown list."
  @spec docs() :: String.t()
  def docs, do: Options.docs(@schema)

  @doc "Returns the options of `Caravan.Dns` that do not depend on the type of the lookup."
  @spec dns_options(t) :: [Dns.option()]
  def dns_options(%__MODULE__{} = config) do
    same = config |> Map.take(@dns_options) |> Map.to_list()
    [timeout: config.lookup_timeout, attempts: config.lookup_attempts] ++ same
  end

  ## Options that depend on each other

  defp min_interval!(%{min_interval: nil, poll_interval: poll}, _options),
    do: min(@min_interval, div(poll, 2))

  defp min_interval!(%{min_interval: min, poll_interval: poll}, _options) when min <= poll,
    do: min

  defp min_interval!(%{min_interval: min, poll_interval: poll}, options) do
    refuse!(options, :min_interval, "at most :poll_interval, which is #{poll}", min)
  end

  defp template!(type, derived, ports, options) do
    text = derived.node_name || NodeName.default_template(type, ports)

    case NodeName.parse_template(text, type) do
      {:ok, template} -> template
      {:error, expected} -> refuse!(options, :node_name, expected, text)
    end
  end

  defp basename!(derived, templates, options) do
    case {derived.node_sname, derived.node_basename} do
      {nil, nil} ->
        if Enum.any?(templates, fn {_type, template} -> :name in template end) do
          refuse!(options, :node_sname, "the value of {name} in :node_name, such as \"app\"", nil)
        end

      {name, nil} ->
        name

      {nil, name} ->
        name

      {name, name} ->
        name

      {_sname, basename} ->
        refuse!(options, :node_basename, "equal to :node_sname, or left out", basename)
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
  def check_query(query) do
    queries = List.wrap(query)

    if queries != [] and not List.improper?(queries) and
         Enum.all?(queries, &(is_binary(&1) and &1 != "")),
       do: {:ok, Enum.uniq(queries)},
       else: {:error, "a DNS name such as \"_app._tcp.example.com\", or a list of them"}
  end

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
