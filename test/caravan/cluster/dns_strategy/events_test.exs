defmodule Caravan.Cluster.DnsStrategy.EventsTest do
  use ExUnit.Case

  import Caravan.Test.Strategy

  alias Caravan.Test.DnsServer
  alias Caravan.Test.FakeNetwork

  @query "_app._tcp.test"

  setup :start_servers

  describe "events" do
    @events [
      [:caravan, :dns, :lookup, :start],
      [:caravan, :dns, :lookup, :stop],
      [:caravan, :dns, :lookup, :exception],
      [:caravan, :node, :connect, :stop],
      [:caravan, :node, :up],
      [:caravan, :node, :down],
      [:caravan, :node, :prune],
      [:caravan, :membership, :change],
      [:caravan, :membership, :limit],
      [:caravan, :membership, :drain],
      [:caravan, :membership, :resume],
      [:libcluster, :connect_node, :ok],
      [:libcluster, :connect_node, :error],
      [:libcluster, :disconnect_node, :ok],
      [:libcluster, :disconnect_node, :error]
    ]

    setup do
      test = self()

      :telemetry.attach_many(
        test,
        @events,
        fn event, measurements, metadata, _ ->
          send(test, {:event, event, measurements, metadata})
        end,
        nil
      )

      on_exit(fn -> :telemetry.detach(test) end)
    end

    test "are emitted for a lookup, a connect, a change and a nodedown", context do
      DnsServer.put(context.server, @query, :srv, {:sequence, [:servfail, [srv(1), srv(2)]]})
      FakeNetwork.behave(context.network, :"app-2@node.test", :unreachable)
      strategy = start(context, topology: :events, lookup_attempts: 1)

      assert_receive {:event, [:caravan, :dns, :lookup, :start], %{system_time: _},
                      %{topology: :events, query: @query, type: :srv}},
                     5_000

      assert_receive {:event, [:caravan, :dns, :lookup, :stop], %{duration: _, records: 0},
                      %{result: {:error, :servfail}}},
                     5_000

      assert_receive {:event, [:caravan, :dns, :lookup, :stop], %{records: 2}, %{result: :ok}},
                     5_000

      assert_receive {:event, [:caravan, :membership, :change],
                      %{members: 2, added: 2, removed: 0},
                      %{topology: :events, added: ["app-1@node.test", "app-2@node.test"]}},
                     5_000

      assert_receive {:event, [:caravan, :node, :connect, :stop], %{duration: _},
                      %{node: :"app-1@node.test", result: :ok}},
                     5_000

      assert_receive {:event, [:libcluster, :connect_node, :ok], %{duration: _},
                      %{node: :"app-1@node.test", topology: :events}},
                     5_000

      assert_receive {:event, [:libcluster, :connect_node, :error], empty,
                      %{node: :"app-2@node.test", topology: :events, reason: :unreachable}},
                     5_000

      assert empty == %{}

      assert_receive {:event, [:caravan, :node, :up], %{connected: 1},
                      %{node: :"app-1@node.test"}},
                     5_000

      FakeNetwork.drop(context.network, :"app-1@node.test")
      send(strategy, {:nodedown, :"app-1@node.test", []})

      assert_receive {:event, [:caravan, :node, :down], %{connected: 0},
                      %{node: :"app-1@node.test"}},
                     5_000
    end

    test "are emitted for a dns_client that raises", context do
      defmodule RaisingClient do
        @behaviour Caravan.DnsClient
        @impl true
        def get_nodes(_name), do: raise("no")
      end

      start(context, dns_client: RaisingClient)

      assert_receive {:event, [:caravan, :dns, :lookup, :exception], %{duration: _},
                      %{query: @query, kind: :error, reason: reason}},
                     5_000

      assert reason =~ "no"
    end

    test "are emitted for a prune, and for a limit", context do
      nodes = for n <- 1..2, do: srv(n)
      DnsServer.put(context.server, @query, :srv, {:sequence, [nodes, [srv(1), srv(3)]]})
      start(context, prune: [after: 1], keep: 0, max_new_names: 1, node_sname: "limited")

      assert_receive {:event, [:caravan, :membership, :limit], %{left_out: 1},
                      %{limit: :max_new_names}},
                     5_000

      assert_receive {:event, [:caravan, :node, :prune], %{spared: 0},
                      %{node: :"limited-2@node.test"}},
                     5_000

      assert_receive {:event, [:libcluster, :disconnect_node, :ok], %{duration: _},
                      %{node: :"limited-2@node.test"}},
                     5_000
    end

    test "are emitted for a disconnect that fails", context do
      DnsServer.put(context.server, @query, :srv, {:sequence, [[srv(1), srv(2)], [srv(1)]]})
      # This function returns false.
      start(context, prune: [after: 1], keep: 0, disconnect: {:erlang, :is_pid, []})

      assert_receive {:event, [:libcluster, :disconnect_node, :error], empty,
                      %{node: :"app-2@node.test", reason: :already_disconnected}},
                     5_000

      assert empty == %{}
    end

    test "are emitted for a drain and a resume", context do
      DnsServer.put(context.server, @query, :srv, [srv(1)])
      strategy = start(context, topology: :events)
      assert_receive {:event, [:caravan, :node, :up], _, _}, 5_000
      assert Caravan.Cluster.drain(strategy) == :ok

      assert_receive {:event, [:caravan, :membership, :drain], %{connected: 1},
                      %{topology: :events}},
                     5_000

      assert Caravan.Cluster.resume(strategy) == :ok

      assert_receive {:event, [:caravan, :membership, :resume], %{connected: _},
                      %{topology: :events}},
                     5_000
    end
  end
end
