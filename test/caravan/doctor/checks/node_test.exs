defmodule Caravan.Doctor.Checks.NodeTest do
  use ExUnit.Case, async: true

  import Caravan.Test.Doctor

  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @only [only: [:node]]
  @flags "in rel/vm.args.eex and rel/remote.vm.args.eex:\n-epmd_module Elixir.Caravan.Epmd\n-start_epmd false"

  defp eval(name, env \\ [], options \\ []),
    do: PeerNode.start!([env: eval_env(name, env)] ++ options)

  test "a node that runs on Caravan.Epmd has no finding" do
    node = PeerNode.start!(name: PeerNode.name("app"))
    report = report(node, @only)
    assert findings(report) == []
    assert report.ok
    assert report.node == Atom.to_string(node.name)
    assert report.counts == %{ok: 6, warning: 0, failed: 0, skipped: 0}
  end

  test "a node that would start has no finding" do
    report = report(eval("app-4001@127.0.0.1"), @only)
    assert findings(report) == []
    assert report.node == "app-4001@127.0.0.1"
    assert check(report, "node.alive").seen == "bin/app start would start app-4001@127.0.0.1"
  end

  describe "node.alive" do
    test "fails in a VM without a name, and all other checks are skipped" do
      report = report(PeerNode.start!(), @only)
      assert findings(report) == [{"failed", "node.alive", "this VM runs without a node name"}]
      refute report.ok
      assert report.node == nil
      assert report.counts.skipped == 4
      assert report.counts.ok == 1
      assert check(report, "node.host").seen == "node.alive has failed"
      assert check(report, "node.alive").fix =~ "export RELEASE_DISTRIBUTION=name\n"
    end

    test "fails for a release without distribution" do
      report = report(eval("app@127.0.0.1", [{"RELEASE_DISTRIBUTION", "none"}]), @only)
      assert findings(report) == [{"failed", "node.alive", ~s(RELEASE_DISTRIBUTION is "none")}]
    end
  end

  describe "node.nif" do
    # A VM that would start with this file as the library.
    defp start_with_library(make) do
      dir = Path.join(System.tmp_dir!(), "nif-" <> Base.encode16(:rand.bytes(6), case: :lower))
      on_exit(fn -> File.rm_rf!(dir) end)
      app = Path.join(dir, "caravan")
      File.mkdir_p!(Path.join(app, "priv/native"))
      File.ln_s!(Application.app_dir(:caravan, "ebin"), Path.join(app, "ebin"))
      make.(Path.join(app, "priv/native/caravan_nif.so"))

      path =
        Enum.map([:elixir, :logger], &Application.app_dir(&1, "ebin")) ++ [Path.join(app, "ebin")]

      eval("app-4001@127.0.0.1", [], path: path)
    end

    defp library(make) do
      report = report(start_with_library(make), only: [:node, :ports])

      assert [{"failed", "node.nif", seen}, {"skipped", "ports.rule", "node.nif has failed"}] =
               for(
                 %{id: id} = check <- report.checks,
                 id in ["node.nif", "ports.rule"],
                 do: {check.status, id, check.seen}
               )

      assert [{"failed", "node.nif", ^seen}] = findings(report)
      {seen, check(report, "node.nif").fix}
    end

    test "fails if the library is missing" do
      assert {seen, fix} = library(fn _path -> :ok end)
      assert seen =~ "caravan_nif.so cannot be loaded: "
      assert fix =~ "build the release again. The library is "
    end

    test "is the only failure, also if options of the topology need the library" do
      node = start_with_library(fn _path -> :ok end)

      for options <- [[], [nameservers: ["127.0.0.1"], dnssec: true, allow: ["10.0.0.0/8"]]] do
        options = [query: "app.test", type: :a] ++ options

        PeerNode.call(node, Application, :put_env, [:kernel, Caravan.Cluster.DnsStrategy, options])

        for options <- [[], [topology: :caravan], [strategy: options]] do
          report = report(node, options)
          assert [{"failed", "node.nif", _seen}] = findings(report)
          assert check(report, "cluster.topology").seen == "node.nif has failed"
        end
      end
    end

    test "is in the report of another group if all checks of that group need the library" do
      node = start_with_library(fn _path -> :ok end)

      for group <- [:ports, :dns, :peers] do
        report = report(node, only: [group])
        assert [{"failed", "node.nif", _seen}] = findings(report)
        assert %{ok: 0, warning: 0, failed: 1} = report.counts
        refute report.ok
      end
    end

    test "fails if the library is for another CPU, or is none" do
      # The number of AArch64 in the header (e_machine, elf(5)).
      other_cpu = fn path ->
        <<head::binary-size(18), _machine::binary-size(2), tail::binary>> =
          File.read!(Application.app_dir(:caravan, "priv/native/caravan_nif.so"))

        File.write!(path, head <> <<183::little-16>> <> tail)
      end

      for make <- [other_cpu, &File.write!(&1, "text")] do
        assert {seen, fix} = library(make)
        assert seen =~ "cannot be loaded: "
        assert fix =~ "for the CPU and the system of this machine"
      end
    end

    # Without --no-as-needed, gcc does not link a library whose functions are not used.
    defp cc(arguments),
      do:
        assert(
          {_, 0} =
            System.cmd("gcc", ["-shared", "-fPIC", "-Wl,--no-as-needed" | arguments],
              stderr_to_stdout: true
            )
        )

    @tag Requirements.tag(:gcc)
    test "fails if a library is missing, or has not the version that is needed" do
      for {version, expected} <- [
            {nil, "install the library libneeded.so.1"},
            {"VER_8", "on an older one"}
          ] do
        assert {_seen, fix} =
                 library(fn path ->
                   dir = Path.dirname(path)
                   needed = Path.join(dir, "libneeded.so.1")
                   source = Path.join(dir, "needed.c")
                   map = Path.join(dir, "map")
                   File.write!(source, "int needed(void) { return 1; }\n")
                   soname = ["-Wl,-soname,libneeded.so.1", "-o", needed, source]

                   build = fn version ->
                     File.write!(map, "#{version} { global: needed; };\n")
                     cc(["-Wl,--version-script,#{map}" | soname])
                   end

                   build.("VER_9")
                   user = Path.join(dir, "user.c")
                   File.write!(user, "int needed(void); int use(void) { return needed(); }\n")
                   cc(["-o", path, user, "-Wl,-rpath,#{dir}", needed])
                   if version, do: build.(version), else: File.rm!(needed)
                 end)

        assert fix =~ expected
      end
    end
  end

  describe "node.epmd_module" do
    test "fails for a node on another module" do
      node = PeerNode.start!(name: "app@127.0.0.1", epmd: false, args: ~w(-dist_listen false))
      report = report(node, @only)
      assert findings(report) == [{"failed", "node.epmd_module", "the epmd module is :erl_epmd"}]
      assert check(report, "node.epmd_module").fix == @flags
    end

    test "fails for a release without the VM argument" do
      report = report(eval("app@127.0.0.1", [], epmd: false), @only)
      assert findings(report) == [{"failed", "node.epmd_module", "the epmd module is :erl_epmd"}]
    end

    test "fails for a release on another module, and makes no atom of its name" do
      # OTP uses the first value.
      args = ~w(-epmd_module Elixir.Other_Epmd_4711 -epmd_module Elixir.Caravan.Epmd)
      node = eval("app@127.0.0.1", [], epmd: false, args: args)
      assert [{"failed", "node.epmd_module", seen}] = findings(report(node, @only))
      assert seen == "the epmd module is Other_Epmd_4711"
    end
  end

  describe "node.epmd_started" do
    # The program that erl starts in place of epmd leaves a file behind. It has another name, because other tests look for
    # processes of the name epmd.
    test "warns about a node for which erl has started an epmd daemon" do
      dir = Path.join(System.tmp_dir!(), "epmd-#{Host.free_port()}")
      File.mkdir!(dir)
      on_exit(fn -> File.rm_rf!(dir) end)
      program = Path.join(dir, "program")
      File.write!(program, "#!/bin/sh\ntouch #{dir}/started\n")
      File.chmod!(program, 0o755)

      name = PeerNode.name("app")
      args = ~w(-epmd_module Elixir.Caravan.Epmd -start_epmd true -epmd #{program})
      node = PeerNode.start!(name: name, epmd: false, args: args)
      assert File.exists?(Path.join(dir, "started"))

      report = report(node, @only)
      seen = "the start of the node starts an epmd daemon"
      assert findings(report) == [{"warning", "node.epmd_started", seen}]
      assert report.ok
      refute report(node, [strict: true] ++ @only).ok

      # The fix.
      fix = check(report, "node.epmd_started").fix
      assert "in rel/vm.args.eex and rel/remote.vm.args.eex:\n" <> flag = fix

      mended =
        PeerNode.start!(name: PeerNode.name("app"), epmd: false, args: args ++ String.split(flag))

      assert findings(report(mended, @only)) == []
    end
  end
end
