defmodule Caravan.MixProject do
  use Mix.Project

  @version "2.0.0-dev"
  @source_url "https://github.com/uberbrodt/caravan"

  @documents ~w(README.md ARCHITECTURE.md CONTRIBUTING.md SECURITY.md CHANGELOG.md)

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
        # MIX_ENV=docs mix docs
        {:ex_doc, "~> 0.30", only: :docs, runtime: false}
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
        "mix.exs",
        ".formatter.exs",
        "LICENSE"
        | @documents
      ],
      licenses: ["Apache-2.0"],
      links: %{"GitHub" => @source_url}
    ]
  end

  defp docs do
    [
      main: "readme",
      extras: @documents,
      source_url: @source_url,
      groups_for_modules: [
        Cluster: [Caravan.Cluster, Caravan.Cluster.DnsStrategy],
        Distribution: [Caravan.Epmd, Caravan.Epmd.Peers],
        DNS: [Caravan.Dns, ~r/^Caravan\.Dns\./, Caravan.DnsClient],
        Operating: [Caravan, Caravan.Telemetry]
      ]
    ]
  end
end

defmodule Mix.Tasks.Compile.CaravanNif do
  @shortdoc "Builds Caravan's NIF with cargo"

  @moduledoc """
  Builds `native/caravan_nif` with cargo and copies the library into `priv/native` of the application
  inside `_build`.

  Cargo runs only when a file under `native` has changed. If the environment variable `CARAVAN_NIF` is the
  path of a library that was built elsewhere, that library is copied and cargo is not needed.
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

  @impl true
  def run(_args) do
    stamp = stamp()

    if File.read(manifest()) == {:ok, stamp} and File.regular?(library()) do
      {:noop, []}
    else
      with {:ok, built} <- built_library() do
        install(built, stamp)
        {:ok, []}
      end
    end
  end

  @impl true
  def manifests, do: [manifest()]

  @impl true
  def clean do
    File.rm(library())
    File.rm(manifest())
    File.rm_rf!(target_dir())
    :ok
  end

  defp manifest, do: Path.join(Mix.Project.manifest_path(), "compile.caravan_nif")
  defp target_dir, do: Path.join(Mix.Project.app_path(), "native")

  # erlang:load_nif/2 appends ".so" on macOS too.
  defp library, do: Path.join([Mix.Project.app_path(), "priv", "native", "caravan_nif.so"])

  # A hash of everything that the library depends on. It holds the contents of files, not their times, so
  # that a fresh checkout or an unpacked cache does not build again. It holds the architecture because a
  # container often shares _build with its host.
  defp stamp do
    inputs =
      case System.get_env("CARAVAN_NIF") do
        nil -> Enum.flat_map(@sources, &Path.wildcard(Path.join(@native, &1), match_dot: true))
        path -> [path]
      end

    target = {:erlang.system_info(:system_architecture), System.get_env("CARGO_BUILD_TARGET")}
    contents = Enum.map(inputs, &{&1, File.read(&1)})
    {contents, target} |> :erlang.term_to_binary() |> :erlang.md5() |> Base.encode16()
  end

  defp built_library do
    case System.get_env("CARAVAN_NIF") do
      nil -> cargo_build()
      path -> prebuilt(path)
    end
  end

  defp prebuilt(path) do
    if File.regular?(path) do
      {:ok, path}
    else
      failed(
        "environment variable CARAVAN_NIF: expected the path of a built library (.so or .dylib), " <>
          "got: #{inspect(path)}, which is not a file. Correct the path, or unset the variable " <>
          "to build the library with cargo."
      )
    end
  end

  defp cargo_build do
    with :ok <- check_toolchain() do
      args = [
        "build",
        "--release",
        "--locked",
        "--package",
        "caravan_nif",
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

  # Cargo adds a folder for the target if one is set, by CARGO_BUILD_TARGET or in a cargo configuration.
  defp cargo_artifact do
    ["release", "*/release"]
    |> Enum.map(&Path.join([target_dir(), &1, "libcaravan_nif.{so,dylib}"]))
    |> Enum.flat_map(&Path.wildcard/1)
    |> Enum.max_by(&File.stat!(&1, time: :posix).mtime)
  end

  defp check_toolchain do
    case Enum.find(["cargo", "rustc"], &(System.find_executable(&1) == nil)) do
      nil ->
        "rustc" |> System.cmd(["--version"], cd: @native, stderr_to_stdout: true) |> check_rust()

      missing ->
        failed("Caravan's NIF is written in Rust, and #{missing} was not found. #{advice()}")
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
    # A running VM may have the old file mapped, and writing into it would crash that VM. So the old file is
    # deleted first. CARAVAN_NIF may be the path of the old file itself, which then stays.
    unless Path.expand(built) == library() do
      File.mkdir_p!(Path.dirname(library()))
      File.rm(library())
      File.cp!(built, library())
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
