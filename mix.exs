defmodule Caravan.MixProject do
  use Mix.Project

  @version "2.0.0-dev"
  @source_url "https://github.com/uberbrodt/caravan"

  @platforms ~w(kubernetes.md nomad_consul.md ecs_cloud_map.md fly.md docker_compose.md phoenix.md)
  @operating ~w(tls.md large_clusters.md observability.md troubleshooting.md)
  @reference ~w(cheatsheet.cheatmd options.md how_it_works.md building_the_nif.md migrating.md)
  @guides Enum.map(
            ["getting_started.md" | @platforms ++ @operating ++ @reference],
            &"guides/#{&1}"
          )
  @project ~w(ARCHITECTURE.md CONTRIBUTING.md SECURITY.md CHANGELOG.md)
  @documents ["README.md" | @guides] ++ @project

  def project do
    [
      app: :caravan,
      version: @version,
      elixir: "~> 1.14",
      elixirc_paths: elixirc_paths(Mix.env()),
      compilers: [:caravan_nif] ++ Mix.compilers(),
      start_permanent: Mix.env() == :prod,
      description: description(),
      package: package(),
      deps: deps(),
      docs: docs(),
      aliases: [ci: "cmd bin/test"]
    ]
  end

  # Caravan needs neither :crypto nor another application: Caravan.Epmd boots with kernel and stdlib alone.
  def application do
    [extra_applications: [:logger]]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  # Caravan runs without libcluster and telemetry. Both are optional so that their versions fit those of
  # the project. Mix cannot read Hex requirements where Hex is not installed, and Caravan has to build there.
  defp deps do
    if Code.ensure_loaded?(Hex) do
      [
        {:libcluster, "~> 3.5", optional: true},
        {:telemetry, "~> 1.0", optional: true},
        {:ex_doc, "~> 0.36", only: :dev, runtime: false}
      ]
    else
      []
    end
  end

  defp description do
    "Clusters of Elixir and Erlang nodes in clouds: no epmd daemon, one predictable " <>
      "distribution port per node, discovery through DNS (SRV, A, AAAA) over a Rust resolver."
  end

  defp package do
    [
      files: [
        "lib",
        "native/Cargo.toml",
        "native/Cargo.lock",
        "native/.cargo/config.toml",
        "native/caravan_core/Cargo.toml",
        "native/caravan_core/src",
        "native/caravan_nif/Cargo.toml",
        "native/caravan_nif/build.rs",
        "native/caravan_nif/src",
        # The libraries of bin/precompile. Hex builds no package without them.
        "precompiled",
        "mix.exs",
        ".formatter.exs",
        "LICENSE",
        "guides"
        | @documents -- @guides
      ],
      licenses: ["Apache-2.0"],
      links: %{"GitHub" => @source_url}
    ]
  end

  defp docs do
    [
      main: "readme",
      extras: @documents,
      groups_for_extras: [
        Platforms: Enum.map(@platforms, &"guides/#{&1}"),
        Operating: Enum.map(@operating, &"guides/#{&1}"),
        Reference: Enum.map(@reference, &"guides/#{&1}"),
        Project: @project
      ],
      # In HTML, the guides are next to the README. Both pictures have to be where the links lead.
      assets: %{"guides/images" => "images", "guides/images/" => "guides/images"},
      source_url: @source_url,
      source_ref: "v#{@version}",
      groups_for_modules: [
        Cluster: [Caravan.Cluster, Caravan.Cluster.DnsStrategy],
        Distribution: [Caravan.Epmd, Caravan.Epmd.Peers],
        DNS: [Caravan.Dns, ~r/^Caravan\.Dns\./, Caravan.DnsClient],
        Operating: [Caravan, Caravan.Doctor, Caravan.Telemetry]
      ]
    ]
  end
end

defmodule Mix.Tasks.Compile.CaravanNif do
  @shortdoc "Builds Caravan's NIF with cargo"

  @moduledoc """
  Puts the library of `native/caravan_nif` into `priv/native` of the application inside `_build`.

  The library comes from the first of these places that has it:

    1. the path in the environment variable `CARAVAN_NIF`, of a library that was built elsewhere,
    2. `precompiled/TARGET.so` of the Hex package. `precompiled/TARGET.sha256` names the checksums of this library and of
       all sources that it was built from. They must be those of the files here,
    3. the user's cache (`~/.cache/caravan`, or under `XDG_CACHE_HOME`), if it has one of the same sources, system and
       build settings,
    4. cargo, whose files are in `_build/caravan_nif` for all values of `MIX_ENV`. The library is then put into the cache.

  With `CARAVAN_BUILD=1`, it comes from cargo unless `CARAVAN_NIF` is set. A library for another CPU is an error.

  `config :caravan, nif_features: [:tls]` leaves out the other cargo features. No precompiled library has a selection of
  features.
  """

  use Mix.Task.Compiler

  @recursive true
  @native Path.expand("native", __DIR__)
  @sources ~w(.cargo/config.toml Cargo.toml Cargo.lock) ++
             ~w(caravan_*/Cargo.toml caravan_*/build.rs caravan_*/src/**/*.rs)
  @min_rust Path.join(@native, "Cargo.toml")
            |> File.read!()
            |> then(&Regex.run(~r/^rust-version = "(.+)"$/m, &1, capture: :all_but_first))
            |> hd()
  @features [:tls, :dnssec]

  @impl true
  def run(_args) do
    with :ok <- check_features() do
      key = key()
      stamp = if build?(), do: key <> " by cargo", else: key

      if File.read(manifest()) == {:ok, stamp} and File.regular?(library()),
        do: {:noop, []},
        else: find_and_install(key, stamp)
    end
  end

  defp find_and_install(key, stamp) do
    with {:ok, built} <- find_library(key),
         :ok <- check_machine(built) do
      install(built, stamp)
      {:ok, []}
    end
  end

  @impl true
  def manifests, do: [manifest()]

  @impl true
  def clean do
    File.rm(library())
    File.rm(manifest())
    :ok
  end

  defp manifest, do: Path.join(Mix.Project.manifest_path(), "compile.caravan_nif")
  # The directory of MIX_BUILD_PATH need not be one of a project.
  defp target_dir do
    build = Mix.Project.build_path()
    shared = if System.get_env("MIX_BUILD_PATH"), do: build, else: Path.dirname(build)
    Path.join(shared, "caravan_nif")
  end

  # Compose files and job templates cannot unset a variable, but make it empty.
  defp nif_path do
    with "" <- System.get_env("CARAVAN_NIF"), do: nil
  end

  # erlang:load_nif/2 appends ".so" on macOS too.
  defp library, do: Path.join([Mix.Project.app_path(), "priv", "native", "caravan_nif.so"])

  defp build?, do: System.get_env("CARAVAN_BUILD") == "1"

  # A hash of everything that the library depends on. It holds the contents of files, not their times, so
  # that a fresh checkout or an unpacked cache does not build again. It holds the system because a container often
  # shares _build or the cache with its host.
  defp key do
    inputs = if path = nif_path(), do: [path], else: sources()
    system = File.read("/etc/os-release")
    settings = {target(), System.get_env("RUSTFLAGS")}
    contents = Enum.map(inputs, &{Path.relative_to(&1, @native), File.read(&1)})

    {contents, system, settings, features()}
    |> :erlang.term_to_binary()
    |> :erlang.md5()
    |> Base.encode16()
  end

  defp sources,
    do: Enum.flat_map(@sources, &Path.wildcard(Path.join(@native, &1), match_dot: true))

  defp find_library(key) do
    cached = cached(key)

    cond do
      path = nif_path() -> prebuilt(path)
      build?() -> build(cached)
      path = precompiled() -> {:ok, path}
      File.regular?(cached) -> {:ok, cached}
      true -> build(cached)
    end
  end

  defp build(cached) do
    with {:ok, built} <- cargo_build(),
         :ok <- check_machine(built),
         do: {:ok, put_into_cache(built, cached)}
  end

  ## Cargo features

  defp features, do: Application.get_env(:caravan, :nif_features, @features)

  defp check_features do
    if is_list(features()) and features() -- @features == [] do
      :ok
    else
      failed(
        "config :caravan, nif_features: expected a list of #{Enum.map_join(@features, " and ", &inspect/1)}, " <>
          "or a part of it, got: #{inspect(features())}. Correct it in config/config.exs, or delete it for all features."
      )
    end
  end

  ## The libraries of the Hex package

  @precompiled Path.expand("precompiled", __DIR__)

  # Returns a library, or nil. If the package has libraries and none fits, one line says why.
  defp precompiled do
    with true <- File.dir?(@precompiled),
         :ok <- all_features(),
         {:ok, name} <- precompiled_name(),
         :ok <- check_sums(name) do
      Path.join(@precompiled, name <> ".so")
    else
      false ->
        nil

      {:error, reason} ->
        Mix.shell().info("No precompiled library of Caravan is used: #{reason}.")
        nil
    end
  end

  defp all_features do
    if Enum.sort(features()) == Enum.sort(@features),
      do: :ok,
      else: {:error, "config :caravan, nif_features: selects features"}
  end

  defp precompiled_name do
    names =
      @precompiled |> Path.join("*.so") |> Path.wildcard() |> Enum.map(&Path.basename(&1, ".so"))

    name = rust_target(target())

    if name in names,
      do: {:ok, name},
      else: {:error, "there is none for #{target()}, but for #{Enum.join(names, ", ")}"}
  end

  # The names that OTP and distributions give to a system, in Rust's spelling.
  defp rust_target(target) do
    cpu = target |> String.split("-") |> hd() |> cpu()

    cond do
      target =~ "-apple-darwin" ->
        cpu <> "-apple-darwin"

      target =~ ~r/-linux-(gnu|musl)$/ ->
        Regex.replace(~r/^.*-linux-/, target, cpu <> "-unknown-linux-")

      true ->
        target
    end
  end

  # TARGET.sha256 has the format of the program sha256sum, with paths from the root of the package.
  defp check_sums(name) do
    file = Path.join(@precompiled, name <> ".sha256")
    files = [Path.join(@precompiled, name <> ".so") | sources()]

    case File.read(file) do
      {:ok, text} ->
        expected = String.split(text, "\n", trim: true)
        found = Enum.map(files, &"#{sha256(&1)}  #{Path.relative_to(&1, __DIR__)}")
        differing = (found -- expected) ++ (expected -- found)
        path = differing |> Enum.flat_map(&String.split/1) |> Enum.at(1)
        if path, do: {:error, "#{path} has changed since #{name}.so was built"}, else: :ok

      {:error, reason} ->
        {:error, "#{file}: #{:file.format_error(reason)}"}
    end
  end

  defp sha256(path) do
    # Mix has removed it from the code path from Elixir 1.15 on.
    if function_exported?(Mix, :ensure_application!, 1),
      do: apply(Mix, :ensure_application!, [:crypto])

    :crypto.hash(:sha256, File.read!(path)) |> Base.encode16(case: :lower)
  end

  ## The cache

  defp cached(stamp), do: Path.join(cache_dir(), stamp <> ".so")

  # A user without a home directory has no other cache.
  defp cache_dir do
    if System.user_home(), do: :filename.basedir(:user_cache, "caravan"), else: target_dir()
  end

  # Two builds may write at the same time, and a third may read. So the file appears under its name when it is complete.
  # A cache that cannot be written is not an error.
  defp put_into_cache(built, cached) do
    partial = partial(cached)

    with :ok <- File.mkdir_p(cache_dir()),
         :ok <- File.cp(built, partial),
         :ok <- File.rename(partial, cached) do
      delete_old()
      cached
    else
      _ -> built
    end
  end

  # Containers that share a directory may have processes of the same id.
  defp partial(path), do: "#{path}.#{Base.encode16(:rand.bytes(8))}"

  # A library has about 5 MB, and each change of the sources adds one.
  @kept 8

  defp delete_old do
    Path.join(cache_dir(), "*.so")
    |> Path.wildcard()
    |> Enum.sort_by(&modified/1, :desc)
    |> Enum.drop(@kept)
    |> Enum.each(&File.rm/1)
  end

  defp modified(file) do
    case File.stat(file, time: :posix) do
      {:ok, %{mtime: mtime}} -> mtime
      {:error, _reason} -> 0
    end
  end

  ## The CPU of the library

  defp target do
    System.get_env("CARGO_BUILD_TARGET") || nerves_target() ||
      List.to_string(:erlang.system_info(:system_architecture))
  end

  # Nerves sets these variables while it builds for a board.
  defp nerves_target do
    case Enum.map(["TARGET_ARCH", "TARGET_OS", "TARGET_ABI"], &System.get_env/1) do
      [cpu, os, abi] when is_binary(cpu) and is_binary(os) and is_binary(abi) ->
        "#{cpu}-unknown-#{os}-#{abi}"

      _ ->
        nil
    end
  end

  # The machines of ELF files (elf.h) and of 64-bit Mach-O files (mach/machine.h).
  @elf %{0x3E => "x86_64", 0xB7 => "aarch64", 0x28 => "arm", 0xF3 => "riscv64"}
  @mach %{0x01000007 => "x86_64", 0x0100000C => "aarch64"}

  defp check_machine(file) do
    expected = target() |> String.split("-") |> hd() |> cpu()

    case machine(file) do
      machine when machine in [nil, expected] ->
        :ok

      machine ->
        failed(
          "#{file} is a library for #{machine}, but the target is #{target()}. Build the library for #{expected}, " <>
            "or set CARGO_BUILD_TARGET to the target of the release."
        )
    end
  end

  # The names of targets differ between OTP, Rust and systems.
  defp cpu("amd64"), do: "x86_64"
  defp cpu("arm64"), do: "aarch64"
  defp cpu("arm" <> _), do: "arm"
  defp cpu("riscv64" <> _), do: "riscv64"
  defp cpu(name), do: name

  defp machine(file) do
    case File.open(file, [:read, :binary], &IO.binread(&1, 20)) do
      {:ok, <<0x7F, "ELF", _::binary-size(14), machine::little-16>>} -> @elf[machine]
      {:ok, <<0xFEEDFACF::little-32, cpu::little-32, _::binary>>} -> @mach[cpu]
      _unknown -> nil
    end
  end

  ## Builds

  defp prebuilt(path) do
    if File.regular?(path) do
      {:ok, path}
    else
      failed(
        "environment variable CARAVAN_NIF: expected the absolute path of a built library (.so or .dylib), " <>
          "got: #{inspect(path)}, which is not a file. Correct the path, or unset the variable " <>
          "to build the library with cargo."
      )
    end
  end

  defp cargo_build do
    with :ok <- check_toolchain(),
         :ok <- check_flags() do
      unless File.dir?(target_dir()) do
        Mix.shell().info(
          "Building Caravan's NIF with cargo. The first time, this takes one to two minutes."
        )
      end

      args = [
        "build",
        "--release",
        "--locked",
        "--package",
        "caravan_nif",
        "--no-default-features",
        "--features",
        Enum.join(features(), ","),
        "--target-dir",
        target_dir()
      ]

      case System.cmd("cargo", args,
             cd: @native,
             stderr_to_stdout: true,
             into: IO.stream(:stdio, :line)
           ) do
        {_, 0} ->
          {:ok, cargo_artifact()}

        {_, status} ->
          failed("cargo build failed with status #{status}. Its messages are above.")
      end
    end
  end

  # Cargo adds a folder for the target if one is set, by CARGO_BUILD_TARGET or in a cargo configuration. Other folders may
  # have the libraries of earlier builds.
  defp cargo_artifact do
    folders =
      case System.get_env("CARGO_BUILD_TARGET") do
        nil -> ["release", "*/release"]
        target -> [Path.join(target, "release")]
      end

    folders
    |> Enum.flat_map(&Path.wildcard(Path.join([target_dir(), &1, "libcaravan_nif.{so,dylib}"])))
    |> hd()
  end

  defp check_toolchain do
    case Enum.find(["cargo", "rustc"], &(System.find_executable(&1) == nil)) do
      nil ->
        "rustc" |> System.cmd(["--version"], cd: @native, stderr_to_stdout: true) |> check_rust()

      missing ->
        failed("Caravan's NIF is written in Rust, and #{missing} was not found. #{advice()}")
    end
  end

  # Cargo ignores native/.cargo/config.toml if RUSTFLAGS is set. It then says "cannot produce cdylib".
  defp check_flags do
    flags = System.get_env("RUSTFLAGS")

    if target() =~ "musl" and flags != nil and not (flags =~ "-crt-static") do
      failed(
        "environment variable RUSTFLAGS: expected -C target-feature=-crt-static for #{target()}, got: " <>
          "#{inspect(flags)}. A library for musl links libc dynamically. Add this flag, or unset the variable."
      )
    else
      :ok
    end
  end

  defp check_rust({output, status}) do
    found = Regex.run(~r/\d+\.\d+\.\d+/, output)

    cond do
      status != 0 or found == nil ->
        failed(
          "rustc --version failed with status #{status}: #{String.trim(output)}. #{advice()}"
        )

      Version.match?(hd(found), ">= #{@min_rust}.0") ->
        :ok

      true ->
        failed("Caravan's NIF needs Rust #{@min_rust} or later, got: #{hd(found)}. #{advice()}")
    end
  end

  defp advice do
    "Install Rust #{@min_rust} or later with rustup (`rustup toolchain install stable`), " <>
      "or set CARAVAN_NIF to the path of a library that was built elsewhere."
  end

  defp install(built, stamp) do
    # A running VM may have the old file mapped, and writing into it would crash that VM. Another build may install at
    # the same time. So a new file takes the place of the old one. CARAVAN_NIF may be the path of the old file itself,
    # which then stays.
    unless Path.expand(built) == library() do
      File.mkdir_p!(Path.dirname(library()))
      partial = partial(library())
      File.cp!(built, partial)
      File.rename!(partial, library())
    end

    File.mkdir_p!(Path.dirname(manifest()))
    File.write!(manifest(), stamp)
  end

  defp failed(message) do
    Mix.shell().error(message)

    {:error,
     [
       %Mix.Task.Compiler.Diagnostic{
         compiler_name: "caravan_nif",
         file: Path.join(@native, "Cargo.toml"),
         message: message,
         position: 0,
         severity: :error
       }
     ]}
  end
end
