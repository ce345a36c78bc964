defmodule Caravan.Gen.Options do
  # Pure. The options of `mix caravan.gen.release`.
  @moduledoc false

  alias Caravan.Cluster.NodeName
  alias Caravan.Gen.Platform

  @switches [
    platform: :string,
    query: :string,
    sname: :string,
    port: :string,
    ipv6: :boolean,
    tls: :boolean,
    role: :keep,
    release: :string,
    yes: :boolean,
    dry_run: :boolean
  ]

  @default_port 4370

  @enforce_keys [:platform, :app, :release, :build, :sname, :port, :rel]
  defstruct @enforce_keys ++
              [
                umbrella?: false,
                query: nil,
                roles: [],
                ipv6: false,
                tls: false,
                yes: false,
                dry_run: false
              ]

  @typedoc """
  `rel` is the directory of the templates of the release, and `build` is the command that builds the release. If `query` is `nil`,
  the query of the platform is used. In the root of an umbrella, `app` is the first application of the release. `roles` is empty,
  or has at least two roles. The first one is the role of the core nodes, to which all other nodes connect.
  """
  @type t :: %__MODULE__{
          platform: Platform.t(),
          app: String.t(),
          release: String.t(),
          build: String.t(),
          sname: String.t(),
          port: :inet.port_number(),
          rel: Path.t(),
          umbrella?: boolean,
          query: String.t() | nil,
          roles: [role],
          ipv6: boolean,
          tls: boolean,
          yes: boolean,
          dry_run: boolean
        }

  @typedoc "What the nodes that run one release do, such as `core` or `edge`."
  @type role :: String.t()

  @typedoc "What the task needs to know of the Mix project: its application, its `:releases`, and whether it is an umbrella."
  @type project :: %{app: atom, releases: keyword, umbrella?: boolean}

  @doc "Returns the options of a command line, or what was expected, what came, and how to mend it."
  @spec parse([String.t()], project) :: {:ok, t} | {:error, String.t()}
  def parse(argv, project) do
    with {:ok, given} <- switches(argv),
         {:ok, platform} <- platform(given[:platform]),
         {:ok, release, settings} <- release(given[:release], project),
         {:ok, sname} <- sname(given[:sname] || release),
         {:ok, port} <- port(given[:port], platform),
         {:ok, query} <- dns_name(given[:query], platform),
         {:ok, roles} <- role_names(Keyword.get_values(given, :role)),
         :ok <- ipv6(given[:ipv6], platform) do
      {:ok,
       %__MODULE__{
         platform: platform,
         app: to_string(project.app || first_application(settings) || release),
         umbrella?: project.umbrella?,
         release: release,
         build: build(release, project),
         sname: sname,
         port: port,
         rel: Keyword.get(settings, :rel_templates_path, "rel"),
         query: query,
         roles: roles,
         ipv6: platform.ipv6 or Keyword.get(given, :ipv6, false),
         tls: Keyword.get(given, :tls, false),
         yes: Keyword.get(given, :yes, false),
         dry_run: Keyword.get(given, :dry_run, false)
       }}
    end
  end

  @doc "Returns whether the port is the default of Caravan, which no setting has to name."
  @spec default_port?(t) :: boolean
  def default_port?(%__MODULE__{port: port}), do: port == @default_port

  @doc "Returns the roles, or `[nil]` if all nodes do the same."
  @spec roles(t) :: [role | nil]
  def roles(%__MODULE__{roles: []}), do: [nil]
  def roles(%__MODULE__{roles: roles}), do: roles

  @doc "Returns the name of the service of the nodes of a role. Such names have no underscores."
  @spec service(t, role | nil) :: String.t()
  def service(%__MODULE__{sname: sname}, role \\ nil),
    do: String.replace(sname, "_", "-") <> if(role, do: "-" <> role, else: "")

  @doc "Returns the name to look up for the nodes of a role, in which the shell replaces variables."
  @spec query(t, role | nil) :: String.t()
  def query(%__MODULE__{query: nil, platform: %Platform{group: group}}, role)
      when role != nil and group != nil,
      do: String.replace(group, "ROLE", role)

  def query(%__MODULE__{query: nil, platform: platform} = options, role),
    do: String.replace(platform.query, "SERVICE", service(options, role))

  def query(%__MODULE__{query: query}, nil), do: query

  def query(%__MODULE__{query: query}, role),
    do: String.replace(query, ~r/\A[^.]*/, "\\0-#{role}")

  @doc "Returns the environment variable that has the name to look up for the nodes of a role."
  @spec variable(role | nil) :: String.t()
  def variable(nil), do: "CARAVAN_QUERY"
  def variable(role), do: "CARAVAN_QUERY_" <> String.upcase(role)

  defp switches(argv) do
    case OptionParser.parse(argv, strict: @switches) do
      {given, [], []} ->
        {:ok, given}

      {_given, rest, invalid} ->
        wrong = rest ++ for {switch, value} <- invalid, do: String.trim("#{switch} #{value}")

        error(
          "expected only the options " <> Enum.map_join(@switches, ", ", &switch/1),
          Enum.join(wrong, " "),
          "See `mix help caravan.gen.release`."
        )
    end
  end

  defp switch({name, _type}), do: "--" <> (name |> to_string() |> String.replace("_", "-"))

  defp platform(name) do
    case Platform.fetch(name) do
      {:ok, platform} ->
        {:ok, platform}

      :error ->
        names = Enum.join(Platform.names(), ", ")
        error("--platform: expected one of #{names}", name, "Use plain for hosts of your own.")
    end
  end

  # Without `:releases` in mix.exs, `mix release` builds one release with the name of the application.
  defp release(given, %{releases: []} = project) do
    cond do
      project.umbrella? ->
        error(
          "expected :releases in the mix.exs of an umbrella project",
          "none",
          "Add a release there, or run the task in the directory of the application that has one."
        )

      given in [nil, to_string(project.app)] ->
        {:ok, to_string(project.app), []}

      true ->
        no_release(given, [project.app])
    end
  end

  defp release(nil, %{releases: [{name, settings}]}),
    do: {:ok, to_string(name), settings(settings)}

  defp release(given, %{releases: releases}) do
    case Enum.find(releases, fn {name, _settings} -> to_string(name) == given end) do
      {name, settings} -> {:ok, to_string(name), settings(settings)}
      nil -> no_release(given, Keyword.keys(releases))
    end
  end

  # In an umbrella, `mix release` requires the setting :applications.
  defp first_application(settings) do
    case settings[:applications] do
      [{app, _mode} | _] -> app
      _ -> nil
    end
  end

  # Without `:releases` in mix.exs, `mix release NAME` knows no release.
  defp build(_release, %{releases: []}), do: "mix release"
  defp build(release, _project), do: "mix release #{release}"

  # Mix also takes a function that returns the settings. It may do anything, so it is not called here.
  defp settings(settings) when is_list(settings), do: settings
  defp settings(_function), do: []

  defp no_release(given, names) do
    error(
      "--release: expected one of #{Enum.join(names, ", ")}",
      given,
      "These are the releases of mix.exs."
    )
  end

  defp sname(name) do
    if NodeName.basename?(name),
      do: {:ok, name},
      else:
        error(
          "--sname: expected ASCII letters, digits, - and _",
          name,
          "Leave out the @ and what comes after it: rel/env.sh.eex finds the host when the node starts."
        )
  end

  defp port(nil, _platform), do: {:ok, @default_port}

  defp port(text, %{port: :dynamic, name: name}) do
    error(
      "--port: expected no port for the platform #{name}",
      text,
      "The job gets a port at its start."
    )
  end

  defp port(text, _platform) do
    case Integer.parse(text) do
      {port, ""} when port in 1..65_535 ->
        {:ok, port}

      _ ->
        error(
          "--port: expected a port from 1 to 65535",
          text,
          "Leave the option out for #{@default_port}."
        )
    end
  end

  defp dns_name(nil, %{query: nil, name: name}) do
    error(
      "--query: expected a DNS name for the platform #{name}",
      nil,
      "Add --query app.example.com, the name that has an A record for each node."
    )
  end

  defp dns_name(nil, _platform), do: {:ok, nil}

  defp dns_name(text, _platform) do
    if text =~ ~r/\A[0-9A-Za-z_.\-]+\z/,
      do: {:ok, text},
      else:
        error(
          "--query: expected a DNS name of ASCII letters, digits, -, _ and .",
          text,
          "Several queries can be set in config/runtime.exs."
        )
  end

  # A role is part of a DNS name, of a variable of the shell, and of an atom.
  defp role_names(roles) do
    cond do
      roles == [] or
          (length(roles) > 1 and roles == Enum.uniq(roles) and Enum.all?(roles, &role?/1)) ->
        {:ok, roles}

      wrong = Enum.find(roles, &(not role?(&1))) ->
        error(
          "--role: expected lower-case ASCII letters and digits",
          wrong,
          "Try --role core --role edge."
        )

      true ->
        error(
          "--role: expected two roles or more, each once",
          Enum.join(roles, " "),
          "Try --role core --role edge. The first one is that of the nodes to which all others connect."
        )
    end
  end

  defp role?(role), do: role =~ ~r/\A[a-z][a-z0-9]*\z/

  # The name of a node on Nomad has the address as eight hexadecimal digits.
  defp ipv6(true, %{port: :dynamic, name: name}) do
    error(
      "--ipv6: expected no such option for the platform #{name}",
      "--ipv6",
      "Leave it out, and give the nodes IPv4 addresses."
    )
  end

  defp ipv6(_given, _platform), do: :ok

  defp error(expected, got, mend), do: {:error, "#{expected}, got: #{got || "nothing"}. #{mend}"}
end
