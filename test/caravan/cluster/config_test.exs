defmodule Caravan.Cluster.ConfigTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Config

  defmodule Client do
    @behaviour Caravan.DnsClient

    @impl true
    def get_nodes(_name), do: []
  end

  @required [query: "app.test", node_sname: "app"]

  test "the required options alone give the documented defaults" do
    assert %Config{
             sources: [{"app.test", :srv}],
             templates: %{srv: [:name, "-", :port, "@", :host]},
             basename: "app",
             ports: :name,
             poll_interval: 5_000,
             min_interval: 1_000,
             keep: 300_000,
             prune: nil,
             max_nodes: 1_024,
             max_new_names: 10_000,
             lookup_cache: false,
             log_level: :info,
             nameservers: [],
             lookup_timeout: 5_000,
             lookup_attempts: nil,
             allow: [],
             dnssec: false,
             trust_anchors: nil,
             ca_file: nil,
             randomize_case: false,
             connect_timeout: 5_000,
             max_connects: 128,
             dns_client: nil,
             topology: :caravan,
             connect: {:net_kernel, :connect_node, []},
             disconnect: {:erlang, :disconnect_node, []},
             list_nodes: {:erlang, :nodes, [:connected]}
           } = Config.new!(@required)
  end

  test "queries and types make up the sources" do
    config = Config.new!(query: ["a.test", "b.test"], type: [:a, :aaaa], node_basename: "app")

    assert config.sources == [
             {"a.test", :a},
             {"a.test", :aaaa},
             {"b.test", :a},
             {"b.test", :aaaa}
           ]

    assert config.basename == "app"
    assert config.templates == %{a: [:name, "@", :ip], aaaa: [:name, "@", :ip]}
  end

  test "a template without {name} needs no basename" do
    config = Config.new!(query: "app.test", node_name: "{host_label}@{host}")
    assert config.templates == %{srv: [:host_label, "@", :host]}
  end

  test "the resolver gets its options" do
    config =
      Config.new!(
        @required ++
          [nameservers: ["10.0.0.2"], lookup_timeout: 7, allow: ["10.0.0.0/8"], dnssec: true]
      )

    assert Enum.sort(Config.dns_options(config, :srv)) == [
             addresses: true,
             allow: ["10.0.0.0/8"],
             attempts: nil,
             ca_file: nil,
             cache: false,
             dnssec: true,
             nameservers: ["10.0.0.2"],
             randomize_case: false,
             timeout: 7,
             trust_anchors: nil
           ]

    assert Config.dns_options(config, :a)[:addresses] == false
  end

  test "with the ports of SRV records, names need carry none" do
    config = Config.new!(@required ++ [ports: :srv, type: [:srv, :a]])
    assert config.templates == %{srv: [:name, "@", :host], a: [:name, "@", :ip]}
  end

  test "the shortest interval is no longer than half of the longest, unless given" do
    assert Config.new!(@required ++ [poll_interval: 500]).min_interval == 250
    assert Config.new!(@required ++ [poll_interval: 500, min_interval: 500]).min_interval == 500
  end

  test "pruning is on with a number, and off" do
    assert Config.new!(@required ++ [prune: [after: 3]]).prune == 3
    assert Config.new!(@required ++ [prune: false]).prune == nil
  end

  test "libcluster's state gives topology and functions" do
    state = %Cluster.Strategy.State{
      topology: :app,
      connect: {Fake, :connect, [1]},
      disconnect: {Fake, :disconnect, []},
      list_nodes: {Fake, :nodes, []},
      config: @required
    }

    assert %Config{
             topology: :app,
             connect: {Fake, :connect, [1]},
             disconnect: {Fake, :disconnect, []},
             list_nodes: {Fake, :nodes, []}
           } = Config.new!(state)
  end

  test "the configuration of Caravan 1.0's documentation is taken as it is" do
    config =
      Config.new!(
        query: "likes-service-dist.service.consul",
        node_sname: "profile-service",
        poll_interval: 5_000,
        dns_client: Caravan.DnsClient
      )

    assert config.dns_client == nil
    assert Config.new!(@required ++ [dns_client: Caravan.DnsClient.InetRes]).dns_client == nil
    assert Config.new!(@required ++ [dns_client: Client]).dns_client == Client
  end

  describe "refuses, with key, expectation and value," do
    for {title, options, message} <- [
          {"an unknown option", [{:querry, "x"} | @required],
           ~r/unknown option :querry \(given "x"\), expected one of: :query/},
          {"a missing query", [node_sname: "app"], ~r/required option :query/},
          {"an empty query", [query: "", node_sname: "app"], ~r/expected :query .* got: ""/},
          {"an empty list of queries", [query: [], node_sname: "app"],
           ~r/expected :query .* got: \[\]/},
          {"a query that is no string", [query: :app, node_sname: "app"],
           ~r/expected :query .* got: :app/},
          {"a missing basename", [query: "app.test"], ~r/expected :node_sname .* got: nil/},
          {"two basenames", @required ++ [node_basename: "other"],
           ~r/expected :node_basename .* got: "other"/},
          {"a basename with an @", [query: "app.test", node_sname: "a@b"],
           ~r/expected :node_sname .* got: "a@b"/},
          {"another type", @required ++ [type: :mx], ~r/expected :type .* got: :mx/},
          {"an unknown placeholder", @required ++ [node_name: "{name}@{hots}"],
           ~r/expected :node_name .*\{host\}.* got: "{name}@{hots}"/},
          {"{port} for A records", @required ++ [type: :a, node_name: "{name}-{port}@{ip}"],
           ~r/expected :node_name .*A records, only the placeholders/},
          {"a template without @", @required ++ [node_name: "{name}"], ~r/expected :node_name/},
          {"a template that is no string", @required ++ [node_name: :name],
           ~r/expected :node_name .* got: :name/},
          {"a negative interval", @required ++ [poll_interval: -1],
           ~r/expected :poll_interval to be an integer from 100 to 3_600_000 \(milliseconds\), got: -1/},
          {"an interval of zero", @required ++ [poll_interval: 0], ~r/expected :poll_interval/},
          {"a huge interval", @required ++ [poll_interval: 3_600_001], ~r/:poll_interval/},
          {"a fractional interval", @required ++ [poll_interval: 5.0], ~r/got: 5.0/},
          {"pruning without a number", @required ++ [prune: true],
           ~r/expected :prune to be \[after: answers\].* got: true/},
          {"pruning after nothing", @required ++ [prune: [after: 0]], ~r/expected :prune/},
          {"pruning with more than that", @required ++ [prune: [after: 1, max: 2]], ~r/:prune/},
          {"no nodes at all", @required ++ [max_nodes: 0],
           ~r/expected :max_nodes to be an integer from 1 to 16_384, got: 0/},
          {"no new names", @required ++ [max_new_names: 0], ~r/expected :max_new_names/},
          {"a negative time to keep", @required ++ [keep: -1], ~r/expected :keep .* got: -1/},
          {"a shortest interval over the longest", @required ++ [min_interval: 5_001],
           ~r/expected :min_interval to be 5000 at most, which is :poll_interval, got: 5001/},
          {"a shortest interval of zero", @required ++ [min_interval: 0],
           ~r/expected :min_interval/},
          {"trust anchors that nobody would use", @required ++ [trust_anchors: "/etc/anchors"],
           ~r/expected :dnssec to be true where :trust_anchors is given, got: false/},
          {"ports from elsewhere", @required ++ [ports: :dns], ~r/expected :ports .* got: :dns/},
          {"SRV ports without SRV", @required ++ [type: :a, ports: :srv],
           ~r/expected :ports to be :name where :type has no :srv, got: :srv/},
          {"a level that is none", @required ++ [log_level: :loud],
           ~r/expected :log_level .* got: :loud/},
          {"a cache that is neither", @required ++ [lookup_cache: 1], ~r/expected :lookup_cache/},
          {"a connect that is no MFA", @required ++ [connect: {Fake, :connect, 1}],
           ~r/expected :connect to be {module, function, arguments}, got: {Fake, :connect, 1}/},
          {"no connects at all", @required ++ [max_connects: 0], ~r/expected :max_connects/},
          {"a client for other than SRV records", @required ++ [type: :a, dns_client: Client],
           ~r/expected :type to be :srv where :dns_client is given, got: \[:a\]/},
          {"an improper list of queries", [query: ["a" | "b"], node_sname: "app"],
           ~r/expected :query/},
          {"a template that no node name fits", @required ++ [node_name: "a b@{host}"],
           ~r/expected :node_name/},
          {"a client without get_nodes/1", @required ++ [dns_client: Enum],
           ~r/expected :dns_client .* got: Enum/},
          {"a client that is not there", @required ++ [dns_client: No.Such],
           ~r/expected :dns_client .* got: No.Such/},
          {"a nameserver by name", @required ++ [nameservers: ["ns.test"]],
           ~r/expected :nameservers .* got: \["ns.test"\]/},
          {"what is no keyword list", [:query], ~r/expected options as a keyword list/}
        ] do
      test title do
        assert_raise ArgumentError, unquote(Macro.escape(message)), fn ->
          Config.new!(unquote(Macro.escape(options)))
        end
      end
    end

    test "a libcluster config that is no keyword list" do
      state = struct!(Cluster.Strategy.State, topology: :app, config: nil)

      assert_raise ArgumentError, ~r/expected :config to be a keyword list, got: nil/, fn ->
        Config.new!(state)
      end
    end

    test "naming the topology" do
      state = %Cluster.Strategy.State{topology: :app, config: []}

      assert_raise ArgumentError, ~r/\(topology :app\): required option :query/, fn ->
        Config.new!(state)
      end
    end
  end
end
