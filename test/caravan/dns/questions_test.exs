defmodule Caravan.Dns.QuestionsTest do
  use ExUnit.Case, async: true

  # Checks the queries that a nameserver receives.

  alias Caravan.Dns
  alias Caravan.Dns.Error
  alias Caravan.Test.DnsServer
  alias Caravan.Test.DnsServer.Wire

  @ip {127, 0, 0, 1}

  setup do
    server = start_supervised!(DnsServer)
    DnsServer.put_default(server, [@ip])
    # With this timeout, no query is repeated, not even on a busy machine.
    %{server: server, options: [nameservers: [DnsServer.address(server)], timeout: 60_000]}
  end

  test "ids and source ports are random", %{server: server, options: options} do
    for n <- 1..64, do: Dns.lookup!("n#{n}.test", :a, options)
    queries = DnsServer.queries(server)
    assert length(queries) == 64
    ids = for query <- queries, do: query.id

    # The probability that 64 random ids out of 65,536 have fewer than 61 different values is negligible.
    assert length(Enum.uniq(ids)) > 60
    # So is the probability that random ids are sorted.
    assert ids != Enum.sort(ids)
    # A socket is replaced after a number of queries.
    assert queries |> Enum.uniq_by(& &1.port) |> length() >= 2
  end

  test "a query has EDNS with a payload that fits every path, and does not request DNSSEC",
       context do
    Dns.lookup!("app.test", :a, context.options)
    assert [%{payload: 1_232, dnssec: false}] = DnsServer.queries(context.server)
  end

  describe "0x20" do
    @name "a-name-of-many-letters-to-be-written-in-both-cases.test"

    test "sends the name in random case", %{server: server, options: options} do
      options = [randomize_case: true] ++ options
      for _ <- 1..4, do: Dns.lookup!(@name, :a, options)
      asked = for query <- DnsServer.queries(server), do: query.asked
      assert Enum.all?(asked, &(String.downcase(&1) == @name))

      # The probability that a name of 40 letters is in lower case, or the same twice, is negligible.
      assert @name not in asked
      assert length(Enum.uniq(asked)) == 4
    end

    test "ignores an answer in another case", %{server: server, options: options} do
      DnsServer.put_default(server, {:raw, &lowered/2})
      options = [randomize_case: true, timeout: 300] ++ options
      assert {:error, %Error{reason: :timeout}} = Dns.lookup(@name, :a, options)
    end

    test "is off by default: the name is sent as given, and an answer in any case is accepted",
         context do
      DnsServer.put_default(context.server, {:raw, &lowered/2})
      assert %{records: [@ip]} = Dns.lookup!("App.Test", :a, context.options)
      assert [%{asked: "App.Test"}] = DnsServer.queries(context.server)
    end
  end

  describe "of two identical lookups in flight" do
    test "one is answered if the other is cancelled", %{server: server, options: options} do
      DnsServer.subscribe(server)
      DnsServer.put(server, "app.test", :a, {:delay, 2_000, [@ip]})
      {:ok, first} = Dns.lookup_async("app.test", :a, options)
      {:ok, second} = Dns.lookup_async("app.test", :a, options)
      assert_receive {:dns_query, _}, 5_000
      assert Dns.cancel(first)
      assert_receive {^second, {:ok, %{records: [@ip]}}}, 10_000
      refute_received {^first, _}
    end

    test "each ends at its own deadline", %{server: server, options: options} do
      DnsServer.put(server, "app.test", :a, {:delay, 1_000, [@ip]})
      {:ok, patient} = Dns.lookup_async("app.test", :a, [timeout: 30_000] ++ options)
      {:ok, hasty} = Dns.lookup_async("app.test", :a, [timeout: 100] ++ options)
      assert_receive {^hasty, {:error, %Error{reason: :timeout}}}, 10_000
      assert_receive {^patient, {:ok, %{records: [@ip]}}}, 10_000
    end
  end

  defp lowered(query, _transport) do
    [labels, rest] = [Wire.labels(query), Wire.question(query)]
    name = labels |> Enum.map(&String.downcase/1) |> Wire.name()
    question = name <> binary_part(rest, byte_size(rest), -4)
    Wire.response(query, question: question, answers: [Wire.a(:question, @ip)])
  end
end
