defmodule Caravan.Cluster.Config do
  # Options of Caravan.Cluster.DnsStrategy: checks, defaults and docs in one place.
  @moduledoc false

  alias Caravan.Cluster.NodeName
  alias Caravan.Dns
  alias Caravan.Options

  @types [:srv, :a, :aaaa]

  # The behaviour itself stands as a client in Caravan 1.0's example, and InetRes was its default:
  # both mean the built-in client.
  @builtin_clients [nil, Caravan.DnsClient, Caravan.DnsClient.InetRes]

  @dns_schema Dns.schema()

  @schema [
    query: [
      check: &__MODULE__.check_query/1,
      type: "string, or list of strings",
      doc: "the names to look up; the cluster is the union of the answers"
    ],
    type: [
      check: &__MODULE__.check_type/1,
      default: [:srv],
      type: "`:srv`, `:a`, `:aaaa`, or a list of them",
      doc: "the records to ask for, of every query"
    ],
    node_sname: [
      check: &__MODULE__.check_basename/1,
      default: nil,
      type: "string",
      doc: "what stands for `{name}` in `:node_name`; required where that is used"
    ],
    node_basename: [
      check: &__MODULE__.check_basename/1,
      default: nil,
      type: "string",
      doc: "the name that libcluster's own strategies have for `:node_sname`"
    ],
    node_name: [
      check: &__MODULE__.check_template/1,
      default: nil,
      type: "template",
      doc:
        "how a record becomes a node name; `{name}`, and for SRV `{port}`, `{host}`, `{host_label}` " <>
          "(the host up to its first dot), for A and AAAA `{ip}`. `nil`: " <>
          "`\"{name}-{port}@{host}\"` for SRV, `\"{name}@{ip}\"` for A and AAAA"
    ],
    poll_interval: [
      check: 100..3_600_000,
      default: 5_000,
      type: "milliseconds, 100 to 3,600,000",
      doc: "from the start of one round of lookups to the start of the next"
    ],
    nameservers: @dns_schema[:nameservers],
    lookup_timeout: @dns_schema[:timeout],
    lookup_attempts: @dns_schema[:attempts],
    connect_timeout: [
      check: 100..60_000,
      default: 5_000,
      type: "milliseconds, 100 to 60,000",
      doc: "how long one connect may take before the next node in line has its turn"
    ],
    max_connects: [
      check: 1..1_024,
      default: 32,
      type: "1 to 1,024",
      doc: "connects under way at once"
    ],
    dns_client: [
      check: &__MODULE__.check_client/1,
      default: nil,
      type: "module, a `Caravan.DnsClient`",
      doc: "asks in place of Caravan's own resolver, for SRV-like records"
    ],
    topology: [
      check: &__MODULE__.check_topology/1,
      default: :caravan,
      type: "atom",
      doc: "the name in log lines; under libcluster, the topology's own"
    ],
    connect: [
      check: &__MODULE__.check_mfa/1,
      default: {:net_kernel, :connect_node, []},
      type: "`{module, function, arguments}`",
      doc: "connects a node, which comes after the arguments; true: it is connected"
    ],
    disconnect: [
      check: &__MODULE__.check_mfa/1,
      default: {:erlang, :disconnect_node, []},
      type: "`{module, function, arguments}`",
      doc: "as libcluster has it; Caravan disconnects nobody, so it is not called"
    ],
    list_nodes: [
      check: &__MODULE__.check_mfa/1,
      default: {:erlang, :nodes, [:connected]},
      type: "`{module, function, arguments}`",
      doc: "lists the connected nodes"
    ]
  ]

  # Options that become :sources, :templates and :basename.
  @derived [:query, :type, :node_sname, :node_basename, :node_name]
  @enforce_keys [:sources, :templates, :basename] ++ (Keyword.keys(@schema) -- @derived)
  defstruct @enforce_keys

  @typedoc "One lookup of a round."
  @type source :: {query :: String.t(), Dns.type()}

  @type t :: %__MODULE__{
          sources: [source],
          templates: %{Dns.type() => NodeName.template()},
          basename: String.t() | nil,
          poll_interval: pos_integer,
          nameservers: [String.t()],
          lookup_timeout: pos_integer,
          lookup_attempts: pos_integer,
          connect_timeout: pos_integer,
          max_connects: pos_integer,
          dns_client: module | nil,
          topology: atom,
          connect: mfa_tuple,
          disconnect: mfa_tuple,
          list_nodes: mfa_tuple
        }

  @typep mfa_tuple :: {module, atom, [term]}

  @doc """
  The configuration of a topology: from libcluster's `Cluster.Strategy.State`, or from the options of
  a plain child. Raises `ArgumentError`.
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
      refuse!(options, :type, ":srv where :dns_client is given", derived.type)
    end

    templates = Map.new(derived.type, &{&1, template!(&1, derived, options)})

    struct!(
      __MODULE__,
      Map.merge(rest, %{
        sources: for(query <- derived.query, type <- derived.type, do: {query, type}),
        templates: templates,
        basename: basename!(derived, templates, options)
      })
    )
  end

  @doc "All options as a Markdown table."
  @spec docs() :: String.t()
  def docs, do: Options.docs(@schema)

  @doc "The part of the options that `Caravan.Dns` takes."
  @spec dns_options(t) :: [Dns.option()]
  def dns_options(%__MODULE__{} = config) do
    [
      nameservers: config.nameservers,
      timeout: config.lookup_timeout,
      attempts: config.lookup_attempts
    ]
  end

  ## Options that depend on each other

  defp template!(type, derived, options) do
    text = derived.node_name || NodeName.default_template(type)

    case NodeName.parse_template(text, type) do
      {:ok, template} -> template
      {:error, expected} -> refuse!(options, :node_name, expected, text)
    end
  end

  defp basename!(derived, templates, options) do
    case {derived.node_sname, derived.node_basename} do
      {nil, nil} ->
        if Enum.any?(templates, fn {_type, template} -> :name in template end) do
          refuse!(options, :node_sname, "the node name up to its port, such as \"app\"", nil)
        end

      {name, nil} ->
        name

      {nil, name} ->
        name

      {name, name} ->
        name

      {_sname, basename} ->
        refuse!(options, :node_basename, "left out where :node_sname is given", basename)
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

  ## Checks

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

    if types != [] and types -- @types == [],
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
  def check_topology(topology) when is_atom(topology) and topology != nil, do: {:ok, topology}
  def check_topology(_other), do: {:error, "an atom"}

  @doc false
  @spec check_mfa(term) :: Options.checked()
  def check_mfa({module, function, arguments} = mfa)
      when is_atom(module) and is_atom(function) and is_list(arguments),
      do: {:ok, mfa}

  def check_mfa(_other), do: {:error, "{module, function, arguments}"}
end
