defmodule Caravan.Cluster.DnsStrategy.HostileAnswersTest do
  # Not async: it captures the log.
  use ExUnit.Case

  import Caravan.Test.Strategy
  import ExUnit.CaptureLog

  alias Caravan.Test.DnsServer
  alias Caravan.Test.FakeNetwork
  alias Caravan.Test.Host

  @query "_app._tcp.test"

  setup :start_servers

  describe "hostile answers" do
    test "records without a valid node name are ignored, and logged once", context do
      records = [
        srv(1, "a@b.test"),
        srv(2, "sp ace.test"),
        srv(3, String.duplicate("a.", 126)),
        srv(4001)
      ]

      DnsServer.put(context.server, @query, :srv, records)

      log =
        capture_log(fn ->
          start(context)
          assert_receive {:connect, :"app-4001@node.test"}, 5_000
          await_round()
        end)

      assert [_, _] = String.split(log, ~s(3 records of "_app._tcp.test" are left out))
      refute_received {:connect, _}
    end

    test "invalid records that come and go are logged once", context do
      replies =
        for _ <- 1..10, records <- [[srv(1), srv(2, "sp ace.test")], [srv(1)]], do: records

      DnsServer.put(context.server, @query, :srv, {:sequence, replies})

      log =
        capture_log(fn ->
          start(context)
          for _ <- 1..6, do: await_round()
        end)

      assert [_, _] = String.split(log, "are left out")
    end

    test "a target with bytes of any value does not stop the strategy", context do
      raw = {:raw, fn query, _transport -> hostile_answer(query) end}
      DnsServer.put(context.server, @query, :srv, raw)
      strategy = start(context)
      await_round()
      assert Process.alive?(strategy)
      refute_received {:connect, _}
    end

    test "no more than :max_nodes names become atoms", context do
      records = for n <- 1..1_500, do: srv(n, "crowd.test")
      DnsServer.put(context.server, @query, :srv, records)

      log =
        capture_log(fn ->
          start(context, poll_interval: 3_600_000, max_connects: 1_024)

          Host.await(
            fn -> length(FakeNetwork.list(context.network)) == 1_024 end,
            "1,024 connects"
          )
        end)

      assert log =~ "DNS has more than 1024 nodes"
    end
  end

  # Returns one SRV record. Its target is a label of 63 bytes that has NUL and 0xFF in it.
  defp hostile_answer(<<id::16, _flags::16, 1::16, _::48, rest::binary>>) do
    {question, _edns} = split_question(rest)
    label = <<0, 255, ?@, ?., 10>> <> :binary.copy(<<7>>, 58)
    target = <<byte_size(label), label::binary, 0>>
    rdata = <<0::16, 0::16, 4001::16, target::binary>>
    record = <<0xC00C::16, 33::16, 1::16, 5::32, byte_size(rdata)::16, rdata::binary>>
    <<id::16, 0x8180::16, 1::16, 1::16, 0::32, question::binary, record::binary>>
  end

  defp split_question(rest) do
    {position, 1} = :binary.match(rest, <<0>>)
    :erlang.split_binary(rest, position + 5)
  end
end
