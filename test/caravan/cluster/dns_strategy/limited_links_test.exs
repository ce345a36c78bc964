defmodule Caravan.Cluster.DnsStrategy.LimitedLinksTest do
  # Not async: it captures the log.
  use ExUnit.Case

  import Caravan.Test.Strategy
  import ExUnit.CaptureLog

  alias Caravan.Cluster.DnsStrategy
  alias Caravan.Test.DnsServer
  alias Caravan.Test.Eventually
  alias Caravan.Test.FakeNetwork

  @query "_app._tcp.test"

  setup :start_servers

  describe "a limited number of links" do
    @members [:"app-1@node.test", :"app-2@node.test", :"app-3@node.test"]

    setup context do
      DnsServer.put(context.server, @query, :srv, for(n <- 1..3, do: srv(n)))

      :telemetry.attach_many(
        context.topology,
        [[:caravan, :node, :up], [:caravan, :node, :down]],
        fn event, _, metadata, test -> send(test, {:event, List.last(event), metadata}) end,
        self()
      )

      on_exit(fn -> :telemetry.detach(context.topology) end)
    end

    test "connects that many nodes, and stand-ins for those that cannot be reached", context do
      log =
        capture_log(fn ->
          start(context, links: 1)
          assert_receive {:connect, preferred}, 5_000
          assert_receive {:event, :up, %{node: ^preferred, link: :preferred}}, 5_000
          await_round()
          refute_received {:connect, _}

          FakeNetwork.behave(context.network, preferred, :unreachable)
          FakeNetwork.drop(context.network, preferred)
          assert_receive {:event, :down, %{node: ^preferred, link: :preferred}}, 5_000
          assert_receive {:event, :up, %{node: stand_in, link: :stand_in}}, 5_000
          assert stand_in in (@members -- [preferred])
          send(self(), {:nodes, preferred, stand_in})
        end)

      assert_received {:nodes, preferred, stand_in}
      assert log =~ "connected to #{preferred} (preferred)"
      assert log =~ "lost #{preferred} (preferred)"
      assert log =~ "connected to #{stand_in} (stand-in)"
    end

    test "publishes all members, and makes no atoms of those that it does not dial", context do
      hosts = for n <- 1..3, do: "n#{System.unique_integer([:positive])}-#{n}.test"
      DnsServer.put(context.server, @query, :srv, for(host <- hosts, do: srv(4001, host)))
      start(context, links: 0, ports: :srv)
      published = fn -> for {name, 4_001, _} <- Caravan.Epmd.Peers.list(), do: name end

      assert Eventually.true?(fn ->
               for(host <- hosts, do: "app@" <> host) -- published.() == []
             end)

      refute_received {:connect, _}

      for host <- hosts do
        assert_raise ArgumentError, fn -> String.to_existing_atom("app@" <> host) end
      end
    end

    test "is the most that await/2 waits for", context do
      start(context, links: 2)
      assert Caravan.Cluster.await(context.topology, nodes: 3) == :ok
      assert length(FakeNetwork.list(context.network)) == 2
    end

    test "is warned about once if connect_all is on", context do
      log =
        capture_log(fn ->
          start(context, links: 2)
          await_round()
        end)

      assert [_before, after_warning] =
               String.split(log, "links: 2 limits the links of this node")

      assert after_warning =~ "Add the line -connect_all false to rel/vm.args.eex"
      refute capture_log(fn -> start_all(context) end) =~ "limits the links"
    end

    defp start_all(context) do
      start_supervised!({DnsStrategy, options(context, topology: :all_links)}, id: :all_links)
      await_round()
    end
  end
end
