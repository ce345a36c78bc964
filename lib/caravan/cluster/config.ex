defmodule Caravan.Cluster.Config do
  # Pure. The options of one topology as a struct, after the checks of options that depend on each other.
  @moduledoc false

  alias Caravan.Cluster.Config.Migration
  alias Caravan.Cluster.Config.Schema
  alias Caravan.Cluster.NodeName
  alias Caravan.Dns
  alias Caravan.Options

  # Default of :min_interval in milliseconds, unless half of :poll_interval is less.
  @min_interval 1_000

  @schema Schema.schema()

  # The options that Caravan.Dns has under the same names.
  @dns_options for {name, _option} <- @schema, Keyword.has_key?(Dns.schema(), name), do: name

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
    for {key, value} <- options, advice = Migration.advice(key) do
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
end
