defmodule Caravan.Doctor.Checks.ReleaseTest do
  use ExUnit.Case, async: true

  import Caravan.Test.Doctor

  alias Caravan.Test.PeerNode

  @flags "-epmd_module Elixir.Caravan.Epmd\n-start_epmd false\n"

  # The files that `mix release` writes without the directory rel. From Elixir 1.20 on, vm_args_text has an argument: whether
  # the file is for remote commands.
  @init Mix.Tasks.Release.Init
  _ = Code.ensure_loaded(@init)
  @arguments if function_exported?(@init, :vm_args_text, 1), do: [false], else: []
  @vm_args apply(@init, :vm_args_text, @arguments)
  @defaults %{
    "vm.args" => @vm_args,
    "remote.vm.args" => @vm_args,
    "env.sh" => @init.env_text()
  }
  @right %{
    "vm.args" => @flags,
    "remote.vm.args" => @flags,
    "env.sh" => "export RELEASE_DISTRIBUTION=name\n"
  }
  @random "FNVCPHMHX2QLSQZTCNVOOWWFVBWMCOLDIYXBSBUJ4VZXNBQ3ZDOA===="

  # A release with these files, and a VM that runs a command of it.
  defp release(files, env \\ [], options \\ []) do
    root = write_release(files)
    env = [{"RELEASE_ROOT", root}, {"RELEASE_VSN", "0.1.0"} | env]
    node = PeerNode.start!([env: eval_env("app-4001@127.0.0.1", env)] ++ options)
    report(node, only: [:release, :node])
  end

  defp write_release(files) do
    root = Path.join(System.tmp_dir!(), "release-" <> Base.encode16(:rand.bytes(6), case: :lower))
    on_exit(fn -> File.rm_rf!(root) end)
    dir = Path.join(root, "releases/0.1.0")
    File.mkdir_p!(dir)
    for {file, text} <- files, do: File.write!(Path.join(dir, file), text)
    root
  end

  test "a release with the files of the guide has no finding" do
    report = release(@right)
    assert findings(report) == []
    assert check(report, "release.vm_args").subject =~ "/releases/0.1.0/vm.args"
  end

  test "without a release, the reason is the only result" do
    node = PeerNode.start!(name: PeerNode.name("app"))
    report = report(node, only: [:release])
    refute report.ok
    assert [%{id: "release.rel_missing", status: "skipped", seen: seen}] = report.checks
    assert seen == "this VM is not of a release (no RELEASE_ROOT or no RELEASE_VSN)"
  end

  test "release.rel_missing fails if all files are Mix's defaults, and is the only failure" do
    report =
      release(@defaults, [{"RELEASE_DISTRIBUTION", "sname"}, {"RELEASE_NODE", "app"}], epmd: false)

    assert [{"failed", "release.rel_missing", seen}] = findings(report)
    assert seen == "vm.args, remote.vm.args and env.sh of the release are Mix's defaults"
    assert check(report, "release.rel_missing").fix =~ "\nCOPY rel rel\n"
    assert check(report, "node.epmd_module").seen == "release.rel_missing has failed"

    # The fix: the directory rel of a project, as `mix release` takes it in.
    fix = check(report, "release.rel_missing").fix
    [dir] = Regex.run(~r/^COPY (\S+) rel$/m, fix, capture: :all_but_first)
    files = Path.wildcard("examples/fleet/#{dir}/*.eex")
    copied = Map.new(files, &{Path.basename(&1, ".eex"), EEx.eval_file(&1)})
    assert findings(release(copied)) == []
  end

  test "release.vm_args fails if the file lacks the flags, and is the only failure" do
    for {text, missing} <- [
          {@defaults["vm.args"], "-epmd_module Elixir.Caravan.Epmd and -start_epmd false"},
          {"# " <> @flags, "-epmd_module Elixir.Caravan.Epmd"},
          {@flags <> "-start_epmd true\n", "-start_epmd false"}
        ] do
      report = release(%{@right | "vm.args" => text}, [], epmd: false)
      assert [{"failed", "release.vm_args", seen}] = findings(report)
      assert seen == "the node runs without #{missing}"
      fix = check(report, "release.vm_args").fix
      assert fix =~ "in rel/vm.args.eex"

      # The fix.
      ["in rel/vm.args.eex" <> _ | lines] = String.split(fix, "\n")
      mended = text <> "\n" <> Enum.join(lines, "\n") <> "\n"
      assert findings(release(%{@right | "vm.args" => mended})) == []
    end
  end

  test "release.remote_vm_args fails if the file lacks the flags or cannot be read" do
    report = release(%{@right | "remote.vm.args" => @defaults["vm.args"]})
    assert [{"failed", "release.remote_vm_args", seen}] = findings(report)
    assert seen =~ "the VM that bin/app rpc, remote or stop starts runs without -epmd_module"

    # The fix.
    fix = check(report, "release.remote_vm_args").fix
    ["in rel/remote.vm.args.eex" <> _ | lines] = String.split(fix, "\n")
    mended = @defaults["vm.args"] <> "\n" <> Enum.join(lines, "\n") <> "\n"
    assert findings(release(%{@right | "remote.vm.args" => mended})) == []

    assert [{"failed", "release.remote_vm_args", seen}] =
             findings(release(Map.delete(@right, "remote.vm.args")))

    assert seen == "the file cannot be read: no such file or directory"
  end

  test "the first -epmd_module counts, and the last -start_epmd, in the order of the command line" do
    other = "-epmd_module other\n"

    # The VM of the test lacks the flags, which is another finding.
    failed = fn files, env ->
      report = release(files, env, epmd: false)
      for {"failed", "release." <> check, _seen} <- findings(report), do: check
    end

    assert failed.(%{@right | "vm.args" => other <> @flags}, []) == ["vm_args"]
    assert failed.(%{@right | "vm.args" => @flags <> other}, []) == []

    assert failed.(@right, [{"ELIXIR_ERL_OPTIONS", other}]) == ["vm_args", "remote_vm_args"]
    assert failed.(@right, [{"ERL_ZFLAGS", other}]) == []
  end

  test "the fix names the variable that has another value" do
    fix = fn env ->
      check(release(%{@right | "vm.args" => ""}, env, epmd: false), "release.vm_args").fix
    end

    env = [{"ELIXIR_ERL_OPTIONS", "-epmd_module other"}, {"ERL_FLAGS", "+A 1"}]
    assert fix.(env) =~ "in rel/vm.args.eex and ELIXIR_ERL_OPTIONS, in place of other values"
    assert fix.([]) =~ "in rel/vm.args.eex, in place of other values"
  end

  test "flags of the environment count too" do
    flags = String.replace(@flags, "\n", " ")
    env = [{"ERL_ZFLAGS", flags}]
    assert findings(release(@defaults, env, epmd: false)) == []
  end

  test "release.cookie warns about the random cookie of a build" do
    root = write_release(@right)
    release = [{"RELEASE_ROOT", root}, {"RELEASE_VSN", "0.1.0"}]

    finding = fn built, used ->
      File.write!(Path.join(root, "releases/COOKIE"), built)
      eval = PeerNode.start!(env: eval_env("app@127.0.0.1", [{"RELEASE_COOKIE", used} | release]))
      report = report(eval, only: [:release])
      {findings(report), check(report, "release.cookie").fix}
    end

    seen = "the cookie is the random one of this build"
    assert {[{"warning", "release.cookie", ^seen}], fix} = finding.(@random, @random)
    assert fix == "RELEASE_COOKIE=… in the environment of all nodes"

    # The fix.
    assert {[], _} = finding.(@random, "own")

    # A node that `bin/app rpc` asks is connected with the hidden node of the command.
    File.write!(Path.join(root, "releases/COOKIE"), @random)
    cookie = [{"RELEASE_COOKIE", @random} | release]
    node = PeerNode.start!(name: PeerNode.name("app"), env: cookie)
    command = PeerNode.start!(name: PeerNode.name("rpc-1f2e-app"), args: ~w(-hidden))
    true = PeerNode.call(command, :net_kernel, :connect_node, [node.name])

    Caravan.Test.Host.await(
      fn -> PeerNode.call(node, :erlang, :nodes, [:hidden]) != [] end,
      "the node"
    )

    assert check(report(node, only: [:release]), "release.cookie").status == "warning"

    # The option cookie: of mix.exs.
    assert {[], _} = finding.("own", "own")
  end

  test "no finding contains the cookie" do
    report = release(@right, [{"RELEASE_COOKIE", "very_secret"}])
    refute inspect(report, limit: :infinity, printable_limit: :infinity) =~ "very_secret"
  end
end
