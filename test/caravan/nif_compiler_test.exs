defmodule Caravan.NifCompilerTest do
  @moduledoc "Runs the compiler of `mix.exs` in projects of their own. A script stands in for cargo."
  use ExUnit.Case, async: true

  @library Application.app_dir(:caravan, "priv/native/caravan_nif.so")

  setup do
    dir = Path.join(System.tmp_dir!(), "nif-" <> Base.encode16(:rand.bytes(6), case: :lower))
    on_exit(fn -> File.rm_rf!(dir) end)
    bin = Path.join(dir, "bin")
    File.mkdir_p!(bin)
    File.cp!(@library, Path.join(dir, "built.so"))

    # Logs its arguments, and puts the library where cargo would.
    script(bin, "cargo", """
    echo "$@" >>#{dir}/cargo.log
    target=${CARGO_BUILD_TARGET-}
    while [ $# -gt 0 ]; do
      case $1 in
        --target) target=${2%.2.17} ;;
        --target-dir) directory=$2 ;;
      esac
      shift
    done
    mkdir -p "$directory/$target/release"
    cp #{dir}/built.so "$directory/new.$$"
    mv "$directory/new.$$" "$directory/$target/release/libcaravan_nif.so"
    """)

    script(bin, "rustc", "echo rustc 1.99.0")
    script(bin, "rustup", "")
    {:ok, dir: dir, project: project(dir, "one")}
  end

  defp script(bin, name, text) do
    File.write!(Path.join(bin, name), "#!/bin/sh\nset -e\n" <> text)
    File.chmod!(Path.join(bin, name), 0o755)
  end

  # A copy of what the compiler reads.
  defp project(dir, name) do
    project = Path.join(dir, name)
    File.mkdir_p!(Path.join(project, "bin"))
    for file <- ~w(mix.exs README.md bin/precompile), do: File.cp!(file, Path.join(project, file))

    for source <- ~w(.cargo Cargo.toml Cargo.lock caravan_core caravan_nif) do
      File.mkdir_p!(Path.join(project, "native"))
      File.cp_r!(Path.join("native", source), Path.join([project, "native", source]))
    end

    project
  end

  defp compile(project, env \\ [], task \\ ["compile.caravan_nif"]) do
    env =
      [
        path(project),
        {"XDG_CACHE_HOME", "#{Path.dirname(project)}/cache"},
        {"MIX_ENV", "dev"},
        {"CARAVAN_NIF", nil},
        {"CARAVAN_BUILD", nil},
        {"RUSTFLAGS", nil},
        {"CARGO_BUILD_TARGET", nil}
      ] ++ env

    System.cmd("mix", task, cd: project, env: env, stderr_to_stdout: true)
  end

  defp path(project), do: {"PATH", "#{Path.dirname(project)}/bin:#{System.get_env("PATH")}"}

  # Puts the library into the package.
  defp precompile(project, target \\ rust_target()) do
    assert {_output, 0} =
             System.cmd(Path.join(project, "bin/precompile"), [target],
               cd: project,
               env: [path(project)],
               stderr_to_stdout: true
             )
  end

  defp configure(project, text) do
    File.mkdir_p!(Path.join(project, "config"))
    File.write!(Path.join(project, "config/config.exs"), "import Config\n" <> text)
  end

  defp builds(%{dir: dir}) do
    case File.read(Path.join(dir, "cargo.log")) do
      {:ok, log} -> log |> String.split("\n", trim: true) |> length()
      {:error, :enoent} -> 0
    end
  end

  defp built?(project, env \\ "dev"),
    do: File.regular?(Path.join(project, "_build/#{env}/lib/caravan/priv/native/caravan_nif.so"))

  test "the library is built once for all environments, projects and clean builds", context do
    %{dir: dir, project: project} = context
    assert {output, 0} = compile(project)

    assert output =~
             "Building Caravan's NIF with cargo. The first time, this takes one to two minutes."

    assert built?(project)
    assert {_output, 0} = compile(project, [{"MIX_ENV", "prod"}])
    assert built?(project, "prod")

    assert {_output, 0} = compile(project, [], ["clean"])
    refute built?(project)
    assert {_output, 0} = compile(project)

    other = project(dir, "two")
    assert {_output, 0} = compile(other)
    assert built?(other)
    assert builds(context) == 1
  end

  test "a changed source, other flags and CARAVAN_BUILD build again", context do
    %{project: project} = context
    assert {_output, 0} = compile(project)
    File.write!(Path.join(project, "native/caravan_core/src/port.rs"), "// changed\n", [:append])
    assert {_output, 0} = compile(project)
    assert builds(context) == 2
    assert {_output, 0} = compile(project, [{"RUSTFLAGS", "-C opt-level=1"}])
    assert builds(context) == 3
    assert {_output, 0} = compile(project, [{"CARAVAN_BUILD", "1"}, {"MIX_ENV", "prod"}])
    assert builds(context) == 4
  end

  test "builds at the same time leave one complete library", context do
    %{dir: dir, project: project} = context
    builds = for _ <- 1..3, do: Task.async(fn -> compile(project) end)
    for {_output, status} <- Task.await_many(builds, :infinity), do: assert(status == 0)
    native = Path.join(project, "_build/dev/lib/caravan/priv/native")
    assert File.ls!(native) == ["caravan_nif.so"]

    assert File.read!(Path.join(native, "caravan_nif.so")) ==
             File.read!(Path.join(dir, "built.so"))

    assert [_one] = File.ls!(Path.join(dir, "cache/caravan"))
  end

  test "the library is built although the cache cannot be written", context do
    File.write!(Path.join(context.dir, "cache"), "a file")
    assert {_output, 0} = compile(context.project)
    assert built?(context.project)
  end

  test "a library for another CPU is an error that names both", context do
    %{dir: dir, project: project} = context
    foreign = Path.join(dir, "foreign.so")
    <<head::binary-size(18), _machine::16, rest::binary>> = File.read!(@library)
    machine = if head(@library) == "aarch64", do: 0x3E, else: 0xB7
    File.write!(foreign, <<head::binary, machine::little-16, rest::binary>>)

    assert {output, _status} = compile(project, [{"CARAVAN_NIF", foreign}])

    assert output =~
             ~r/foreign.so is a library for (aarch64|x86_64), but the target is (x86_64|aarch64)-/

    refute built?(project)

    # A release for another CPU.
    target = if head(@library) == "aarch64", do: "x86_64", else: "aarch64"
    env = [{"CARGO_BUILD_TARGET", target <> "-unknown-linux-gnu"}]
    assert {_output, 0} = compile(project, [{"CARAVAN_NIF", foreign} | env])
    assert {output, _status} = compile(project, [{"CARAVAN_NIF", @library} | env])
    assert output =~ "but the target is #{target}-unknown-linux-gnu"
    # The library of the last build stays.
    assert built?(project)
  end

  test "a library is accepted although the target has another name for its CPU", context do
    %{dir: dir, project: project} = context
    <<head::binary-size(18), _machine::16, rest::binary>> = File.read!(@library)

    for {machine, target} <- [
          {0xB7, "arm64-apple-darwin"},
          {0x28, "armv7-unknown-linux-gnueabihf"},
          {0xF3, "riscv64gc-unknown-linux-gnu"},
          {0x3E, "amd64-portbld-freebsd14.0"}
        ] do
      library = Path.join(dir, "#{machine}.so")
      File.write!(library, <<head::binary, machine::little-16, rest::binary>>)
      env = [{"CARAVAN_NIF", library}, {"CARGO_BUILD_TARGET", target}]
      assert {output, 0} = compile(project, env)
      refute output =~ "is a library for"
    end
  end

  test "a library of another target is not taken for that of this build", context do
    %{dir: dir, project: project} = context
    other = Path.join(project, "_build/caravan_nif/other/release")
    File.mkdir_p!(other)
    File.write!(Path.join(other, "libcaravan_nif.so"), "another one")
    File.touch!(Path.join(other, "libcaravan_nif.so"), System.os_time(:second) + 60)
    assert {_output, 0} = compile(project)
    installed = Path.join(project, "_build/dev/lib/caravan/priv/native/caravan_nif.so")
    assert File.read!(installed) == File.read!(Path.join(dir, "built.so"))
  end

  test "the library of the package is taken without cargo", context do
    %{dir: dir, project: project} = context
    precompile(project)
    for program <- ~w(cargo rustc rustup), do: script(Path.join(dir, "bin"), program, "exit 1")
    assert {output, 0} = compile(project)
    assert output == ""
    assert built?(project)
  end

  test "CARAVAN_BUILD builds in place of the library of the package", context do
    %{project: project} = context
    precompile(project)
    assert {_output, 0} = compile(project)
    assert builds(context) == 1
    env = [{"CARAVAN_BUILD", "1"}]
    assert {_output, 0} = compile(project, env)
    assert {_output, 0} = compile(project, env)
    assert builds(context) == 2
  end

  test "a library of the package that does not fit is left out, and a line says why", context do
    %{project: project} = context
    target = rust_target()
    assert_left_out = &assert_left_out(context, &1, &2)

    assert_left_out.([{"CARGO_BUILD_TARGET", "riscv64gc-unknown-linux-gnu"}], fn ->
      "there is none for riscv64gc-unknown-linux-gnu, but for #{target}."
    end)

    assert_left_out.([], fn ->
      configure(project, "config :caravan, nif_features: [:tls]")
      "config :caravan, nif_features: selects features."
    end)

    assert_left_out.([], fn ->
      File.write!(Path.join(project, "precompiled/#{target}.so"), "x", [:append])
      "precompiled/#{target}.so has changed since #{target}.so was built."
    end)

    assert_left_out.([], fn ->
      File.write!(Path.join(project, "native/caravan_core/src/dns/new.rs"), "")
      "native/caravan_core/src/dns/new.rs has changed since #{target}.so was built."
    end)

    assert_left_out.([], fn ->
      File.rm!(Path.join(project, "precompiled/#{target}.sha256"))
      "precompiled/#{target}.sha256: no such file or directory."
    end)
  end

  # `change` changes the package, and returns the reason.
  defp assert_left_out(%{dir: dir} = context, env, change) do
    File.rm_rf!(Path.join(dir, "one"))
    File.rm_rf!(Path.join(dir, "cache"))
    project = project(dir, "one")
    precompile(project)
    before = builds(context)
    reason = change.()
    assert {output, _status} = compile(project, env)
    assert output =~ "No precompiled library of Caravan is used: "
    assert output =~ reason
    assert builds(context) == before + 1
  end

  test "the names of systems that OTP and Nerves give select a library of the package", context do
    %{project: project} = context
    precompile(project, "aarch64-unknown-linux-musl")

    for env <- [
          [{"CARGO_BUILD_TARGET", "aarch64-alpine-linux-musl"}],
          [{"TARGET_ARCH", "aarch64"}, {"TARGET_OS", "linux"}, {"TARGET_ABI", "musl"}]
        ] do
      # The script in place of cargo has put a library for this machine there.
      assert {output, _status} = compile(project, env)

      if head(@library) != "aarch64",
        do: assert(output =~ "aarch64-unknown-linux-musl.so is a library for")

      refute output =~ "No precompiled library"
    end
  end

  test "cargo features are those of the configuration", context do
    %{dir: dir, project: project} = context
    assert {_output, 0} = compile(project)
    configure(project, "config :caravan, nif_features: [:dnssec]")
    assert {_output, 0} = compile(project)
    configure(project, "config :caravan, nif_features: []")
    assert {_output, 0} = compile(project)

    assert ["tls,dnssec", "dnssec", ""] =
             for(
               line <- dir |> Path.join("cargo.log") |> File.stream!(),
               do:
                 line
                 |> then(&Regex.run(~r/--no-default-features --features (\S*) /, &1))
                 |> List.last()
             )

    for wrong <- ["[:tsl]", "true"] do
      configure(project, "config :caravan, nif_features: #{wrong}")
      assert {output, _status} = compile(project)

      assert output =~
               "config :caravan, nif_features: expected a list of :tls and :dnssec, or a part of it, got: #{wrong}."
    end
  end

  test "an empty CARAVAN_NIF counts as unset", context do
    assert {_output, 0} = compile(context.project, [{"CARAVAN_NIF", ""}])
    assert builds(context) == 1
  end

  test "RUSTFLAGS that hide the flag for musl are an error before cargo runs", context do
    env = [{"CARGO_BUILD_TARGET", "x86_64-unknown-linux-musl"}]
    assert {output, _status} = compile(context.project, [{"RUSTFLAGS", "-C opt-level=3"} | env])

    assert output =~
             ~s(expected -C target-feature=-crt-static for x86_64-unknown-linux-musl, got: "-C opt-level=3")

    assert builds(context) == 0
  end

  defp rust_target, do: head(@library) <> "-unknown-linux-gnu"

  defp head(library) do
    <<_::binary-size(18), machine::little-16, _::binary>> = File.read!(library)
    if machine == 0xB7, do: "aarch64", else: "x86_64"
  end
end
