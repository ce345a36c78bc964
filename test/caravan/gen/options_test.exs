defmodule Caravan.Gen.OptionsTest do
  use ExUnit.Case, async: true

  alias Caravan.Gen.Options

  @project %{app: :my_app, releases: [], umbrella?: false}

  defp parse(argv, project \\ @project), do: Options.parse(String.split(argv), project)

  defp refused(argv, project \\ @project) do
    assert {:error, message} = parse(argv, project)
    message
  end

  test "the defaults are the name of the application, port 4370, and the query of the platform" do
    assert {:ok, options} = parse("--platform kubernetes")
    assert %{app: "my_app", release: "my_app", sname: "my_app", port: 4370, rel: "rel"} = options
    assert Options.query(options, nil) == "my-app.${POD_NAMESPACE:-default}.svc.cluster.local."
    assert Options.default_port?(options)
    refute options.ipv6
  end

  test "Fly has only IPv6" do
    assert {:ok, %{ipv6: true}} = parse("--platform fly")
  end

  test "a release is found by its name, and has its own directory of templates" do
    project = %{@project | releases: [web: [], worker: [rel_templates_path: "rel/worker"]]}
    assert {:ok, options} = parse("--platform kubernetes --release worker", project)
    assert %{release: "worker", sname: "worker", app: "my_app", rel: "rel/worker"} = options
  end

  test "the only release needs no option" do
    project = %{@project | releases: [web: fn -> [] end]}
    assert {:ok, %{release: "web", rel: "rel"}} = parse("--platform kubernetes", project)
  end

  test "each role has its own service, query and variable" do
    roles = "--role core --role edge"

    queries = %{
      "kubernetes" => "my-app-edge.${POD_NAMESPACE:-default}.svc.cluster.local.",
      "nomad" => "my-app-edge-dist.service.consul.",
      "fly" => "edge.process.${FLY_APP_NAME-}.internal.",
      "plain --query app.example.com" => "app-edge.example.com"
    }

    for {platform, query} <- queries do
      assert {:ok, options} = parse("--platform #{platform} #{roles}")
      assert Options.roles(options) == ["core", "edge"]
      assert Options.query(options, "edge") == query
    end

    assert Options.variable("edge") == "CARAVAN_QUERY_EDGE"
  end

  describe "the error says what was expected, what came and how to correct the command" do
    test "for a platform that is unknown or missing" do
      assert refused("--platform heroku") =~
               "--platform: expected one of kubernetes, nomad, ecs, fly, docker, plain, got: heroku. Use plain"

      assert refused("") =~ "got: nothing"
    end

    test "for a port" do
      for port <- ["70000", "0", "x"] do
        assert refused("--platform docker --port #{port}") ==
                 "--port: expected a port from 1 to 65535, got: #{port}. Leave the option out for 4370."
      end
    end

    test "for options that do not fit Nomad" do
      assert refused("--platform nomad --port 4001") =~
               "--port: expected no port for the platform nomad, got: 4001. The job gets a port at its start."

      assert refused("--platform nomad --ipv6") =~
               "--ipv6: expected no such option for the platform nomad, got: --ipv6. Leave it out"
    end

    test "for a name with an @" do
      assert refused("--platform docker --sname app@host") =~
               "got: app@host. Leave out the @ and what comes after it"
    end

    test "for a query that is no DNS name, or is missing" do
      assert refused("--platform fly --query $(id)") =~
               "--query: expected a DNS name of ASCII letters, digits, -, _ and ., got: $(id)."

      assert refused("--platform plain") =~
               "--query: expected a DNS name for the platform plain, got: nothing. Add --query app.example.com"
    end

    test "for options that do not exist" do
      assert refused("--platform docker --host") =~ "got: --host"
    end

    test "for roles" do
      assert refused("--platform docker --role core") ==
               "--role: expected two roles or more, each once, got: core. Try --role core --role edge. The first one " <>
                 "is that of the nodes to which all others connect."

      assert refused("--platform docker --role core --role core") =~ "each once, got: core core."

      assert refused("--platform docker --role core --role web-1") =~
               "--role: expected lower-case ASCII letters and digits, got: web-1. Try"
    end

    test "for a release that does not exist, or is not chosen" do
      project = %{@project | releases: [web: [], worker: []]}

      assert refused("--platform docker", project) =~
               "--release: expected one of web, worker, got: nothing"

      assert refused("--platform docker --release db", project) =~ "got: db"
      assert refused("--platform docker --release db") =~ "expected one of my_app, got: db"
    end

    test "for an umbrella without releases" do
      assert refused("--platform docker", %{app: nil, releases: [], umbrella?: true}) =~
               "expected :releases in the mix.exs of an umbrella project, got: none"
    end
  end
end
