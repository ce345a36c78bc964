defmodule Caravan.Gen.Samples do
  # Pure. Whole files for projects that have none of their kind.
  @moduledoc false

  alias Caravan.Gen.Options
  alias Caravan.Gen.Platform

  @doc "Returns the paths and contents of files that are written where they are missing."
  @spec files(Options.t()) :: [{Path.t(), String.t()}]
  def files(%Options{} = options), do: docker(options) ++ tls(options)

  @doc "Returns the paths and contents of files for a new directory `deploy`."
  @spec deploy(Options.t()) :: [{Path.t(), String.t()}]
  def deploy(%Options{platform: %Platform{name: name}} = options),
    do: for({file, text} <- deploy(name, options), do: {"deploy/" <> file, text})

  defp docker(%Options{platform: %Platform{name: "docker"}} = options),
    do: [{"Dockerfile", dockerfile(options)}, {".dockerignore", ".git\n_build\ndeps\n"}]

  defp docker(_options), do: []

  defp dockerfile(options) do
    """
    FROM debian:trixie AS build
    RUN apt-get update && apt-get install -y elixir erlang-dev curl gcc git libc6-dev \\
     && curl --proto '=https' -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
    ENV PATH=/root/.cargo/bin:$PATH MIX_ENV=prod LANG=C.UTF-8
    WORKDIR /app
    RUN mix local.hex --force && mix local.rebar --force

    # The dependencies, and Caravan's Rust library with them, are built again only if these files change.
    COPY mix.exs mix.lock* ./
    COPY config config
    #{if options.umbrella?, do: "COPY apps apps\n"}\
    RUN --mount=type=cache,target=/root/.cargo/registry mix deps.get --only prod && mix deps.compile

    COPY . .
    RUN #{options.build}

    FROM debian:trixie-slim
    ENV LANG=C.UTF-8
    COPY --from=build /app/_build/prod/rel/#{options.release} /app
    EXPOSE #{options.port}
    CMD ["/app/bin/#{options.release}", "start"]
    """
  end

  defp tls(%Options{tls: false}), do: []

  defp tls(%Options{tls: true} = options) do
    dir = "/etc/#{Options.service(options)}/tls"

    files = """
    {certfile, "#{dir}/tls.crt"}, {keyfile, "#{dir}/tls.key"}, {cacertfile, "#{dir}/ca.crt"},
           {verify, verify_peer}\
    """

    text = """
    %% TLS between the nodes. The certificate of each node must be for the host of the node's name. If the host is an address,
    %% OTP 25 and earlier look for it among the DNS names of the certificate. The certificate must be for server and client.
    [{server, [#{files}, {fail_if_no_peer_cert, true}]},
     {client, [#{files}]}].
    """

    [{options.rel <> "/overlays/inet_tls.conf", text}]
  end

  defp deploy("kubernetes", options) do
    manifests = Enum.map_join(Options.roles(options), "---\n", &kubernetes(options, &1))
    [{"#{Options.service(options)}.yaml", manifests}]
  end

  defp deploy("nomad", options) do
    name = Options.service(options)

    job = """
    job "#{name}" {
    #{Enum.map_join(Options.roles(options), "\n", &nomad(options, &1))}\
    }
    """

    [{"#{name}.nomad.hcl", job}]
  end

  defp deploy("ecs", options), do: Enum.flat_map(Options.roles(options), &ecs(options, &1))

  defp deploy("fly", options) do
    processes =
      for role <- Options.roles(options),
          do: "#{role || "app"} = \"/app/bin/#{options.release} start\"\n"

    part = """
    # Parts of fly.toml. Port #{options.port} needs no service: machines reach each other in the private network.
    # fly secrets set RELEASE_COOKIE=SECRET
    kill_signal = "SIGTERM"
    kill_timeout = "30s"

    [processes]
    #{processes}\
    """

    [{"fly.toml", part}]
  end

  defp deploy("docker", options) do
    compose = """
    # RELEASE_COOKIE=SECRET docker compose -f deploy/compose.yaml up --build
    services:
    #{Enum.map(Options.roles(options), &compose(options, &1))}\
    """

    [{"compose.yaml", compose}]
  end

  defp deploy(_plain, _options), do: []

  defp kubernetes(options, role) do
    name = Options.service(options, role)
    secret = Options.service(options)

    """
    # The nodes find each other through this service. It has an address for each pod, also before the pod is ready.
    apiVersion: v1
    kind: Service
    metadata:
      name: #{name}
    spec:
      clusterIP: None
      publishNotReadyAddresses: true
    #{if options.ipv6, do: "  ipFamilyPolicy: SingleStack\n  ipFamilies: [IPv6]\n"}\
      selector:
        app: #{name}
      ports:
        - name: dist
          port: #{options.port}
    ---
    apiVersion: apps/v1
    kind: Deployment
    metadata:
      name: #{name}
    spec:
      replicas: 2
      selector:
        matchLabels:
          app: #{name}
      template:
        metadata:
          labels:
            app: #{name}
        spec:
          containers:
            - name: #{name}
              image: registry.example.com/#{secret}:latest
              ports:
                - name: dist
                  containerPort: #{options.port}
              env:
    #{if role, do: "            - {name: CARAVAN_ROLE, value: #{role}}\n"}\
                - name: POD_IP
                  valueFrom: {fieldRef: {fieldPath: status.podIP}}
                - name: POD_IPS
                  valueFrom: {fieldRef: {fieldPath: status.podIPs}}
                - name: POD_NAMESPACE
                  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
                # kubectl create secret generic #{secret} --from-literal=cookie=SECRET
                - name: RELEASE_COOKIE
                  valueFrom: {secretKeyRef: {name: #{secret}, key: cookie}}
    """
  end

  defp nomad(options, role) do
    name = Options.service(options, role)
    job = Options.service(options)

    """
      group "#{name}" {
        count = 2

        network {
          port "dist" {}
        }

        # Consul has an SRV record with the address and the port of each node.
        service {
          name = "#{name}-dist"
          port = "dist"
        }

        task "#{name}" {
          driver = "docker"

          config {
            image        = "registry.example.com/#{job}:latest"
            network_mode = "host"
          }

    #{if role, do: "      env {\n        CARAVAN_ROLE = \"#{role}\"\n      }\n\n"}\
          # nomad var put nomad/jobs/#{job} cookie=SECRET
          template {
            data        = "RELEASE_COOKIE={{ with nomadVar \\"nomad/jobs/#{job}\\" }}{{ .cookie }}{{ end }}"
            destination = "secrets/cookie.env"
            env         = true
          }
        }
      }
    """
  end

  defp ecs(options, role) do
    name = Options.service(options, role)
    family = Options.service(options)

    task = """
    {
      "family": "#{name}",
      "networkMode": "awsvpc",
      "requiresCompatibilities": ["FARGATE"],
      "cpu": "256",
      "memory": "512",
      "executionRoleArn": "arn:aws:iam::123456789012:role/ecsTaskExecutionRole",
      "containerDefinitions": [
        {
          "name": "#{name}",
          "image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/#{family}:latest",
          "essential": true,
          "portMappings": [{"name": "dist", "containerPort": #{options.port}, "protocol": "tcp"}],
    #{if role, do: ~s(      "environment": [{"name": "CARAVAN_ROLE", "value": "#{role}"}],\n)}\
          "secrets": [
            {"name": "RELEASE_COOKIE", "valueFrom": "arn:aws:ssm:eu-west-1:123456789012:parameter/#{family}/cookie"}
          ]
        }
      ]
    }
    """

    # The input of `aws servicediscovery create-service --cli-input-json`.
    service = """
    {
      "Name": "#{name}",
      "NamespaceId": "ns-0123456789abcdef",
      "DnsConfig": {
        "RoutingPolicy": "MULTIVALUE",
        "DnsRecords": [{"Type": "#{if options.ipv6, do: "AAAA", else: "A"}", "TTL": 10}]
      }
    }
    """

    suffix = if role, do: "-#{role}", else: ""
    [{"task-definition#{suffix}.json", task}, {"service-discovery#{suffix}.json", service}]
  end

  defp compose(options, role) do
    """
      #{Options.service(options, role)}:
        build: ..
        environment:
    #{if role, do: "      CARAVAN_ROLE: #{role}\n"}\
          RELEASE_COOKIE: ${RELEASE_COOKIE:?set a long random secret}
        expose: ["#{options.port}"]
        deploy:
          replicas: 2
    """
  end
end
