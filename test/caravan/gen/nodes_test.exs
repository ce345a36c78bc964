defmodule Caravan.Gen.NodesTest do
  @moduledoc """
  For each platform, makes a new project, prepares it with `mix caravan.gen.release`, builds its release, and starts two
  nodes on separate hosts that have only what the platform gives them: variables, addresses, and a nameserver.
  """
  use ExUnit.Case, async: true

  import Caravan.Test.Host, only: [forbid_epmd: 1]

  alias Caravan.Test.Certificates
  alias Caravan.Test.Command
  alias Caravan.Test.Eventually
  alias Caravan.Test.Host
  alias Caravan.Test.Knot
  alias Caravan.Test.Netns
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Release
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag([:netns, :knotd, :script])

  @caravan Path.expand("../../..", __DIR__)
  @addresses %{inet: ["10.77.0.1", "10.77.0.2"], inet6: ["fd77::1", "fd77::2"]}
  @dns %{inet: "10.77.0.250", inet6: "fd77::250"}
  @length %{inet: 24, inet6: 64}

  # Runs on a VM: starts an HTTP server in place of the metadata endpoint of ECS. Returns when it listens.
  @serve """
  caller = self()

  spawn(fn ->
    {:ok, listener} = :gen_tcp.listen(port, [:binary, ip: {127, 0, 0, 1}, active: false, reuseaddr: true])
    send(caller, :listening)

    for _ <- Stream.cycle([1]) do
      {:ok, socket} = :gen_tcp.accept(listener)
      {:ok, "GET /v4/1 " <> _} = :gen_tcp.recv(socket, 0, 5_000)
      :ok = :gen_tcp.send(socket, response)
      :gen_tcp.close(socket)
    end
  end)

  receive do
    :listening -> :ok
  end
  """

  setup :forbid_epmd

  setup do
    # Mix and the release run in this directory, which is not in the repository.
    dir = Path.join(System.tmp_dir!(), "gen-" <> Base.encode16(:rand.bytes(6), case: :lower))
    File.mkdir_p!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)
    {:ok, dir: dir}
  end

  test "for kubernetes", %{dir: dir} do
    prove(dir, ["--platform", "kubernetes"],
      env: &[{"POD_IP", &1}, {"POD_NAMESPACE", "shop"}],
      zone: "cluster.local",
      records: for(ip <- @addresses.inet, do: "app.shop.svc A #{ip}")
    )
  end

  @tag Requirements.tag(:openssl)
  test "for kubernetes with TLS", %{dir: dir} do
    tls = Path.join(dir, "tls")
    File.mkdir!(tls)
    authority = Certificates.authority!(tls, "ca")
    names = for ip <- @addresses.inet, kind <- ["DNS", "IP"], do: "#{kind}:#{ip}"
    {cert, key} = Certificates.server!(tls, "ca", "node", names, usage: "serverAuth,clientAuth")

    for {file, name} <- [{authority, "ca.crt"}, {cert, "tls.crt"}, {key, "tls.key"}],
        do: File.cp!(file, Path.join(tls, name))

    prove(dir, ["--platform", "kubernetes", "--tls"],
      env: &[{"POD_IP", &1}],
      zone: "cluster.local",
      records: for(ip <- @addresses.inet, do: "app.default.svc A #{ip}"),
      edit: fn project ->
        edit!(
          project,
          "mix.exs",
          ~r/extra_applications: \[:logger\]/,
          "extra_applications: [:logger, :ssl]"
        )

        edit!(project, "rel/overlays/inet_tls.conf", ~r{/etc/app/tls}, tls)
      end,
      prove: fn node ->
        assert Release.rpc(node, "Caravan.Epmd.Settings.tls?()") == "true"
        port = "4370"
        address = hd(String.split(List.last(String.split(node.name, "@")), "/"))

        client = [
          "openssl",
          "s_client",
          "-connect",
          "#{address}:#{port}",
          "-CAfile",
          authority,
          "-verify_return_error"
        ]

        assert Command.run(node.wrapper ++ client).stdout =~ "Verify return code: 0 (ok)"
      end
    )
  end

  test "for docker, with a container in two networks", %{dir: dir} do
    prove(dir, ["--platform", "docker"],
      zone: "app",
      records: for(ip <- @addresses.inet, do: "@ A #{ip}"),
      hosts: &"127.0.0.1 localhost\n::1 localhost\n#{&1} container\n172.31.0.9 container\n"
    )
  end

  test "for fly, which has IPv6 only", %{dir: dir} do
    prove(dir, ["--platform", "fly"],
      family: :inet6,
      env: &[{"FLY_PRIVATE_IP", &1}, {"FLY_APP_NAME", "shop"}],
      zone: "internal",
      records: for(ip <- @addresses.inet6, do: "shop AAAA #{ip}")
    )
  end

  test "for plain hosts", %{dir: dir} do
    prove(dir, ["--platform", "plain", "--query", "app.example.com", "--port", "4001"],
      zone: "example.com",
      records: for(ip <- @addresses.inet, do: "app A #{ip}"),
      port: 4001
    )
  end

  test "for kubernetes, with a core and an edge", %{dir: dir} do
    roles = Map.new(Enum.zip(@addresses.inet, ["core", "edge"]))

    prove(dir, ["--platform", "kubernetes", "--role", "core", "--role", "edge"],
      env: &[{"POD_IP", &1}, {"CARAVAN_ROLE", roles[&1]}],
      zone: "cluster.local",
      records: for({ip, role} <- roles, do: "app-#{role}.default.svc A #{ip}"),
      prove: fn node ->
        links =
          "for {_topology, options} <- Application.fetch_env!(:app, Caravan.Cluster.DnsStrategy), do: options[:links]"

        own = if node.name =~ hd(@addresses.inet), do: :all, else: 3
        assert Release.rpc(node, links) == inspect([own, 0])
      end
    )
  end

  # The names of the targets are those of Consul for a service that has an address.
  test "for nomad", %{dir: dir} do
    targets = %{"10.77.0.1" => "0a4d0001.addr", "10.77.0.2" => "0a4d0002.addr"}

    prove(dir, ["--platform", "nomad"],
      env:
        &[{"NOMAD_IP_dist", &1}, {"NOMAD_PORT_dist", "25000"}, {"NOMAD_HOST_PORT_dist", "25000"}],
      name: &"app-25000@#{targets[&1]}",
      zone: "consul",
      records:
        for {ip, target} <- targets do
          "app-dist.service SRV 1 1 25000 #{target}.dc1\n#{target}.dc1 A #{ip}"
        end,
      port: 25_000,
      agent: 8600
    )
  end

  @tag Requirements.tag(:curl)
  test "for ecs", %{dir: dir} do
    prove(dir, ["--platform", "ecs"],
      env: fn _ip -> [{"ECS_CONTAINER_METADATA_URI_V4", "http://127.0.0.1:51679/v4/1"}] end,
      zone: "ecs.internal",
      records: for(ip <- @addresses.inet, do: "app A #{ip}"),
      metadata: 51_679
    )
  end

  # Options:
  #
  #   * `env`, `name`: functions from the address of a node to its environment and its name
  #   * `zone`, `records`: those of the nameserver
  #   * `port`: the port on which a node listens
  #   * `agent`: the port of a nameserver on each host. Without it, there is one nameserver on another host
  #   * `metadata`: the port of a metadata endpoint of ECS on each host
  #   * `hosts`: a function from the address of a container to the text of its /etc/hosts
  #   * `edit`: a function that changes the project
  #   * `prove`: a function with more checks of a node
  defp prove(dir, argv, opts) do
    family = Keyword.get(opts, :family, :inet)
    env = Keyword.get(opts, :env, fn _ip -> [] end)
    name = Keyword.get(opts, :name, &"app@#{&1}")
    port = Keyword.get(opts, :port, 4370)

    project = project!(dir, argv, Keyword.get(opts, :edit, & &1))
    release = Release.build!(project, "app", "gen", release_arguments(project))

    net = network!(family)
    resolv_conf = Path.join(dir, "resolv.conf")
    File.write!(resolv_conf, "nameserver #{@dns[family]}\n")

    if agent = opts[:agent],
      do: for(host <- [:a, :b], do: nameserver!(net, host, "127.0.0.1", agent, opts)),
      else: nameserver!(net, :dns, @dns[family], 53, opts)

    nodes =
      for {ip, host} <- Enum.zip(@addresses[family], [:a, :b]) do
        if opts[:metadata], do: metadata!(net, host, ip, opts[:metadata])

        wrapper =
          Netns.wrapper(net, host) ++
            mount(resolv_conf, "/etc/resolv.conf") ++ container(dir, ip, opts[:hosts])

        release
        |> Release.node(nil, env.(ip), wrapper)
        |> Release.start!()
        |> Map.put(:name, name.(ip))
      end

    [a, b] = nodes

    for node <- nodes, do: await_log(node, "this node is #{node.name}", 60_000)

    for {node, other} <- [{a, b}, {b, a}],
        do: await_log(node, "connected to #{other.name}", 60_000)

    for {node, other} <- [{a, b}, {b, a}] do
      assert Release.rpc(node, "{node(), Node.list()}") ==
               "{:\"#{node.name}\", [:\"#{other.name}\"]}"

      assert %{status: 0} = Release.run(node, ["rpc", "Caravan.doctor!()"])
      if prove = opts[:prove], do: prove.(node)
      sockets = Command.run(node.wrapper ++ ["ss", "-Hltnp"])

      beams = for line <- String.split(sockets.stdout, "\n"), line =~ "beam.smp", do: line

      assert [_] =
               for(line <- beams, line =~ "pid=#{node.os_pid},", do: assert(line =~ ":#{port} "))
    end

    # The sum proves that the line was evaluated and not only echoed.
    console = Release.on_terminal!(a, "remote")
    # What is typed before the shell runs is lost.
    assert Release.await_output(console, "iex(#{a.name})1>")
    Port.command(console, "IO.puts([\"sum \", to_string(40 + 2), \" \", to_string(node())])\n")
    assert Release.await_output(console, "sum 42 #{a.name}")

    # Migrations run like this.
    assert %{status: 0, stdout: "false\n"} = Release.run(a, ["eval", "IO.inspect(Node.alive?())"])

    for node <- nodes do
      assert %{status: 0} = Release.run(node, ["stop"])
      assert Host.await_exit(node.os_pid) == :ok
    end
  end

  defp await_log(node, text, timeout) do
    logged = Eventually.true?(fn -> Release.log(node) =~ text end, timeout)

    assert logged,
           "no #{inspect(text)} after #{timeout} ms in the log of #{node.name}:\n#{Release.log(node)}"
  end

  # The arguments of `mix release` in the Dockerfile, if there is one.
  defp release_arguments(project) do
    with {:ok, dockerfile} <- File.read(Path.join(project, "Dockerfile")),
         [_, arguments] = Regex.run(~r/^RUN mix release\b(.*)$/m, dockerfile) do
      String.split(arguments)
    else
      {:error, :enoent} -> []
    end
  end

  # Returns a new project, changed as the task says.
  defp project!(dir, argv, edit) do
    assert %{status: 0} = Command.run(["sh", "-c", ~S(cd "$0" && mix new app --sup), dir])
    project = Path.join(dir, "app")
    edit!(project, "mix.exs", ~r/# \{:dep_from_hexpm.*/, ~s({:caravan, path: "#{@caravan}"}))
    output = Release.mix!(project, "gen", ["caravan.gen.release", "--yes" | argv])

    config = printed(output, "Create config/runtime.exs:")

    child =
      printed(output, "Add this to the children of the supervisor in lib/app/application.ex:")

    File.mkdir_p!(Path.join(project, "config"))
    File.write!(Path.join(project, "config/runtime.exs"), config)
    edit!(project, "lib/app/application.ex", ~r/children = \[\n/, "children = [\n#{child}")

    edit.(project)
    again = Release.mix!(project, "gen", ["caravan.gen.release", "--dry-run" | argv])
    assert again =~ ~r/No file has to change.\s*\z/
    project
  end

  # The indented lines after a title.
  defp printed(output, title) do
    [_, after_title] = String.split(output, title <> "\n\n")
    [block] = Regex.run(~r/\A(?:    .*\n|\n(?=    ))+/, after_title)
    block
  end

  defp edit!(project, file, pattern, replacement) do
    path = Path.join(project, file)
    text = File.read!(path)
    assert text =~ pattern
    File.write!(path, String.replace(text, pattern, replacement))
  end

  defp network!(family) do
    [a, b] = @addresses[family]
    cidr = &["#{&1}/#{@length[family]}"]
    start_supervised!({Netns, hosts: %{a: cidr.(a), b: cidr.(b), dns: cidr.(@dns[family])}})
  end

  defp nameserver!(net, host, address, port, opts) do
    vm = PeerNode.start!(epmd: false, wrapper: Netns.wrapper(net, host))
    {:ok, ip} = address |> String.to_charlist() |> :inet.parse_address()
    knot = [zone: opts[:zone], ip: ip, port: port, records: opts[:records]]
    {:ok, _pid} = PeerNode.call(vm, GenServer, :start, [Knot, knot])
  end

  # The answer of the metadata endpoint, shortened.
  defp metadata!(net, host, ip, port) do
    json =
      ~s({"DockerId": "x", "Networks": [{"NetworkMode": "awsvpc", "IPv4Addresses": ["#{ip}"]}]})

    response =
      "HTTP/1.1 200 OK\r\ncontent-length: #{byte_size(json)}\r\nconnection: close\r\n\r\n" <> json

    vm = PeerNode.start!(epmd: false, wrapper: Netns.wrapper(net, host))
    PeerNode.eval(vm, @serve, port: port, response: response)
  end

  # Returns words that run a command on a host with the name `container` and with its own /etc/hosts.
  defp container(_dir, _ip, nil), do: []

  defp container(dir, ip, hosts) do
    file = Path.join(dir, "hosts-#{ip}")
    File.write!(file, hosts.(ip))

    mount(file, "/etc/hosts") ++
      ["unshare", "--uts", "--", "sh", "-c", ~S(hostname container && exec "$@"), "sh"]
  end

  # Returns words that run a command with `file` in place of `path`.
  defp mount(file, path) do
    [
      "unshare",
      "--mount",
      "--",
      "sh",
      "-c",
      ~S(mount --bind "$0" "$1" && shift && exec "$@"),
      file,
      path
    ]
  end
end
