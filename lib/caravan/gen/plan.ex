defmodule Caravan.Gen.Plan do
  # Pure. What `mix caravan.gen.release` writes and says, from the options and the files that are there.
  @moduledoc false

  alias Caravan.Gen.Amend
  alias Caravan.Gen.Dockerfile
  alias Caravan.Gen.EnvSh
  alias Caravan.Gen.Options
  alias Caravan.Gen.RuntimeExs
  alias Caravan.Gen.Samples

  @enforce_keys [:changes, :notes]
  defstruct @enforce_keys

  @typedoc "`changes` are the files that will differ, with their old and new contents. `notes` are for the user."
  @type t :: %__MODULE__{
          changes: [{Path.t(), old :: String.t() | nil, new :: String.t()}],
          notes: [String.t()]
        }

  @vm_flags [{"-epmd_module", "Elixir.Caravan.Epmd"}, {"-start_epmd", "false"}]

  # With roles, some nodes have a number in :links. Without this flag, OTP would connect them to all nodes.
  @role_flags [{"-connect_all", "false"}]

  @proto "-proto_dist"

  @strategy "Caravan.Cluster.DnsStrategy"
  @runtime "config/runtime.exs"

  # This file is there if Caravan is a package of Hex. The package carries the library.
  @package "deps/caravan/hex_metadata.config"

  @doc "Returns the directory of samples, which are written only if there is no such directory."
  @spec deploy() :: Path.t()
  def deploy, do: "deploy"

  @doc "Returns the files that `new/3` needs to know."
  @spec files(Options.t()) :: [Path.t()]
  def files(%Options{} = options) do
    Map.values(release_files(options)) ++
      ["Dockerfile", @runtime, application(options), @package] ++
      for {path, _contents} <- Samples.files(options), do: path
  end

  @doc """
  Returns the plan, or why the files cannot be amended.

  `contents` has the contents of all `files/1`, or `nil` for a file that does not exist. `deploy?` is whether `deploy/0` exists.
  """
  @spec new(Options.t(), %{Path.t() => String.t() | nil}, deploy? :: boolean) ::
          {:ok, t} | {:error, String.t()}
  def new(%Options{} = options, contents, deploy?) do
    %{env: env, vm: vm, remote: remote} = release_files(options)

    with :ok <- check_distribution(env, Amend.user_lines(contents[env])),
         :ok <- check_erl_aflags(env, Amend.user_lines(contents[env]), options),
         :ok <- check_protocol(options, contents),
         {:ok, new_env} <- named(env, Amend.block(contents[env], EnvSh.text(options))),
         {:ok, new_vm} <- Amend.flags(contents[vm], vm, flags(options)),
         {:ok, new_remote} <- Amend.flags(contents[remote], remote, flags(options)) do
      amended = [{env, new_env}, {vm, new_vm}, {remote, new_remote}]

      missing =
        for {path, text} <- Samples.files(options),
            contents[path] == nil and not foreign?(path, contents),
            do: {path, text}

      samples = if deploy?, do: [], else: Samples.deploy(options)
      all = for {path, text} <- amended ++ missing ++ samples, do: {path, contents[path], text}

      {:ok,
       %__MODULE__{
         changes: Enum.reject(all, fn {_path, old, new} -> old == new end),
         notes:
           node_notes(env, Amend.user_lines(new_env)) ++
             tls_notes(missing) ++
             Dockerfile.notes(contents["Dockerfile"], options.rel, contents[@package] != nil) ++
             runtime_notes(options, contents[@runtime]) ++ child_notes(options, contents)
       }}
    end
  end

  defp release_files(options) do
    %{
      env: options.rel <> "/env.sh.eex",
      vm: options.rel <> "/vm.args.eex",
      remote: options.rel <> "/remote.vm.args.eex"
    }
  end

  defp flags(%Options{roles: []}), do: @vm_flags
  defp flags(_options), do: @vm_flags ++ @role_flags

  defp named(path, {:error, message}), do: {:error, "#{path}: #{message}"}
  defp named(_path, ok), do: ok

  # The Dockerfile of the user may copy what our .dockerignore leaves out.
  defp foreign?(".dockerignore", contents), do: contents["Dockerfile"] != nil
  defp foreign?(_path, _contents), do: false

  ## Checks

  defp check_distribution(env, lines) do
    case assigned(lines, ~r/^(?:export\s+)?RELEASE_DISTRIBUTION=["']?(none|sname)\b/) do
      [{number, value} | _] ->
        {:error,
         "#{env}, line #{number}: expected RELEASE_DISTRIBUTION to be name, got: #{value}. Remove this line."}

      [] ->
        :ok
    end
  end

  # The block adds -proto_dist to ERL_AFLAGS. The lines of the user come after it, so they must keep that value.
  defp check_erl_aflags(_env, _lines, %Options{ipv6: false, tls: false}), do: :ok

  defp check_erl_aflags(env, lines, _options) do
    lost =
      for {number, value} <- assigned(lines, ~r/^(?:export\s+)?ERL_AFLAGS=(.*)$/),
          not (value =~ @proto or value =~ ~r/\$\{?ERL_AFLAGS/),
          do: {number, value}

    case lost do
      [{number, value} | _] ->
        {:error,
         "#{env}, line #{number}: expected ERL_AFLAGS to keep its value, because it has #{@proto}, got: #{value}. Write " <>
           ~S(export ERL_AFLAGS="$ERL_AFLAGS …" with your flags.)}

      [] ->
        :ok
    end
  end

  # If the flag is there twice, once in vm.args and once in ERL_AFLAGS, OTP uses the first one. OTP before 27.1 ignores both
  # and uses inet_tcp.
  defp check_protocol(options, contents) do
    %{env: env, vm: vm, remote: remote} = release_files(options)
    expected = "inet#{if options.ipv6, do: "6"}_#{if options.tls, do: "tls", else: "tcp"}"

    in_env =
      for {_number, line} <- Amend.user_lines(contents[env]),
          value <- Amend.flag(line, @proto),
          do: {env, value}

    in_args =
      for file <- [vm, remote], value <- Amend.flag(contents[file], @proto), do: {file, value}

    cond do
      wrong = Enum.find(in_env ++ in_args, fn {_file, value} -> value != expected end) ->
        {file, value} = wrong

        {:error,
         "#{file}: expected #{@proto} #{expected}, got: #{@proto} #{value}. Remove this flag, or run the task with --ipv6 " <>
           "for IPv6, and with --tls for TLS."}

      (options.ipv6 or options.tls) and in_args != [] ->
        {file, value} = hd(in_args)

        {:error,
         "#{file}: expected no #{@proto}, because #{env} has it and OTP uses only one of them, got: " <>
           "#{@proto} #{value}. Remove this flag from #{vm} and #{remote}."}

      true ->
        :ok
    end
  end

  defp assigned(lines, regex) do
    for {number, line} <- lines, [_, value] <- [Regex.run(regex, line)], do: {number, value}
  end

  ## Notes

  # `${RELEASE_NODE:-…}` keeps the name of the block.
  defp node_notes(env, lines) do
    for {number, value} <- assigned(lines, ~r/^(?:export\s+)?RELEASE_NODE=(.*)$/),
        not (value =~ ~r/\$\{RELEASE_NODE:?-/) do
      "#{env}, line #{number}, sets RELEASE_NODE=#{value} in place of the name above. Its host has to be the address " <>
        "that DNS returns."
    end
  end

  # The user has to fill in a new file.
  defp tls_notes(new_files) do
    for {path, _text} <- new_files, String.ends_with?(path, "/inet_tls.conf") do
      "Add :ssl to :extra_applications in mix.exs, and put the paths of the nodes' certificates into #{path}.\n"
    end
  end

  defp runtime_notes(options, contents) do
    {title, first} =
      cond do
        contents == nil -> {"Create #{@runtime}:", "import Config\n\n"}
        contents =~ @strategy -> {"Put this in place of #{@strategy} in #{@runtime}:", ""}
        true -> {"Add this to #{@runtime}:", ""}
      end

    if configured?(options, contents),
      do: [],
      else: [title <> "\n\n" <> indent(first <> RuntimeExs.config(options))]
  end

  defp child_notes(options, contents) do
    file = application(options)

    place =
      if options.umbrella? and contents[file] == nil, do: "one of the applications", else: file

    supervisor = contents[file] || ""
    # A new Phoenix project has the child DNSCluster.
    child = Enum.find([@strategy, "DNSCluster"], &(supervisor =~ "{#{&1},"))

    title =
      if child,
        do: "Put this in place of the child #{child} in #{place}:",
        else: "Add this to the children of the supervisor in #{place}:"

    # The children depend on the roles, as the configuration does.
    if supervisor =~ "Application.fetch_env!(:#{options.app}, #{@strategy})" and
         (options.roles == [] or configured?(options, contents[@runtime])),
       do: [],
       else: [title <> "\n\n" <> indent(RuntimeExs.child(options))]
  end

  defp configured?(_options, nil), do: false

  # With roles, the configuration must read the variables of their queries. Without roles, the user may have written the query
  # itself, in place of the variable.
  defp configured?(options, contents) do
    contents =~ @strategy and Enum.all?(options.roles, &(contents =~ Options.variable(&1)))
  end

  # The directory of an umbrella's applications may have another name.
  defp application(%Options{app: app, umbrella?: umbrella?}),
    do: "#{if umbrella?, do: "apps/#{app}/"}lib/#{app}/application.ex"

  defp indent(text), do: String.replace(text, ~r/^(?=.)/m, "    ")
end
