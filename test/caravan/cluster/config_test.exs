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
             basenames: %{"app.test" => [nil]},
             ports: :name,
             poll_interval: 5_000,
             min_interval: 1_000,
             keep: 300_000,
             prune: nil,
             links: :all,
             release_links: true,
             max_nodes: 1_024,
             max_new_names: 10_000,
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

  test "each query with each type is a source" do
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

  test "with :ignore or nil there is no source" do
    assert %{sources: []} = Config.new!(query: :ignore)
    assert %{sources: []} = Config.new!(query: nil)
  end

  test "a query can have its own basename" do
    config = Config.new!(query: ["a.test", {"b", "b.test"}], type: :a, node_sname: "app")
    assert config.sources == [{"a.test", :a}, {"b.test", :a}]
    assert config.basename == "app"
    assert Config.basenames(config, {"a.test", :a}, "own@h") == ["app"]
    assert Config.basenames(config, {"b.test", :a}, "own@h") == ["b"]
  end

  test "a DNS name with several basenames is looked up once" do
    config = Config.new!(query: [{"a", "x.test"}, "x.test", {"b", "x.test"}], type: [:a, :aaaa])
    assert config.sources == [{"x.test", :a}, {"x.test", :aaaa}]
    assert Config.basenames(config, {"x.test", :a}, "own-7@h") == ["a", "own-7", "b"]
    assert Config.own_basename?(config, {"x.test", :a})
    refute Config.own_basename?(%{config | basename: "app"}, {"x.test", :a})
  end

  test "queries that are given twice count once" do
    for query <- [
          ["x.test", "x.test"],
          [{"app", "x.test"}, {"app", "x.test"}],
          ["x.test", {"app", "x.test"}]
        ] do
      config = Config.new!(query: query, node_sname: "app")
      assert config.sources == [{"x.test", :srv}]
      assert Config.basenames(config, {"x.test", :srv}, "own@h") == ["app"]
    end
  end

  test "a template without {name} does not need :node_sname" do
    config = Config.new!(query: "app.test", node_name: "{host_label}@{host}")
    assert config.templates == %{srv: [:host_label, "@", :host]}
  end

  test "the resolver gets its options from the strategy" do
    config =
      Config.new!(
        @required ++
          [nameservers: ["10.0.0.2"], lookup_timeout: 7, allow: ["10.0.0.0/8"], dnssec: true]
      )

    assert Enum.sort(Config.dns_options(config)) == [
             allow: ["10.0.0.0/8"],
             attempts: nil,
             ca_file: nil,
             dnssec: true,
             nameservers: ["10.0.0.2"],
             randomize_case: false,
             timeout: 7,
             trust_anchors: nil
           ]
  end

  test "with ports: :srv, the default names have no port" do
    config = Config.new!(@required ++ [ports: :srv, type: [:srv, :a]])
    assert config.templates == %{srv: [:name, "@", :host], a: [:name, "@", :ip]}
  end

  test "the default of :min_interval is at most half of :poll_interval" do
    assert Config.new!(@required ++ [poll_interval: 500]).min_interval == 250
    assert Config.new!(@required ++ [poll_interval: 500, min_interval: 500]).min_interval == 500
  end

  test "pruning is on with a number of answers, and off with false" do
    assert Config.new!(@required ++ [prune: [after: 3]]).prune == 3
    assert Config.new!(@required ++ [prune: false]).prune == nil
  end

  test "the topology and the functions come from libcluster's state" do
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

  test "the configuration in the documentation of Caravan 1.0 is valid" do
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

  describe "new!/1 raises an error with the key, the expectation and the value for" do
    for {title, options, message} <- [
          {"an unknown option", [{:querry, "x"} | @required],
           ~r/unknown option :querry \(given "x"\), expected one of: :query/},
          {"a missing query", [node_sname: "app"], ~r/required option :query/},
          {"an empty query", [query: "", node_sname: "app"], ~r/expected :query .* got: ""/},
          {"an empty list of queries", [query: [], node_sname: "app"],
           ~r/expected :query .* got: \[\]/},
          {"a query that is not a string", [query: :app, node_sname: "app"],
           ~r/expected :query .* got: :app/},
          {"a query with a basename that is not valid", [query: {"a@b", "app.test"}],
           ~r/expected :query .* got: {"a@b", "app.test"}/},
          {"a query with two basenames in one another", [query: {"a", {"b", "app.test"}}],
           ~r/expected :query .* got: {"a", {"b", "app.test"}}/},
          {"a second basename that is not valid",
           [query: [{"a", "app.test"}, {"a b", "app.test"}]],
           ~r/expected :query to be a DNS name .* got: \[{"a", "app.test"}, {"a b", "app.test"}\]/},
          {"an option of libcluster", @required ++ [polling_interval: 1],
           ~r/unknown option :polling_interval \(given 1\). Caravan calls this option :poll_interval/},
          {"an option of libcluster's strategies for Kubernetes",
           @required ++ [kubernetes_selector: "app=a"],
           ~r/unknown option :kubernetes_selector .* headless Service/},
          {"an option of dns_cluster", @required ++ [resource_types: [:a]],
           ~r/unknown option :resource_types .* Caravan calls this option :type/},
          {"a :node_basename that differs from :node_sname",
           @required ++ [node_basename: "other"], ~r/expected :node_basename .* got: "other"/},
          {"a :node_sname with an @", [query: "app.test", node_sname: "a@b"],
           ~r/expected :node_sname .* got: "a@b"/},
          {"an unknown type", @required ++ [type: :mx], ~r/expected :type .* got: :mx/},
          {"an unknown placeholder", @required ++ [node_name: "{name}@{hots}"],
           ~r/expected :node_name .*\{host\}.* got: "{name}@{hots}"/},
          {"{port} for A records", @required ++ [type: :a, node_name: "{name}-{port}@{ip}"],
           ~r/expected :node_name .*A records, only the placeholders/},
          {"a template without @", @required ++ [node_name: "{name}"], ~r/expected :node_name/},
          {"a template that is not a string", @required ++ [node_name: :name],
           ~r/expected :node_name .* got: :name/},
          {"a negative interval", @required ++ [poll_interval: -1],
           ~r/expected :poll_interval to be an integer from 100 to 3_600_000 \(milliseconds\), got: -1/},
          {"an interval of zero", @required ++ [poll_interval: 0], ~r/expected :poll_interval/},
          {"a huge interval", @required ++ [poll_interval: 3_600_001], ~r/:poll_interval/},
          {"a fractional interval", @required ++ [poll_interval: 5.0], ~r/got: 5.0/},
          {"pruning without a number", @required ++ [prune: true],
           ~r/expected :prune to be \[after: answers\].* got: true/},
          {"pruning after no answer", @required ++ [prune: [after: 0]], ~r/expected :prune/},
          {"pruning with another key", @required ++ [prune: [after: 1, max: 2]], ~r/:prune/},
          {"a maximum of no nodes", @required ++ [max_nodes: 0],
           ~r/expected :max_nodes to be an integer from 1 to 16_384, got: 0/},
          {"a maximum of no new names", @required ++ [max_new_names: 0],
           ~r/expected :max_new_names/},
          {"a negative time to keep", @required ++ [keep: -1], ~r/expected :keep .* got: -1/},
          {"a :min_interval over :poll_interval", @required ++ [min_interval: 5_001],
           ~r/expected :min_interval to be at most :poll_interval, which is 5000, got: 5001/},
          {"a :min_interval of zero", @required ++ [min_interval: 0], ~r/expected :min_interval/},
          {"a negative number of links", @required ++ [links: -1],
           ~r/expected :links to be :all, or the number of members to connect to, from 0 to 1_024, such as 3, got: -1/},
          {"too many links", @required ++ [links: 1_025, max_nodes: 2_000], ~r/got: 1025/},
          {"a fractional number of links", @required ++ [links: 2.5], ~r/:links .* got: 2.5/},
          {"an unknown word for links", @required ++ [links: :some], ~r/:links .* got: :some/},
          {"more links than :max_nodes", @required ++ [links: 11, max_nodes: 10],
           ~r/expected :links to be at most :max_nodes, which is 10 \(give fewer links, .*\), got: 11/},
          {"a release of links without a number", @required ++ [release_links: false],
           ~r/expected :links to be a number such as 3, because :release_links is given \(or leave .*\), got: :all/},
          {"a release of links that is no boolean", @required ++ [links: 3, release_links: 60],
           ~r/expected :release_links to be true or false.* got: 60/},
          {"trust anchors without DNSSEC", @required ++ [trust_anchors: "/etc/anchors"],
           ~r/expected :dnssec to be true if :trust_anchors is given, got: false/},
          {"an unknown source of ports", @required ++ [ports: :dns],
           ~r/expected :ports .* got: :dns/},
          {"ports from SRV records without SRV lookups", @required ++ [type: :a, ports: :srv],
           ~r/expected :ports to be :name if :type has no :srv, got: :srv/},
          {"an unknown log level", @required ++ [log_level: :loud],
           ~r/expected :log_level .* got: :loud/},
          {"a connect function whose arguments are not a list",
           @required ++ [connect: {Fake, :connect, 1}],
           ~r/expected :connect to be {module, function, arguments} with a proper list of arguments, got: {Fake, :connect, 1}/},
          {"a connect function whose arguments are an improper list",
           @required ++ [connect: {Fake, :connect, [1 | 2]}],
           ~r/expected :connect to be .* got: {Fake, :connect, \[1 \| 2\]}/},
          {"an improper list of types", @required ++ [type: [:srv | :a]],
           ~r/expected :type to be .* got: \[:srv \| :a\]/},
          {"a topology of more than 200 characters",
           @required ++ [topology: String.to_atom(String.duplicate("t", 201))],
           ~r/expected :topology to be an atom of at most 200 characters.* got: :ttt/},
          {"a maximum of no connects", @required ++ [max_connects: 0],
           ~r/expected :max_connects/},
          {"a client for A records", @required ++ [type: :a, dns_client: Client],
           ~r/expected :type to be :srv if :dns_client is given, got: \[:a\]/},
          {"an improper list of queries", [query: ["a" | "b"], node_sname: "app"],
           ~r/expected :query/},
          {"a template with a space", @required ++ [node_name: "a b@{host}"],
           ~r/expected :node_name/},
          {"DNSSEC for the records of a client", @required ++ [dns_client: Client, dnssec: true],
           ~r/expected :dnssec to be false if :dns_client is given, .* got: true/},
          {"networks for the addresses of a client",
           @required ++ [dns_client: Client, allow: ["10.0.0.0/8"]],
           ~r/expected :allow to be \[\] if :dns_client is given, .* got: \["10.0.0.0\/8"\]/},
          {"a client without get_nodes/1", @required ++ [dns_client: Enum],
           ~r/expected :dns_client .* got: Enum/},
          {"a client that does not exist", @required ++ [dns_client: No.Such],
           ~r/expected :dns_client .* got: No.Such/},
          {"a nameserver by name", @required ++ [nameservers: ["ns.test"]],
           ~r/expected :nameservers .* got: \["ns.test"\]/},
          {"options that are not a keyword list", [:query],
           ~r/expected options as a keyword list/}
        ] do
      test title do
        assert_raise ArgumentError, unquote(Macro.escape(message)), fn ->
          Config.new!(unquote(Macro.escape(options)))
        end
      end
    end

    test "a config of libcluster that is not a keyword list" do
      state = struct!(Cluster.Strategy.State, topology: :app, config: nil)

      assert_raise ArgumentError, ~r/expected :config to be a keyword list, got: nil/, fn ->
        Config.new!(state)
      end
    end

    test "a missing option, with the topology" do
      state = %Cluster.Strategy.State{topology: :app, config: []}

      assert_raise ArgumentError, ~r/\(topology :app\): required option :query/, fn ->
        Config.new!(state)
      end
    end
  end
end
