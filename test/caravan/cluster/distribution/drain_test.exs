defmodule Caravan.Cluster.Distribution.DrainTest do
  @moduledoc "Drains strategies without distribution."
  # Not async: tests of the resolver count the lookups of this VM.
  use ExUnit.Case

  import Caravan.Test.Strategy
  import ExUnit.CaptureLog

  alias Caravan.Cluster
  alias Caravan.Cluster.Distribution.Cookies
  alias Caravan.Cluster.Distribution.Drain
  alias Caravan.Epmd.Peers
  alias Caravan.Epmd.Quarantine
  alias Caravan.Test.DnsServer
  alias Caravan.Test.Eventually

  @query "_app._tcp.test"
  @lookup [:caravan, :dns, :lookup]

  setup :start_servers

  test "a resume during a drain ends it, and the callers of the drain get an error", context do
    DnsServer.put(context.server, @query, :srv, [{0, 0, 1, "n.test"}])
    strategy = start(context)
    assert_receive {:connect, :"app-1@n.test"}, 20_000

    # All calls are in the mailbox in this order, so that the leave job has no time to end.
    :sys.suspend(strategy)
    drains = for _ <- 1..2, do: Task.async(fn -> Cluster.drain(strategy) end)
    assert Eventually.true?(fn -> calls(strategy) == [:drain, :drain] end)
    resume = Task.async(fn -> Cluster.resume(strategy) end)
    assert Eventually.true?(fn -> calls(strategy) == [:drain, :drain, :resume] end)
    :sys.resume(strategy)

    assert Task.await(resume, 20_000) == :ok
    assert Task.await_many(drains, 20_000) == [{:error, :failed}, {:error, :failed}]

    # The next drain and resume work as usual.
    assert Cluster.drain(strategy) == :ok
    assert Cluster.resume(strategy) == :ok
  end

  defp calls(strategy) do
    {:messages, messages} = Process.info(strategy, :messages)
    for {:"$gen_call", _from, request} <- messages, do: request
  end

  test "after a resume, the peer table is as before", context do
    DnsServer.put(context.server, @query, :srv, [{0, 0, 25_001, "drain-table.test"}])
    strategy = start(context, ports: :srv)
    assert_receive {:connect, :"app@drain-table.test"}, 20_000
    ours = fn -> for {"app@drain-table.test", port, _} <- Peers.list(), do: port end
    assert ours.() == [25_001]
    assert Cluster.drain(strategy) == :ok
    assert ours.() == []
    # From now on, DNS does not answer.
    DnsServer.put(context.server, @query, :srv, :silent)
    assert Cluster.resume(strategy) == :ok
    assert ours.() == [25_001]
  end

  test "a lookup that a drain cancels has a stop event", context do
    DnsServer.put(context.server, @query, :srv, :silent)
    test = self()
    handler = fn event, _, metadata, _ -> send(test, {List.last(event), metadata}) end
    events = for what <- [:start, :stop, :exception], do: @lookup ++ [what]
    topology = context.topology
    :telemetry.attach_many(topology, events, handler, nil)
    on_exit(fn -> :telemetry.detach(topology) end)

    strategy = start(context, lookup_timeout: 20_000)
    assert_receive {:start, %{topology: ^topology}}, 20_000
    assert Cluster.drain(strategy) == :ok
    assert_received {:stop, %{topology: ^topology, result: {:error, :cancelled}}}
    assert Cluster.drain(strategy) == :ok
    refute_received {_event, %{topology: ^topology}}
  end

  test "a drain of one strategy does not drain another", context do
    DnsServer.put(context.server, @query, :srv, [{0, 0, 1, "n.test"}])
    one = start(context, topology: :drain_one)
    two = start(context, topology: :drain_two)
    drained = fn strategy -> :sys.get_state(strategy).membership.drained end
    assert Cluster.drain(one) == :ok
    assert {drained.(one), drained.(two)} == {true, false}
    assert Cluster.drain(two) == :ok
    assert {drained.(one), drained.(two)} == {true, true}
    assert Cluster.resume(one) == :ok
    assert {drained.(one), drained.(two)} == {false, true}
    assert Cluster.resume(two) == :ok
  end

  test "a strategy that cannot release its members from quarantine goes on, and tries again",
       context do
    names = for n <- 1..2, do: :"app-#{n}@quarantine.test"
    before = Quarantine.load()
    on_exit(fn -> Quarantine.save(before) end)
    Quarantine.save(%{secret: :secret, keys: [:another], cookies: Map.new(names, &{&1, :cookie})})
    records = for port <- 1..2, do: {0, 0, port, "quarantine.test"}
    DnsServer.put(context.server, @query, :srv, records)

    # Has the lock of all changes for so long that they fail.
    test = self()

    holder =
      start_supervised!(
        {Task,
         fn ->
           Process.register(self(), Cookies)
           send(test, :registered)
           Process.sleep(:infinity)
         end}
      )

    assert_receive :registered, 20_000

    log =
      capture_log(fn ->
        # A connect releases its node too, so one of the two is not dialled.
        strategy = start(context, links: 1)
        assert Eventually.true?(fn -> Cluster.ready?(strategy) end)
        assert Enum.sort(Cookies.quarantined()) == names
        Process.exit(holder, :kill)
        assert Eventually.true?(fn -> Cookies.quarantined() == [] end)
        assert Process.alive?(strategy)
      end)

    assert log =~ "members that a drain of another topology keeps out cannot connect yet"
  end

  test "drains and resumes at the same time all take effect" do
    keys = for n <- 1..50, do: :"drain_test_#{n}"

    at_once = fn fun ->
      keys |> Enum.map(&Task.async(fn -> fun.(&1) end)) |> Task.await_many(60_000)
    end

    at_once.(&Drain.start/1)
    assert Enum.all?(keys, &Drain.drained?/1)
    at_once.(&Drain.resume/1)
    refute Enum.any?(keys, &Drain.drained?/1)
  end
end
