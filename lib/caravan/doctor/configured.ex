defmodule Caravan.Doctor.Configured do
  # Effect. The topologies in the configuration of the applications of this VM.
  @moduledoc false

  alias Caravan.Cluster.Config

  @strategy Caravan.Cluster.DnsStrategy

  @typedoc "An application and a role in its configuration, or `nil` if it has no roles."
  @type place :: {app :: atom, role :: atom}

  @typedoc "A topology in the configuration of an application."
  @type t :: {place, Config.t()}

  @doc """
  Returns the topologies of libcluster, and those of other applications whose options are where `mix caravan.gen.release` puts
  them: `config :app, Caravan.Cluster.DnsStrategy, query: …`, or with roles, `core: [query: …], edge: [query: …]`.

  Raises `ArgumentError` if one of them has a wrong option.
  """
  @spec topologies() :: [t]
  def topologies do
    load()
    libcluster() ++ own()
  end

  # `bin/app eval` loads no application. The environment of an application is known only after it was loaded.
  defp load do
    _ = Application.load(:libcluster)

    if System.get_env("RELEASE_COMMAND") == "eval",
      do: Enum.each(in_release(), &Application.load/1)
  end

  # The applications in the file of the release (rel(4)).
  defp in_release do
    with [root, vsn, name] <-
           Enum.map(~w(RELEASE_ROOT RELEASE_VSN RELEASE_NAME), &System.get_env/1),
         true <- root != nil and vsn != nil and name != nil,
         {:ok, [{:release, _release, _erts, apps}]} <-
           :file.consult(Path.join([root, "releases", vsn, name <> ".rel"])) do
      Enum.map(apps, &elem(&1, 0))
    else
      _ -> []
    end
  end

  defp libcluster do
    for {topology, spec} <- Application.get_env(:libcluster, :topologies, []),
        spec[:strategy] == @strategy do
      mfas = Keyword.take(spec, [:connect, :disconnect, :list_nodes])
      {{:libcluster, nil}, Config.new!((spec[:config] || []) ++ [topology: topology] ++ mfas)}
    end
  end

  defp own do
    for {app, _description, _version} <- Application.loaded_applications(),
        [_ | _] = options <- [Application.get_env(app, @strategy)],
        {role, options} <- each(options),
        do: {{app, role}, Config.new!(options)}
  end

  defp each(options), do: if(roles?(options), do: options, else: [{nil, options}])

  defp roles?(options),
    do: Enum.all?(options, &match?({_role, [{option, _value} | _]} when is_atom(option), &1))
end
