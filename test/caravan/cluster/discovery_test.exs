defmodule Caravan.Cluster.DiscoveryTest do
  # Not async: tests of the resolver count the lookups of this VM.
  use ExUnit.Case

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery
  alias Caravan.Test.DnsServer
  alias Caravan.Test.DnsServer.Wire

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
    assert %{discovery | last: %{}, finished: %{}} == discovery(context, dns_client: Client)
  end

  test "the TTL is in milliseconds", context do
    DnsServer.put(context.server, "app.test", :srv, [{0, 0, 1, "n.test"}])
    discovery = context |> discovery([]) |> Discovery.start(@source)
    {{:ok, %{ttl: ttl, complete: true}, []}, _discovery} = outcome(discovery, @source)
    assert ttl > 0 and rem(ttl, 1_000) == 0
  end

  test "a query has its own basename, or the basename of the options", context do
    for {query, basename} <- [{"app.test", "app"}, {{"other", "app.test"}, "other"}] do
      discovery = context |> discovery(dns_client: Client, query: query)
      {{:ok, answer, _}, _} = discovery |> Discovery.start(@source) |> outcome(@source)
      assert Map.keys(answer.endpoints) == ["#{basename}-4001@n.test"]
    end
  end

  test "a DNS name with several basenames is looked up once", context do
    DnsServer.put(context.server, "app.test", :srv, [{0, 0, 1, "n.test"}])
    discovery = context |> discovery(query: [{"app", "app.test"}, {"web", "app.test"}])
    {{:ok, answer, []}, _} = discovery |> Discovery.start(@source) |> outcome(@source)
    assert Map.keys(answer.endpoints) == ["app-1@n.test", "web-1@n.test"]
    assert [_] = for(%{name: "app.test"} = query <- DnsServer.queries(context.server), do: query)
  end

  test "an answer names no node while node names need the basename of this node, which is not alive",
       context do
    refute Node.alive?()
    discovery = discovery(context, dns_client: Client, node_sname: nil)
    {{:ok, answer, []}, _} = discovery |> Discovery.start(@source) |> outcome(@source)
    assert answer == %{endpoints: %{}, ttl: nil, complete: false}

    discovery = discovery(context, dns_client: Client, node_sname: nil, node_name: "app@{host}")
    {{:ok, answer, _}, _} = discovery |> Discovery.start(@source) |> outcome(@source)
    assert Map.keys(answer.endpoints) == ["app@n.test"]
  end

  test "with :allow, an answer that lacks a record is not complete", context do
    discovery = discovery(context, allow: ["10.0.0.0/8"], type: [:srv, :a], query: "app.test")

    # The target of the record has no address.
    DnsServer.put(context.server, "app.test", :srv, [{0, 0, 1, "n.test"}])
    {{:ok, answer, [_reason]}, _} = discovery |> Discovery.start(@source) |> outcome(@source)
    assert %{complete: false, endpoints: none} = answer
    assert none == %{}

    # One address of the answer is not allowed.
    a = {"app.test", :a}
    DnsServer.put(context.server, "app.test", :a, [{10, 0, 0, 1}, {192, 0, 2, 1}])
    {{:ok, answer, []}, _} = discovery |> Discovery.start(a) |> outcome(a)
    assert %{complete: false, endpoints: %{"app@10.0.0.1" => _}} = answer
  end

  describe "an answer with the records of the last one" do
    defp answer(discovery) do
      {{:ok, answer, []}, discovery} = discovery |> Discovery.start(@source) |> outcome(@source)
      {answer, discovery}
    end

    # The same term, not an equal one.
    defp same_endpoints?(one, other), do: :erts_debug.same(one.endpoints, other.endpoints)

    test "becomes the same endpoints, with its own TTL and number of records", context do
      records = for n <- 1..200, do: {0, 0, n, "n#{n}.test"}
      DnsServer.put_default(context.server, {[{10, 0, 0, 1}], ttl: 60})
      DnsServer.put(context.server, "app.test", :srv, {records, ttl: 30})
      # From the second lookup on, the addresses of the targets are known.
      {_, discovery} = context |> discovery([]) |> answer()
      {first, discovery} = answer(discovery)

      DnsServer.put(context.server, "app.test", :srv, {Enum.reverse(records), ttl: 20})
      {second, discovery} = answer(discovery)
      assert same_endpoints?(first, second)
      assert second.endpoints["app-7@n7.test"].addresses == [{10, 0, 0, 1}]
      assert %{ttl: 20_000, complete: true} = second
      assert %{@source => %{records: 200, ttl: 20_000}} = Discovery.finished_lookups(discovery)

      DnsServer.put(context.server, "app.test", :srv, {tl(records), ttl: 20})
      {third, _discovery} = answer(discovery)
      assert map_size(third.endpoints) == 199
    end

    test "is read again if another answer has another address of its target", context do
      other = {"other.test", :srv}
      DnsServer.put(context.server, "app.test", :srv, [{0, 0, 1, "n.test"}])
      DnsServer.put(context.server, "n.test", :a, {[{10, 0, 0, 1}], ttl: 60})
      {_, discovery} = context |> discovery(query: ["app.test", "other.test"]) |> answer()
      # The target is known now, so this answer comes without its address.
      {_, discovery} = answer(discovery)

      moved = fn query, _ ->
        answers = [Wire.srv(:question, 1, ["n", "test"])]
        Wire.response(query, answers: answers, additional: [Wire.a(["n", "test"], {10, 0, 0, 2})])
      end

      DnsServer.put(context.server, "other.test", :srv, {:raw, moved})
      {_, discovery} = discovery |> Discovery.start(other) |> outcome(other)
      {answer, _discovery} = answer(discovery)
      assert answer.endpoints["app-1@n.test"].addresses == [{10, 0, 0, 2}]
    end
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

    test "is looked up each time if the host of the node does not begin with the label of the target",
         context do
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
    assert %{^source => %{result: ^reason}} = Discovery.finished_lookups(discovery)
    assert %{discovery | finished: %{}} == discovery(context, query: name)
  end

  test "lookups that are stopped have no outcome", context do
    DnsServer.put(context.server, "app.test", :srv, :silent)
    resolver = context |> discovery([]) |> Discovery.start(@source)
    new = discovery(context, dns_client: Client, query: "hangs.test")
    client = Discovery.start(new, {"hangs.test", :srv})
    assert Discovery.stop(resolver) == discovery(context, [])
    assert Discovery.stop(client) == new
    refute_receive _, 100
  end

  test "a message of another process is unknown", context do
    discovery = discovery(context, [])

    for message <- [:tick, {make_ref(), {:ok, 1}}, {Discovery, make_ref()}] do
      assert Discovery.handle(discovery, message) == :unknown
    end
  end
end
