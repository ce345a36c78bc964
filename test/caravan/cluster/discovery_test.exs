defmodule Caravan.Cluster.DiscoveryTest do
  # Not async: tests of the resolver count the lookups of this VM.
  use ExUnit.Case

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery
  alias Caravan.Test.DnsServer

  @source {"app.test", :srv}

  defmodule Client do
    @behaviour Caravan.DnsClient
    @impl true
    def get_nodes("app.test"), do: [{4001, "n.test"}, {4002, "bad host"}]
    def get_nodes("hangs.test"), do: Process.sleep(:infinity)
  end

  setup do
    %{server: start_supervised!(DnsServer)}
  end

  defp discovery(context, options) do
    [query: "app.test", node_sname: "app", nameservers: [DnsServer.address(context.server)]]
    |> Keyword.merge(options)
    |> Config.new!()
    |> Discovery.new()
  end

  # Returns the outcome of the only lookup in flight.
  defp outcome(discovery, source) do
    assert_receive message when is_tuple(message), 10_000

    case Discovery.handle(discovery, message) do
      {^source, outcome, discovery} -> {outcome, discovery}
      :unknown -> outcome(discovery, source)
    end
  end

  test "an answer holds endpoints by name, and the reasons why records are left out", context do
    discovery = context |> discovery(dns_client: Client) |> Discovery.start(@source)
    {{:ok, answer, [reason]}, discovery} = outcome(discovery, @source)
    assert %{ttl: nil, complete: true} = answer
    assert Map.keys(answer.endpoints) == ["app-4001@n.test"]
    assert reason =~ "bad host"
    assert %{discovery | last: %{}} == discovery(context, dns_client: Client)
  end

  test "the TTL is in milliseconds", context do
    DnsServer.put(context.server, "app.test", :srv, [{0, 0, 1, "n.test"}])
    discovery = context |> discovery([]) |> Discovery.start(@source)
    {{:ok, %{ttl: ttl, complete: true}, []}, _discovery} = outcome(discovery, @source)
    assert ttl > 0 and rem(ttl, 1_000) == 0
  end

  test "with :allow, an answer that lacks a record is not complete", context do
    discovery = discovery(context, allow: ["10.0.0.0/8"], type: [:srv, :a], query: "app.test")

    # Its target has no address.
    DnsServer.put(context.server, "app.test", :srv, [{0, 0, 1, "n.test"}])
    {{:ok, answer, [_reason]}, _} = discovery |> Discovery.start(@source) |> outcome(@source)
    assert %{complete: false, endpoints: none} = answer
    assert none == %{}

    # One of its addresses is not allowed.
    a = {"app.test", :a}
    DnsServer.put(context.server, "app.test", :a, [{10, 0, 0, 1}, {192, 0, 2, 1}])
    {{:ok, answer, []}, _} = discovery |> Discovery.start(a) |> outcome(a)
    assert %{complete: false, endpoints: %{"app@10.0.0.1" => _}} = answer
  end

  describe "the address of an SRV target" do
    setup context do
      DnsServer.put(context.server, "app.test", :srv, {[{0, 0, 1, "n.test"}], ttl: 1})
      DnsServer.put(context.server, "n.test", :a, {[{10, 0, 0, 1}], ttl: 60})
      %{discovery: discovery(context, [])}
    end

    defp addresses(discovery) do
      {{:ok, answer, []}, discovery} = discovery |> Discovery.start(@source) |> outcome(@source)
      {answer.endpoints["app-1@n.test"].addresses, discovery}
    end

    defp queries(server), do: for(%{name: "n.test"} <- DnsServer.queries(server), do: :query)

    test "is looked up once within its own TTL, in the family of distribution", context do
      discovery =
        Enum.reduce(1..20, context.discovery, fn _, discovery ->
          assert {[{10, 0, 0, 1}], discovery} = addresses(discovery)
          discovery
        end)

      assert [%{type: :a}] =
               for(%{name: "n.test"} = query <- DnsServer.queries(context.server), do: query)

      assert %Discovery{} = discovery
    end

    test "is looked up again when its TTL is over", context do
      DnsServer.put(context.server, "n.test", :a, {[{10, 0, 0, 1}], ttl: 0})
      {_, discovery} = addresses(context.discovery)
      DnsServer.put(context.server, "n.test", :a, {[{10, 0, 0, 2}], ttl: 60})
      assert {[{10, 0, 0, 2}], _discovery} = addresses(discovery)
    end

    test "is looked up each time if its node cannot be told from its host", context do
      discovery = discovery(context, node_name: "{name}-{port}@n-{host_label}")

      Enum.reduce(1..3, discovery, fn _, discovery ->
        {{:ok, %{endpoints: %{"app-1@n-n" => _}}, []}, discovery} =
          discovery |> Discovery.start(@source) |> outcome(@source)

        discovery
      end)

      assert length(queries(context.server)) == 3
    end

    test "stays if the lookup after its TTL fails", context do
      DnsServer.put(context.server, "n.test", :a, {[{10, 0, 0, 1}], ttl: 0})
      {_, discovery} = addresses(context.discovery)
      DnsServer.put(context.server, "n.test", :a, :servfail)
      assert {[{10, 0, 0, 1}], _discovery} = addresses(discovery)
      assert length(queries(context.server)) > 1
    end
  end

  test "the outcome of a lookup that fails at once comes by message, too", context do
    name = String.duplicate("a", 300)
    source = {name, :srv}
    assert {:error, %{reason: reason}} = Caravan.Dns.lookup_async(name, :srv)
    discovery = context |> discovery(query: name) |> Discovery.start(source)
    assert {{:error, {^reason, text}}, discovery} = outcome(discovery, source)
    assert text =~ "failed"
    assert discovery == discovery(context, query: name)
  end

  test "lookups that are stopped have no outcome", context do
    DnsServer.put(context.server, "app.test", :srv, :silent)
    resolver = context |> discovery([]) |> Discovery.start(@source)
    hangs = {"hangs.test", :srv}
    client = context |> discovery(dns_client: Client) |> Discovery.start(hangs)
    assert Discovery.stop(resolver) == discovery(context, [])
    assert Discovery.stop(client) == discovery(context, dns_client: Client)
    refute_receive _, 100
  end

  test "a message of another process is unknown", context do
    discovery = discovery(context, [])

    for message <- [:tick, {make_ref(), {:ok, 1}}, {Discovery, make_ref()}] do
      assert Discovery.handle(discovery, message) == :unknown
    end
  end
end
