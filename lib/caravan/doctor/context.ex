defmodule Caravan.Doctor.Context do
  # Effect. What the doctor looks at: the node of this VM, or in `bin/app eval` the node that `bin/app start` would
  # start, and its topologies.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.DnsStrategy.Status
  alias Caravan.Cluster.NodeName
  alias Caravan.Cluster.Topologies
  alias Caravan.Doctor.Configured
  alias Caravan.Doctor.Lookups
  alias Caravan.Native

  @enforce_keys [:mode, :name, :long, :topologies]
  defstruct @enforce_keys ++ [ignored: [], stopped: [], lookups: [], endpoints: %{}]

  @typedoc """
    * `:mode` - `:node`: this VM is a node. `:eval`: this VM is not alive, and runs the command `eval` of a release. `:project`:
      this VM runs Mix in a project. `:vm`: none of these;
    * `:name` - the name of the node, or `nil`;
    * `:long` - whether the node has a long name, or `nil` if it has no name;
    * `:topologies` - the configurations of the topologies that are known and look something up;
    * `:ignored` - the names of the topologies that look up nothing, with `query: :ignore`;
    * `:stopped` - the topologies that the configuration of an application has, but that do not run in this VM;
    * `:lookups` - what the lookups of the topologies have found;
    * `:endpoints` - the nodes that follow from the lookups, by topology.
  """
  @type t :: %__MODULE__{
          mode: :node | :eval | :project | :vm,
          name: String.t() | nil,
          long: boolean | nil,
          topologies: [Config.t()],
          ignored: [topology :: atom],
          stopped: [{Configured.place(), topology :: atom}],
          lookups: [Lookups.t()],
          endpoints: %{(topology :: atom) => %{String.t() => Endpoint.t()}}
        }

  @doc """
  Looks at this VM.

  With the option `strategy`, its topology is the only one. Without it, the topologies are those whose strategy runs, and those
  that the configuration of an application has, but that do not run. Raises `ArgumentError` if a topology has a wrong option, or
  if no topology has the name `topology`. Without Caravan's library, which checks options such as `:nameservers`, there are no
  topologies, and the check `node.nif` fails.
  """
  @spec new(%{
          :topology => atom,
          :strategy => keyword | nil,
          optional(:project) => boolean,
          optional(atom) => term
        }) :: t
  def new(options) do
    {mode, name, long} = if options[:project], do: {:project, nil, nil}, else: node_name()
    found = if Native.load() == :ok, do: found(options), else: []

    {ignored, topologies} =
      Enum.split_with(found, fn {_place, config} -> config.sources == [] end)

    %__MODULE__{
      mode: mode,
      name: name,
      long: long,
      topologies: for({_place, config} <- topologies, do: config),
      ignored: for({_place, config} <- ignored, do: config.topology),
      stopped: for({place, config} <- topologies, place != nil, do: {place, config.topology})
    }
  end

  @doc "Returns the host of the node's name."
  @spec host(t) :: String.t()
  def host(%__MODULE__{name: name}), do: NodeName.host(name)

  @doc "Returns the name of a topology as text."
  @spec topology_name(Config.t()) :: String.t()
  def topology_name(%Config{topology: topology}), do: Atom.to_string(topology)

  @doc "Looks up the queries of the topologies. All lookups together take `timeout` milliseconds at most."
  @spec look_up(t, timeout :: pos_integer) :: t
  def look_up(%__MODULE__{} = context, timeout) do
    self = context.name || "nonode@nohost"
    lookups = Lookups.run(context.topologies, self, timeout)
    %{context | lookups: lookups, endpoints: Lookups.endpoints(lookups)}
  end

  @doc "Returns the nodes that the answers of a topology name."
  @spec endpoints(t, Config.t()) :: %{String.t() => Endpoint.t()}
  def endpoints(%__MODULE__{endpoints: endpoints}, %Config{topology: topology}),
    do: Map.get(endpoints, topology, %{})

  @doc "Returns the nodes that the answers of a topology name, and the members that its strategy knows."
  @spec members(t, Config.t()) :: [String.t()]
  def members(%__MODULE__{} = context, config),
    do: Enum.uniq(Map.keys(endpoints(context, config)) ++ status(config, :members))

  @doc "Returns a part of the status of a topology, as a list. If its strategy does not run, the list is empty."
  @spec status(Config.t(), key :: atom) :: list
  def status(%Config{topology: topology}, key) do
    topology
    |> Topologies.names()
    |> Enum.flat_map(fn name ->
      case Status.read(name) do
        {:ok, status} -> List.wrap(status[key])
        {:error, :not_running} -> []
      end
    end)
  end

  defp node_name do
    cond do
      # net_kernel may hang, so it is not asked.
      Node.alive?() -> {:node, NodeAtom.to_name(node()), NodeName.long?(NodeAtom.to_name(node()))}
      System.get_env("RELEASE_COMMAND") == "eval" -> release_name()
      true -> {:vm, nil, nil}
    end
  end

  # The script of the release has set these variables, from its environment and rel/env.sh.eex.
  defp release_name do
    case System.get_env("RELEASE_DISTRIBUTION") do
      "name" -> {:eval, with_host(System.get_env("RELEASE_NODE"), &:net_adm.localhost/0), true}
      "sname" -> {:eval, with_host(System.get_env("RELEASE_NODE"), &short_host/0), false}
      _none -> {:eval, nil, nil}
    end
  end

  # OTP adds the host to a name that has none.
  defp with_host(name, host), do: if(name =~ "@", do: name, else: "#{name}@#{host.()}")

  defp short_host do
    {:ok, host} = :inet.gethostname()
    host |> List.to_string() |> String.split(".") |> hd()
  end

  defp found(%{topology: topology, strategy: nil}), do: only(known(), topology)

  defp found(%{topology: topology, strategy: strategy}),
    do: only([{nil, Config.new!(strategy)}], topology)

  # The place is nil for a topology that runs.
  defp known do
    running = for name <- Topologies.all(), config = Status.config(name), do: {nil, config}

    running ++
      Enum.reject(Configured.topologies(), fn {place, config} ->
        Enum.any?(running, fn {nil, other} -> same?(place, config, other) end)
      end)
  end

  # A strategy may get its name in the code of the supervisor, and its other options from the configuration. A topology of
  # libcluster always has the name of the configuration.
  defp same?({:libcluster, _role}, config, running), do: config.topology == running.topology

  defp same?(_place, config, running),
    do: config.topology == running.topology or config.sources == running.sources

  defp only(topologies, nil), do: topologies

  defp only(topologies, topology) do
    case Enum.filter(topologies, fn {_place, config} -> config.topology == topology end) do
      [] ->
        known =
          Enum.map_join(topologies, ", ", fn {_place, config} -> inspect(config.topology) end)

        known = if known == "", do: "there is none", else: "one of: #{known}"

        raise ArgumentError,
              "Caravan.doctor: expected :topology to be a topology that this VM knows (#{known}), got: " <>
                "#{inspect(topology)}. Give the options of its strategy as strategy: [query: …]"

      found ->
        found
    end
  end
end
