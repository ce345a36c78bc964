defmodule Caravan.Gen.SamplesTest do
  use ExUnit.Case, async: true

  alias Caravan.Gen.EnvSh
  alias Caravan.Gen.Options
  alias Caravan.Gen.Samples
  alias Caravan.Test.Command
  alias Caravan.Test.Requirements

  @project %{app: :my_app, releases: [], umbrella?: false}

  # Prints a list of the documents in a JSON, TOML or YAML file, as JSON.
  @read """
  import json, sys, tomllib, yaml
  readers = {"json": lambda f: [json.load(f)], "toml": lambda f: [tomllib.load(f)], "yaml": lambda f: list(yaml.safe_load_all(f))}
  print(json.dumps(readers[sys.argv[1].split(".")[-1]](open(sys.argv[1], "rb"))))
  """

  defp options(argv) do
    {:ok, options} = Options.parse(String.split(argv), @project)
    options
  end

  defp deploy(argv), do: argv |> options() |> Samples.deploy() |> Map.new()
  defp env(argv), do: argv |> options() |> EnvSh.text()

  # Returns the documents of a file as JSON text without spaces. The tests compare text, because Elixir 1.14 has no JSON
  # parser.
  defp read(files, name) do
    dir = Path.join(System.tmp_dir!(), "samples-" <> Base.encode16(:rand.bytes(6), case: :lower))
    File.mkdir_p!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)
    path = Path.join(dir, Path.basename(name))
    File.write!(path, Map.fetch!(files, name))
    assert %{status: 0, stdout: json, stderr: ""} = Command.run(["python3", "-c", @read, path])
    String.replace(json, ~r/\s/, "")
  end

  @tag Requirements.tag(:python3_yaml)
  test "the manifest for Kubernetes has the service, port and variables of rel/env.sh.eex" do
    argv = "--platform kubernetes --port 4001"
    json = read(deploy(argv), "deploy/my-app.yaml")
    assert json =~ ~s("kind":"Service","metadata":{"name":"my-app"})
    assert json =~ ~s("clusterIP":"None","publishNotReadyAddresses":true)
    assert json =~ ~s("selector":{"app":"my-app"},"ports":[{"name":"dist","port":4001}])
    assert json =~ ~s("ports":[{"name":"dist","containerPort":4001}])
    assert json =~ ~s({"name":"POD_IPS","valueFrom":{"fieldRef":{"fieldPath":"status.podIPs"}}})
    assert env(argv) =~ "CARAVAN_BASE_PORT:-4001}"
    assert env(argv) =~ "CARAVAN_QUERY:-my-app.${POD_NAMESPACE:-default}.svc.cluster.local.}"

    for variable <- ~w(POD_IP POD_IPS POD_NAMESPACE) do
      assert json =~ ~s("name":"#{variable}")
      assert env(argv) =~ variable
    end

    assert read(deploy(argv <> " --ipv6"), "deploy/my-app.yaml") =~ ~s("ipFamilies":["IPv6"])
  end

  @tag Requirements.tag(:python3_yaml)
  test "the files for ECS have the port, and the name in Cloud Map" do
    argv = "--platform ecs --port 4001"
    files = deploy(argv)
    assert read(files, "deploy/task-definition.json") =~ ~s("containerPort":4001)
    assert read(files, "deploy/service-discovery.json") =~ ~s("Name":"my-app")
    assert read(files, "deploy/service-discovery.json") =~ ~s("Type":"A")
    assert env(argv) =~ "CARAVAN_QUERY:-my-app.ecs.internal.}"
    assert read(deploy(argv <> " --ipv6"), "deploy/service-discovery.json") =~ ~s("Type":"AAAA")
  end

  @tag Requirements.tag(:python3_yaml)
  test "the compose file has the service that rel/env.sh.eex looks up" do
    argv = "--platform docker --port 4001"
    json = read(deploy(argv), "deploy/compose.yaml")
    assert json =~ ~s({"services":{"my-app":)
    assert json =~ ~s("expose":["4001"])
    assert env(argv) =~ "CARAVAN_QUERY:-my-app.}"
  end

  @tag Requirements.tag(:python3_yaml)
  test "fly.toml starts the release" do
    assert read(deploy("--platform fly"), "deploy/fly.toml") =~ ~s("app":"/app/bin/my_appstart")
  end

  test "the job for Nomad has the port label and the service that rel/env.sh.eex uses" do
    job = deploy("--platform nomad")["deploy/my-app.nomad.hcl"]
    assert job =~ ~s(name = "my-app-dist"\n)
    assert job =~ ~s(port "dist" {})
    assert length(String.split(job, "{")) == length(String.split(job, "}"))
    assert env("--platform nomad") =~ "NOMAD_PORT_dist"
    assert env("--platform nomad") =~ "CARAVAN_QUERY:-my-app-dist.service.consul.}"
  end

  @tag Requirements.tag(:python3_yaml)
  test "each role has its own service or process group, and its nodes know their role" do
    roles = "--role core --role edge"
    manifest = read(deploy("--platform kubernetes #{roles}"), "deploy/my-app.yaml")
    compose = read(deploy("--platform docker #{roles}"), "deploy/compose.yaml")
    fly = read(deploy("--platform fly #{roles}"), "deploy/fly.toml")
    ecs = deploy("--platform ecs #{roles}")
    job = deploy("--platform nomad #{roles}")["deploy/my-app.nomad.hcl"]

    for role <- ["core", "edge"] do
      assert manifest =~ ~s("kind":"Service","metadata":{"name":"my-app-#{role}"})
      assert manifest =~ ~s({"name":"CARAVAN_ROLE","value":"#{role}"})
      assert compose =~ ~s("my-app-#{role}":{"build":"..","environment":{"CARAVAN_ROLE":"#{role}")
      assert fly =~ ~s("#{role}":"/app/bin/my_appstart")

      assert read(ecs, "deploy/task-definition-#{role}.json") =~
               ~s("environment":[{"name":"CARAVAN_ROLE","value":"#{role}"}])

      assert read(ecs, "deploy/service-discovery-#{role}.json") =~ ~s("Name":"my-app-#{role}")
      assert job =~ ~s(name = "my-app-#{role}-dist"\n)
      assert job =~ ~s(CARAVAN_ROLE = "#{role}"\n)
    end
  end

  test "with --platform plain, no files are generated" do
    assert deploy("--platform plain --query app.example.com") == %{}
  end
end
