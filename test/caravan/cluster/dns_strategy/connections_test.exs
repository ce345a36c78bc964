defmodule Caravan.Cluster.DnsStrategy.ConnectionsTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.DnsStrategy.Connections
  alias Caravan.Cluster.DnsStrategy.Jobs
  alias Caravan.Test.Eventually
  alias Caravan.Test.FakeNetwork
  alias Caravan.Test.PeerNode

  @name "app-4001@node1.test"

  # Returns what is logged at the end of the diagnosis of a node that is not connected.
  defp logged(finding) do
    # Creates the atom that the dial of this node would have created.
    _ = String.to_atom(@name)
    config = Config.new!(query: "app.test", node_sname: "app")

    capture_log(fn ->
      assert [] ==
               Connections.finished(
                 {:diagnose, @name, :unreachable},
                 {:ok, finding},
                 0,
                 config,
                 fn @name -> false end
               )
    end)
  end

  test "a diagnosis of a failed handshake is logged" do
    assert logged({:accepted, "10.0.0.1:4001"}) =~
             "10.0.0.1:4001 accepts the cookie of this node, but not its connection"

    assert logged({:cookie, "10.0.0.1:4001"}) =~ "refuses the cookie of this node"
  end

  test "a diagnosis that found another address, which refuses or does not reply, logs only why the connect failed" do
    for finding <- [{:refused, "10.0.0.2:4001"}, {:no_reply, "10.0.0.2:4001"}] do
      # Other tests may log at the same time.
      [line] = for line <- String.split(logged(finding), "\n"), line =~ @name, do: line
      assert line =~ "cannot connect to #{@name}: not reachable, or it refused the connection"
      refute line =~ "10.0.0.2"
    end
  end

  describe "release/4 and disconnect/4" do
    # Registers a process as a strategy of this VM. It replies whether it wants a link.
    defp strategy(context, reply) do
      key = :"Caravan.Cluster.DnsStrategy:#{context.test}"

      start_supervised!(
        {Task,
         fn ->
           Process.register(self(), key)

           receive do
             {:"$gen_call", from, {:wants, @name}} -> reply.(from)
           end
         end}
      )

      assert Eventually.true?(fn -> Process.whereis(key) end)
    end

    # Returns the events of the job.
    defp release(function \\ :release, options \\ []) do
      network = start_supervised!({FakeNetwork, self()})
      options = [query: "app.test", node_sname: "app"] ++ FakeNetwork.options(network) ++ options
      config = Config.new!(options)
      own = :"Caravan.Cluster.DnsStrategy:own"
      jobs = apply(Connections, function, [Jobs.new(), config, own, @name])
      assert_receive message, 5_000
      message = if match?({:disconnect, _node}, message), do: receive(do: (m -> m)), else: message
      {{^function, @name} = tag, outcome, duration, _jobs} = Jobs.handle(jobs, message)
      Connections.finished(tag, outcome, duration, config, fn _name -> true end)
    end

    test "disconnects a node that no other strategy wants", context do
      strategy(context, &GenServer.reply(&1, false))
      assert release() == [{:release_result, @name, :released}]
    end

    test "keeps a node that another strategy wants", context do
      strategy(context, &GenServer.reply(&1, true))
      assert release() == [{:release_result, @name, :kept}]
      refute_received {:disconnect, _node}
    end

    test "keeps a node that is pruned, if another strategy wants it", context do
      strategy(context, &GenServer.reply(&1, true))

      assert capture_log(fn -> assert release(:disconnect) == [] end) =~
               "#{@name} stays connected: another topology needs it"

      refute_received {:disconnect, _node}
    end

    test "keeps a node that is pruned, if another strategy does not reply", context do
      strategy(context, fn _from -> Process.sleep(:infinity) end)

      assert capture_log(fn -> assert release(:disconnect) == [] end) =~
               "#{@name} stays connected: another topology does not reply, or has had no answer yet, and may need it"

      refute_received {:disconnect, _node}
    end

    test "keeps a node that another strategy may name in its first answer", context do
      strategy(context, &GenServer.reply(&1, :unknown))
      assert release() == [{:release_result, @name, :kept}]
      refute_received {:disconnect, _node}
    end

    test "waits for the replies of other strategies longer than :connect_timeout", context do
      strategy(context, fn _from -> Process.sleep(:infinity) end)

      log =
        capture_log(fn ->
          assert release(:release, connect_timeout: 100) == [{:release_result, @name, :kept}]
        end)

      refute log =~ "cannot disconnect #{@name}"
      refute_received {:disconnect, _node}
    end

    test "keeps a node whose own strategy wants the link" do
      [a, b] =
        for x <- ~w(a b),
            do: PeerNode.start!(name: PeerNode.name(x), args: ~w(-connect_all false))

      true = PeerNode.call(a, :net_kernel, :connect_node, [b.name])

      # Replies on the other node as its strategy.
      PeerNode.eval(
        b,
        """
        test = self()

        spawn(fn ->
          Process.register(self(), :own)
          send(test, :registered)

          for reply <- [true, false] do
            receive do
              {:"$gen_call", from, {:wants, name}} -> GenServer.reply(from, reply and name == asker)
            end
          end
        end)

        receive do
          :registered -> :ok
        end
        """,
        asker: "#{a.name}"
      )

      release = """
      alias Caravan.Cluster.Config
      alias Caravan.Cluster.DnsStrategy.{Connections, Jobs}
      config = Config.new!(query: "app.test", node_sname: "app", links: 1, log_level: :none)
      jobs = Connections.release(Jobs.new(), config, :own, name)
      message = receive(do: (message -> message))
      {tag, outcome, duration, _jobs} = Jobs.handle(jobs, message)
      Connections.finished(tag, outcome, duration, config, fn _name -> true end)
      """

      for {result, left} <- [kept: [b.name], released: []] do
        assert PeerNode.eval(a, release, name: "#{b.name}") ==
                 [{:release_result, "#{b.name}", result}]

        assert PeerNode.call(a, :erlang, :nodes, []) == left
      end
    end

    test "disconnects the node if the other strategy ends", context do
      strategy(context, fn _from -> :ok end)
      assert release() == [{:release_result, @name, :released}]
    end
  end
end
