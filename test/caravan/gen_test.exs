defmodule Caravan.GenTest do
  use ExUnit.Case, async: true

  alias Caravan.Gen
  alias Caravan.Test.Command
  alias Caravan.Test.Requirements

  @child "{Caravan.Cluster.DnsStrategy, Application.fetch_env!(:app, Caravan.Cluster.DnsStrategy)}"
  @project %{app: :app, releases: [], umbrella?: false}
  @platforms %{
    "kubernetes" => {[{"POD_IP", "10.0.0.7"}], "app@10.0.0.7"},
    "nomad" =>
      {[
         {"NOMAD_IP_dist", "10.77.0.1"},
         {"NOMAD_PORT_dist", "25001"},
         {"NOMAD_HOST_PORT_dist", "25000"}
       ], "app-25000@0a4d0001.addr"},
    "fly" => {[{"FLY_PRIVATE_IP", "fdaa:0:1::3"}, {"FLY_APP_NAME", "my-app"}], "app@fdaa:0:1::3"},
    "ecs" => {[], nil},
    "docker" => {[], nil},
    "plain" => {[], nil}
  }

  # The env.sh.eex of `mix release.init` of Elixir 1.14.
  @release_init """
  #!/bin/sh

  # # Set the release to load code on demand (interactive) instead of preloading (embedded).
  # export RELEASE_MODE=interactive

  # # Set the release to work across nodes.
  # # RELEASE_DISTRIBUTION must be "sname" (local), "name" (distributed) or "none".
  # export RELEASE_DISTRIBUTION=name
  # export RELEASE_NODE=<%= @release.name %>
  """

  # The env.sh.eex of `fly launch`, from scanner/phoenix.go of flyctl.
  @fly_launch """
  #!/bin/sh

  if [ -n "$FLY_APP_NAME" ]; then
    export DNS_CLUSTER_QUERY="${FLY_APP_NAME}.internal"
    export RELEASE_NODE="${FLY_APP_NAME}-${FLY_IMAGE_REF##*-}@${FLY_PRIVATE_IP}"
    # configure node for distributed erlang with IPV6 support
    export ERL_AFLAGS="-proto_dist inet6_tcp"
    export ECTO_IPV6="true"
  fi

  export RELEASE_DISTRIBUTION="name"

  # when not running on fly.io, use a sensible default
  export RELEASE_NODE=${RELEASE_NODE:-<%= @release.name %>@$(hostname)}
  """

  setup do
    root = Path.join(System.tmp_dir!(), "gen-" <> Base.encode16(:rand.bytes(6), case: :lower))
    File.mkdir_p!(Path.join(root, "rel"))
    on_exit(fn -> File.rm_rf!(root) end)

    {:ok,
     root: root, env: Path.join(root, "rel/env.sh.eex"), vm: Path.join(root, "rel/vm.args.eex")}
  end

  # Returns the status and what was printed.
  defp gen(root, argv, opts \\ []) do
    {:ok, output} = Agent.start_link(fn -> [] end)
    print = fn text -> Agent.update(output, &[text, "\n" | &1]) end
    yes? = fn question -> print.(question) && Keyword.fetch!(opts, :answer) end
    shell = %{info: print, error: print, yes?: yes?}
    status = Gen.run(String.split(argv), Keyword.get(opts, :project, @project), root, shell)
    {status, output |> Agent.get(& &1) |> Enum.chunk_every(2) |> Enum.reverse() |> Enum.join()}
  end

  defp files(root) do
    for file <- Path.wildcard(Path.join(root, "**"), match_dot: true),
        File.regular?(file),
        into: %{} do
      {Path.relative_to(file, root), File.read!(file)}
    end
  end

  defp argv("plain"), do: "--platform plain --query app.example.com"
  defp argv(platform), do: "--platform #{platform}"

  # Runs the script as the script of a release does, and returns the variables that it exports, and its messages. On Debian,
  # the shell is dash.
  defp run(env, vars) do
    script = Path.join(Path.dirname(env), "env.sh")
    File.write!(script, EEx.eval_file(env, assigns: [release: %{name: :app}]))
    command = ["sh", "-c", ~S(set -eu; . "$0"; exec env -0), script]
    assert %{status: 0} = ran = Command.run(command, env: vars)
    lines = String.split(ran.stdout, "\0", trim: true)
    {Map.new(lines, &(&1 |> String.split("=", parts: 2) |> List.to_tuple())), ran.stderr}
  end

  for platform <- Map.keys(@platforms) do
    describe "for #{platform}," do
      test "a second run changes no byte of new files", %{root: root} do
        assert {0, _} = gen(root, argv(unquote(platform)) <> " --yes")
        files = files(root)

        assert %{
                 "rel/env.sh.eex" => _,
                 "rel/vm.args.eex" => args,
                 "rel/remote.vm.args.eex" => args
               } = files

        assert args =~ "-epmd_module Elixir.Caravan.Epmd\n-start_epmd false\n"
        assert {0, output} = gen(root, argv(unquote(platform)))
        assert output =~ "No file has to change."
        assert files(root) == files
      end

      test "the lines of `mix release.init` and `fly launch` stay", %{root: root, env: env} do
        for text <- [@release_init, @fly_launch] do
          File.write!(env, text)
          {status, output} = gen(root, argv(unquote(platform)) <> " --yes")

          if text == @fly_launch and unquote(platform) != "fly" do
            assert status == 2
            assert output =~ "expected -proto_dist inet_tcp, got: -proto_dist inet6_tcp"
            assert File.read!(env) == text
          else
            assert status == 0
            amended = File.read!(env)
            without = String.replace(amended, ~r/# caravan: begin.*# caravan: end\n\n/s, "")
            assert without == text
            assert {0, _} = gen(root, argv(unquote(platform)))
            assert File.read!(env) == amended
          end
        end
      end

      @tag Requirements.tag(:shellcheck)
      test "shellcheck finds no fault in the script", %{root: root, env: env} do
        nomad? = unquote(platform) == "nomad"

        roles = "--role core --role edge"

        variants =
          if nomad?,
            do: ["", "--tls", roles],
            else: ["--port 4001", "--tls", "--ipv6", "--ipv6 --tls", roles]

        for variant <- variants do
          assert {0, _} = gen(root, "#{argv(unquote(platform))} #{variant} --yes")
          assert %{status: 0, stdout: ""} = Command.run(["shellcheck", "--shell=sh", env])
        end
      end
    end
  end

  describe "the script" do
    for {platform, {vars, name}} <- @platforms, name do
      test "names the node by the variables of #{platform}", %{root: root, env: env} do
        port = if unquote(platform) != "nomad", do: "--port 4001"
        assert {0, _} = gen(root, "#{argv(unquote(platform))} #{port} --yes")
        assert {exported, ""} = run(env, unquote(vars))
        assert exported["RELEASE_NODE"] == unquote(name)
        assert exported["RELEASE_DISTRIBUTION"] == "name"
        assert exported["CARAVAN_PORT_RULE"] == if(port, do: "fixed")
        assert exported["CARAVAN_BASE_PORT"] == if(port, do: "4001")
        assert exported["CARAVAN_LISTEN_PORT"] == unless(port, do: "25001")
      end

      test "without the variables of #{platform}, names a node on this host and says so", %{
        root: root,
        env: env
      } do
        assert {0, _} = gen(root, argv(unquote(platform)) <> " --yes")
        assert {exported, line} = run(env, [])
        assert exported["RELEASE_NODE"] == "app@127.0.0.1"
        refute exported["CARAVAN_QUERY"]
        refute exported["CARAVAN_BASE_PORT"]

        assert exported["ERL_AFLAGS"] ==
                 if(unquote(platform) == "fly", do: " -proto_dist inet_tcp")

        {variable, _value} = hd(unquote(vars))
        family = if unquote(platform) == "fly", do: "IPv6", else: "IPv4"

        assert line ==
                 "caravan: no #{family} address in #{variable}, so this node is app@127.0.0.1 and finds no other nodes\n"
      end
    end

    test "says that a node with RELEASE_NODE and without CARAVAN_QUERY finds no other nodes", %{
      root: root,
      env: env
    } do
      assert {0, _} = gen(root, "--platform kubernetes --yes")
      assert {exported, line} = run(env, [{"RELEASE_NODE", "app@10.0.0.5"}])
      assert exported["RELEASE_NODE"] == "app@10.0.0.5"
      assert line =~ "so this node is app@10.0.0.5 and finds no other nodes"
      assert {_, ""} = run(env, [{"RELEASE_NODE", "app@10.0.0.5"}, {"CARAVAN_QUERY", "app."}])
    end

    test "refuses a line that would take -proto_dist away again", %{root: root, env: env} do
      assert {0, _} = gen(root, "--platform kubernetes --yes")
      File.write!(env, File.read!(env) <> ~s(export ERL_AFLAGS="+sbwt none"\n))
      before = File.read!(env)
      assert {2, output} = gen(root, "--platform kubernetes --tls --yes")

      assert output =~
               ~s(expected ERL_AFLAGS to keep its value, because it has -proto_dist, got: "+sbwt none")

      assert File.read!(env) == before

      File.write!(env, String.replace(before, ~s("+sbwt), ~s("$ERL_AFLAGS +sbwt)))
      assert {0, _} = gen(root, "--platform kubernetes --tls --yes")
    end

    test "takes the first address of the right family", %{root: root, env: env} do
      ips = "169.254.1.2,127.0.0.1,fe80::1,::1,fd77::7,10.0.0.7,10.0.0.8,fd77::8"
      assert {0, _} = gen(root, "--platform kubernetes --yes")
      assert {%{"RELEASE_NODE" => "app@10.0.0.7"} = exported, ""} = run(env, [{"POD_IPS", ips}])
      assert exported["CARAVAN_QUERY"] == "app.default.svc.cluster.local."
      refute exported["ERL_AFLAGS"]

      assert {0, _} = gen(root, "--platform kubernetes --ipv6 --yes")
      assert {%{"RELEASE_NODE" => "app@fd77::7"} = exported, ""} = run(env, [{"POD_IPS", ips}])
      assert exported["ERL_AFLAGS"] == " -proto_dist inet6_tcp"

      # A command that the node itself starts has the node's ERL_AFLAGS.
      assert {again, ""} = run(env, [{"POD_IPS", ips}, {"ERL_AFLAGS", exported["ERL_AFLAGS"]}])
      assert again["ERL_AFLAGS"] == exported["ERL_AFLAGS"]
    end

    test "takes one address of those that hostname prints", %{root: root, env: env} do
      path = program(root, "hostname", "echo fd77::1 127.0.1.1 172.17.0.2 10.0.0.2")

      for platform <- ["docker", "plain"] do
        assert {0, _} = gen(root, argv(platform) <> " --yes")
        assert {%{"RELEASE_NODE" => "app@172.17.0.2"}, ""} = run(env, path)
        assert {0, _} = gen(root, argv(platform) <> " --ipv6 --yes")
        assert {%{"RELEASE_NODE" => "app@fd77::1"}, ""} = run(env, path)
      end

      program(root, "hostname", "exit 1")
      assert {%{"RELEASE_NODE" => "app@127.0.0.1"}, line} = run(env, path)
      assert line =~ "no IPv6 address in the output of hostname -I,"
    end

    test "takes the address of a task of ECS from its metadata, or from the host name", %{
      root: root,
      env: env
    } do
      assert {0, _} = gen(root, "--platform ecs --yes")
      assert {%{"RELEASE_NODE" => "app@127.0.0.1"}, line} = run(env, [])

      assert line =~
               "caravan: no IPv4 address in the metadata of the task (ECS_CONTAINER_METADATA_URI_V4), so"

      # The format is in the AWS documentation, "Amazon ECS task metadata endpoint version 4".
      networks =
        ~S({"Networks": [{"NetworkMode": "awsvpc", "IPv4Addresses": ["10.0.2.61", "10.0.2.62"],
        "IPv6Addresses": ["fd77::61"], "AttachmentIndex": 0}]})

      _ = program(root, "hostname", "echo 10.0.2.99")
      path = program(root, "curl", "[ \"$4\" = http://metadata/v4 ] && echo '#{networks}'")
      vars = [{"ECS_CONTAINER_METADATA_URI_V4", "http://metadata/v4"} | path]
      assert {%{"RELEASE_NODE" => "app@10.0.2.61"} = exported, ""} = run(env, vars)
      assert exported["CARAVAN_QUERY"] == "app.ecs.internal."

      program(root, "curl", "exit 22")
      assert {%{"RELEASE_NODE" => "app@10.0.2.99"}, ""} = run(env, vars)

      assert {0, _} = gen(root, "--platform ecs --ipv6 --yes")
      program(root, "curl", "echo '#{networks}'")
      assert {%{"RELEASE_NODE" => "app@fd77::61"}, ""} = run(env, vars)
    end

    test "starts distribution over TLS for the family of the node's address", %{
      root: root,
      env: env
    } do
      root_dir = {"RELEASE_ROOT", "/app"}
      assert {0, output} = gen(root, "--platform kubernetes --tls --yes")
      assert output =~ "Add :ssl to :extra_applications"
      assert {exported, _line} = run(env, [root_dir])
      tls = " -ssl_dist_optfile /app/inet_tls.conf"
      assert exported["ERL_AFLAGS"] == " -proto_dist inet_tls" <> tls

      assert {0, _} = gen(root, "--platform kubernetes --tls --ipv6 --yes")
      assert {exported, ""} = run(env, [root_dir, {"POD_IP", "fd77::7"}])
      assert exported["ERL_AFLAGS"] == " -proto_dist inet6_tls" <> tls

      {:ok, [conf]} = :file.consult(Path.join(root, "rel/overlays/inet_tls.conf"))
      assert conf[:server][:fail_if_no_peer_cert]
      for side <- [:server, :client], do: assert(conf[side][:verify] == :verify_peer)
    end

    test "keeps values of the environment", %{root: root, env: env} do
      assert {0, _} = gen(root, "--platform kubernetes --yes")

      vars = [
        {"POD_IP", "10.0.0.7"},
        {"RELEASE_NODE", "web@10.0.0.9"},
        {"CARAVAN_QUERY", "web.example."},
        {"CARAVAN_PORT_RULE", "name"}
      ]

      assert {exported, ""} = run(env, vars)
      for {key, value} <- tl(vars), do: assert(exported[key] == value)
    end

    test "works together with the script of `fly launch`, on Fly and on a laptop", %{
      root: root,
      env: env
    } do
      File.write!(env, @fly_launch)
      assert {0, output} = gen(root, "--platform fly --yes")

      assert [_, number] =
               Regex.run(
                 ~r/rel.env.sh.eex, line (\d+), sets RELEASE_NODE="\$\{FLY_APP_NAME/,
                 output
               )

      line = env |> File.read!() |> String.split("\n") |> Enum.at(String.to_integer(number) - 1)
      assert line =~ ~s(export RELEASE_NODE="${FLY_APP_NAME})

      {vars, _name} = @platforms["fly"]
      ref = {"FLY_IMAGE_REF", "registry.fly.io/my-app:deployment-01JEADXHQVQ24PBYX1HVYZZW27"}
      assert {exported, ""} = run(env, [ref | vars])
      assert exported["RELEASE_NODE"] == "my-app-01JEADXHQVQ24PBYX1HVYZZW27@fdaa:0:1::3"
      assert exported["ERL_AFLAGS"] == "-proto_dist inet6_tcp"
      assert exported["CARAVAN_QUERY"] == "my-app.internal."
      assert exported["CARAVAN_PORT_RULE"] == "fixed"

      # The script of `fly launch` reads a variable that need not be set.
      assert {exported, _line} = run(env, [{"FLY_APP_NAME", ""}])
      assert exported["RELEASE_NODE"] == "app@127.0.0.1"
      assert exported["ERL_AFLAGS"] == " -proto_dist inet_tcp"
    end
  end

  describe "the task" do
    test "asks before it writes, and writes nothing without a yes", %{root: root} do
      assert {1, output} = gen(root, "--platform kubernetes", answer: false)
      assert output =~ "+ -epmd_module Elixir.Caravan.Epmd"
      assert output =~ "Write these changes?\nNothing was written."
      assert files(root) == %{}

      assert {0, output} = gen(root, "--platform kubernetes", answer: true)
      assert output =~ "* wrote rel/env.sh.eex"

      assert Enum.sort(Map.keys(files(root))) ==
               ~w(deploy/app.yaml rel/env.sh.eex rel/remote.vm.args.eex rel/vm.args.eex)
    end

    test "writes nothing with --dry-run, and its status is 1 if something would change", %{
      root: root
    } do
      assert {1, output} = gen(root, "--platform kubernetes --dry-run")
      assert output =~ "+ -epmd_module Elixir.Caravan.Epmd"
      assert files(root) == %{}
      assert {0, _} = gen(root, "--platform kubernetes --yes")
      assert {0, _} = gen(root, "--platform kubernetes --dry-run")
      assert {1, _} = gen(root, "--platform kubernetes --dry-run --port 4001")
    end

    test "prints the lines for the configuration and the supervision tree until they are there",
         %{root: root} do
      assert {0, output} = gen(root, "--platform kubernetes --yes")

      assert output =~
               "Create config/runtime.exs:\n\n    import Config\n\n    config :app, Caravan.Cluster.DnsStrategy,"

      assert output =~
               "    {Caravan.Cluster.DnsStrategy, Application.fetch_env!(:app, Caravan.Cluster.DnsStrategy)}"

      for {path, text} <- [
            {"config/runtime.exs", "import Config\n"},
            {"lib/app/application.ex", ""}
          ] do
        File.mkdir_p!(Path.dirname(Path.join(root, path)))
        File.write!(Path.join(root, path), text)
      end

      assert {0, output} = gen(root, "--platform kubernetes --yes")
      assert output =~ "Add this to config/runtime.exs:\n\n    config :app"
      assert [_, config] = Regex.run(~r/runtime\.exs:\n\n(.*?)\n\n\n?Add/s, output)
      assert [app: [{Caravan.Cluster.DnsStrategy, options}]] = eval_config(root, config)
      assert options == [topology: :app, query: :ignore, type: :a]
      assert Caravan.Cluster.Config.new!(options)

      File.write!(Path.join(root, "config/runtime.exs"), "import Config\n" <> config)
      application = Path.join(root, "lib/app/application.ex")
      # As in the README, before the platform is chosen.
      File.write!(application, ~s({Caravan.Cluster.DnsStrategy, query: "localhost", type: :a}))
      assert {0, output} = gen(root, "--platform kubernetes --yes")

      assert output =~
               "Put this in place of the child Caravan.Cluster.DnsStrategy in lib/app/application.ex"

      File.write!(application, @child)
      assert {0, "No file has to change.\n\n"} = gen(root, "--platform kubernetes --yes")
    end

    test "with roles, adds -connect_all false, and prints a topology and a child for each role",
         %{root: root, env: env, vm: vm} do
      roles = "--platform fly --role core --role edge"
      assert {0, output} = gen(root, roles <> " --yes")
      assert File.read!(vm) =~ "\n-connect_all false\n"
      assert {0, again} = gen(root, roles)
      assert again =~ "No file has to change."

      assert [_, config] = Regex.run(~r/runtime\.exs:\n\n(.*?)\n\n\n?Add/s, output)
      variables = &Map.take(&1, ["CARAVAN_ROLE", "CARAVAN_QUERY_CORE", "CARAVAN_QUERY_EDGE"])
      fly = [{"FLY_PRIVATE_IP", "fdaa::3"}, {"FLY_APP_NAME", "app"}]

      for {role, links} <- [{"core", :all}, {"edge", 3}] do
        {exported, ""} = run(env, [{"FLY_PROCESS_GROUP", role} | fly])

        assert variables.(exported) == %{
                 "CARAVAN_ROLE" => role,
                 "CARAVAN_QUERY_CORE" => "core.process.app.internal.",
                 "CARAVAN_QUERY_EDGE" => "edge.process.app.internal."
               }

        config = String.replace(config, ~s("CARAVAN_ROLE", "core"), ~s("NO_SUCH", "#{role}"))

        assert [app: [{Caravan.Cluster.DnsStrategy, [core: core, edge: edge]}]] =
                 eval_config(root, config)

        assert {core[:topology], core[:links], core[:query]} == {:core, links, :ignore}
        assert {edge[:topology], edge[:links], edge[:type]} == {:edge, 0, :aaaa}
        for options <- [core, edge], do: assert(Caravan.Cluster.Config.new!(options))
      end

      for role <- ["core", "edge"],
          do: assert(output =~ "fetch_env!(:app, Caravan.Cluster.DnsStrategy)[:#{role}]}")
    end

    test "with roles, puts the lines in place of those without", %{root: root} do
      for dir <- ["config", "lib/app"], do: File.mkdir_p!(Path.join(root, dir))
      runtime = Path.join(root, "config/runtime.exs")
      File.write!(runtime, ~s(config :app, Caravan.Cluster.DnsStrategy, query: "app.test"))
      File.write!(Path.join(root, "lib/app/application.ex"), @child)
      assert {0, _} = gen(root, "--platform kubernetes --yes")
      assert {0, "No file has to change.\n\n"} = gen(root, "--platform kubernetes")

      roles = "--platform kubernetes --role core --role edge"
      assert {0, output} = gen(root, roles <> " --yes")

      assert output =~
               "in place of Caravan.Cluster.DnsStrategy in config/runtime.exs:\n\n    # Each"

      assert output =~ "of the child Caravan.Cluster.DnsStrategy in lib/app/application.ex:"

      [_, lines] = Regex.run(~r/runtime\.exs:\n\n(.*?)\n\n\n?Put/s, output)
      File.write!(runtime, lines)
      assert {0, "No file has to change.\n\n"} = gen(root, roles)
    end

    test "puts the child in place of the one that Phoenix has", %{root: root} do
      application = Path.join(root, "lib/app/application.ex")
      File.mkdir_p!(Path.dirname(application))

      File.write!(
        application,
        "{DNSCluster, query: Application.get_env(:app, :dns_cluster_query) || :ignore},"
      )

      assert {0, output} = gen(root, "--platform kubernetes --yes")

      assert output =~
               "Put this in place of the child DNSCluster in lib/app/application.ex:\n\n    {Caravan.Cluster"
    end

    test "writes a Dockerfile for docker, and only where there is none", %{root: root} do
      assert {0, output} = gen(root, "--platform docker --port 4001 --yes")
      assert %{"Dockerfile" => dockerfile, ".dockerignore" => ignored} = files(root)
      assert dockerfile =~ "EXPOSE 4001\n"
      assert dockerfile =~ "RUN mix release\n"
      assert ignored =~ "_build\ndeps\n"
      refute output =~ "has no Rust"
      assert Caravan.Gen.Dockerfile.notes(dockerfile, "rel") == []

      File.write!(Path.join(root, "Dockerfile"), "FROM rust\nRUN mix release\n")
      File.rm!(Path.join(root, ".dockerignore"))
      assert {0, output} = gen(root, "--platform docker --port 4001")
      refute File.exists?(Path.join(root, ".dockerignore"))
      assert output =~ "COPY rel rel"
      assert File.read!(Path.join(root, "Dockerfile")) == "FROM rust\nRUN mix release\n"

      # The package of Hex carries the library.
      File.write!(Path.join(root, "Dockerfile"), "RUN mix release\n")
      assert {0, output} = gen(root, "--platform docker --port 4001")
      assert output =~ "has no Rust"
      File.mkdir_p!(Path.join(root, "deps/caravan"))
      File.write!(Path.join(root, "deps/caravan/hex_metadata.config"), "")
      assert {0, output} = gen(root, "--platform docker --port 4001")
      refute output =~ "has no Rust"
    end

    test "writes a sample only into a new directory", %{root: root} do
      File.mkdir_p!(Path.join(root, "deploy"))
      assert {0, _} = gen(root, "--platform kubernetes --yes")
      refute Enum.any?(Map.keys(files(root)), &(&1 =~ "deploy"))
    end

    test "writes into the templates of the chosen release", %{root: root} do
      project = %{@project | releases: [web: [], worker: [rel_templates_path: "rel/worker"]]}
      assert {2, _} = gen(root, "--platform kubernetes --yes", project: project)
      assert {0, _} = gen(root, "--platform kubernetes --release worker --yes", project: project)
      assert %{"rel/worker/env.sh.eex" => env} = files(root)
      assert env =~ "worker@$caravan_host"
    end
  end

  test "in the root of an umbrella, the lines are for one of its applications", %{root: root} do
    shop = [applications: [web: :permanent, db: :permanent]]
    project = %{app: nil, releases: [shop: shop], umbrella?: true}
    assert {0, output} = gen(root, "--platform kubernetes --yes", project: project)
    assert output =~ "Add this to the children of the supervisor in one of the applications:"
    assert output =~ "config :web, Caravan.Cluster.DnsStrategy,"
    assert %{"rel/env.sh.eex" => env} = files(root)
    assert env =~ "shop@$caravan_host"

    application = Path.join(root, "apps/web/lib/web/application.ex")
    File.mkdir_p!(Path.dirname(application))
    File.write!(application, "children = []")
    assert {0, output} = gen(root, "--platform kubernetes --yes", project: project)
    assert output =~ "children of the supervisor in apps/web/lib/web/application.ex:"
  end

  describe "an error has status 2 and writes nothing" do
    defp assert_refused(root, argv, expected) do
      files = files(root)
      assert {2, output} = gen(root, argv <> " --yes")
      assert output =~ expected
      assert output =~ "Nothing was written.\n"
      assert files(root) == files
    end

    test "for a wrong option", %{root: root} do
      assert_refused(
        root,
        "--platform docker --port 70000",
        "expected a port from 1 to 65535, got: 70000."
      )
    end

    test "for a flag with another value", %{root: root, vm: vm} do
      File.write!(
        vm,
        "-proto_dist Elixir.Caravan.Epmd.Dist\n-epmd_module Elixir.Caravan.Epmd.Client\n"
      )

      assert_refused(
        root,
        "--platform docker",
        "rel/vm.args.eex: expected -proto_dist inet_tcp, got: -proto_dist Elixir.Caravan.Epmd.Dist. Remove this flag"
      )

      File.write!(vm, "-epmd_module Elixir.Caravan.Epmd.Client\n")

      assert_refused(
        root,
        "--platform docker",
        "rel/vm.args.eex: expected -epmd_module Elixir.Caravan.Epmd, got: -epmd_module Elixir.Caravan.Epmd.Client."
      )

      File.write!(vm, "-proto_dist inet6_tcp\n")

      assert_refused(
        root,
        "--platform fly",
        "rel/vm.args.eex: expected no -proto_dist, because rel/env.sh.eex has it"
      )
    end

    test "for a script that sets another distribution", %{root: root, env: env} do
      File.write!(env, "export RELEASE_DISTRIBUTION=sname\n")

      assert_refused(
        root,
        "--platform docker",
        "rel/env.sh.eex, line 1: expected RELEASE_DISTRIBUTION to be name, got: sname."
      )
    end

    test "for a broken block", %{root: root, env: env} do
      File.write!(env, "# caravan: begin\n")

      assert_refused(
        root,
        "--platform docker",
        "rel/env.sh.eex: expected one line `# caravan: begin`"
      )
    end

    test "for files that cannot be read or written", %{root: root, env: env} do
      File.mkdir!(env)

      assert_refused(
        root,
        "--platform docker",
        "rel/env.sh.eex: expected a file that can be read, got: illegal operation on a directory."
      )

      File.rm_rf!(Path.join(root, "rel"))
      File.write!(Path.join(root, "rel"), "")

      assert_refused(
        root,
        "--platform docker",
        "rel/env.sh.eex: expected a file that can be read, got: not a directory."
      )
    end

    test "for a file that is not UTF-8", %{root: root, env: env} do
      File.write!(env, "# caf\xE9\n")

      assert_refused(
        root,
        "--platform docker",
        "rel/env.sh.eex: expected text in UTF-8, got: other bytes."
      )
    end

    test "for files of a file system that is read-only" do
      project = %{@project | releases: [app: [rel_templates_path: "caravan"]]}
      assert {2, output} = gen("/proc/sys", "--platform kubernetes --yes", project: project)
      assert output =~ "caravan/env.sh.eex: expected a file that can be written"
    end
  end

  # Creates a program in a directory. Returns the variable PATH with this directory before those of the system.
  defp program(root, name, line) do
    bin = Path.join(root, "bin")
    File.mkdir_p!(bin)
    file = Path.join(bin, name)
    File.write!(file, "#!/bin/sh\n#{line}\n")
    File.chmod!(file, 0o755)
    [{"PATH", "#{bin}:#{System.get_env("PATH")}"}]
  end

  defp eval_config(root, text) do
    file = Path.join(root, "eval.exs")
    File.write!(file, "import Config\n" <> text)
    Config.Reader.read!(file)
  end
end
