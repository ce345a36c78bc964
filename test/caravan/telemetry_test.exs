defmodule Caravan.TelemetryTest do
  # Not async: it traces new processes, and tests of the resolver count the lookups of this VM.
  use ExUnit.Case

  alias Caravan.Cluster
  alias Caravan.Cluster.Config
  alias Caravan.Cluster.DnsStrategy
  alias Caravan.Cluster.Report
  alias Caravan.Telemetry
  alias Caravan.Test.Eventually
  alias Caravan.Test.FakeNetwork
  alias Caravan.Test.Knot

  @options [query: "_app._tcp.telemetry.test", node_sname: "app", topology: :telemetry]
  @timing [poll_interval: 100, min_interval: 50, keep: 0, connect_timeout: 100]
  @behaviours [:unreachable, :hangs, :raises, {:returns, :ignored}, {:returns, :other}]
  @findings [
    {:name_type, "h"},
    {:unresolvable, "h"},
    {:no_port, "a@h"},
    {:refused, "h:1"},
    {:no_reply, "h:1"},
    {:accepted, "h:1"},
    {:protocol, "h:1", "sends x"},
    {:tls, "h:1"},
    {:no_tls, "h:1"},
    {:own_cookie, "h:1"},
    {:unexamined, "h:1"},
    {:certificate, "h:1", "an alert"},
    {:name, "h:1", "b@h"},
    {:version, "h:1"},
    {:cookie, "h:1"},
    {:network, "h:1", :enetunreach}
  ]

  defmodule Client do
    @behaviour Caravan.DnsClient
    @impl true
    def get_nodes("raises.test"), do: raise("it failed")
    def get_nodes("wrong.test"), do: :wrong
    def get_nodes(_silent), do: Process.sleep(:infinity)
  end

  setup do
    knot = start_supervised!({Knot, zone: "telemetry.test", records: []})
    network = start_supervised!({FakeNetwork, self()})
    %{knot: knot, network: network}
  end

  defp records(ports),
    do: for(port <- ports, do: "_app._tcp 0 SRV 0 0 #{port} node.telemetry.test.")

  defp options(context, options) do
    @options
    |> Keyword.merge(@timing)
    |> Keyword.merge(nameservers: [Knot.address(context.knot)])
    |> Keyword.merge(FakeNetwork.options(context.network))
    |> Keyword.merge(options)
  end

  defp start(context, id, options),
    do: start_supervised!(Supervisor.child_spec({DnsStrategy, options(context, options)}, id: id))

  # Runs `fun`. Returns the events of all processes that start in the meantime: {event, measurements, metadata}.
  defp emitted(fun) do
    # A pattern matches only functions of modules that are loaded.
    Code.ensure_loaded!(Telemetry)
    1 = :erlang.trace_pattern({Telemetry, :execute, 3}, true, [])
    :erlang.trace(:new_processes, true, [:call])
    fun.()
    :erlang.trace(:all, false, [:call])
    :erlang.trace_pattern({Telemetry, :execute, 3}, false, [])
    delivered = :erlang.trace_delivered(:all)
    assert_receive {:trace_delivered, :all, ^delivered}
    received()
  end

  defp received do
    receive do
      {:trace, _pid, :call, {Telemetry, :execute, arguments}} ->
        [List.to_tuple(arguments) | received()]
    after
      0 -> []
    end
  end

  # Makes strategies emit each event.
  defp all_events(context) do
    emitted(fn ->
      # Members that cannot be connected, each in its own way.
      for {behaviour, n} <- Enum.with_index(@behaviours, 2),
          do: FakeNetwork.behave(context.network, node_of(n), behaviour)

      Knot.put_records(context.knot, records(1..6))
      start(context, :all, max_nodes: 6, prune: [after: 1])
      assert Cluster.await(:telemetry, nodes: 1, timeout: 20_000) == :ok
      assert Eventually.true?(fn -> Enum.count(status().missing, & &1.finding) == 5 end, 20_000)

      # One node more than :max_nodes.
      for n <- 2..6, do: FakeNetwork.behave(context.network, node_of(n), :connects)
      Knot.put_records(context.knot, records(1..7))
      assert Cluster.await(:telemetry, nodes: 6, timeout: 30_000) == :ok

      # Nodes that DNS no longer names, which :prune disconnects.
      Knot.put_records(context.knot, records(1..2))
      assert_receive {:disconnect, _}, 20_000
      assert Eventually.true?(fn -> length(status().connected) < 6 end, 20_000)

      # Lookups that fail.
      Knot.put_records(context.knot, [])
      assert Eventually.true?(fn -> hd(status().sources).result == "nxdomain" end)

      for {query, timeout} <- [
            {"raises.test", 20_000},
            {"wrong.test", 20_000},
            {"silent.test", 100}
          ] do
        options = [query: query, dns_client: Client, lookup_timeout: timeout]
        strategy = start(context, query, options)
        assert Eventually.true?(fn -> hd(status(strategy).sources).result != nil end, 20_000)
      end

      assert Cluster.drain(:telemetry) == :ok
      assert Cluster.resume(:telemetry) == :ok

      # A node whose number of links is limited.
      Knot.put_records(context.knot, records(1..2))
      strategy = start(context, :links, links: 1)
      assert Eventually.true?(fn -> status(strategy).links.preferred != [] end)

      for n <- 1..2 do
        FakeNetwork.behave(context.network, node_of(n), :unreachable)
        FakeNetwork.drop(context.network, node_of(n))
      end

      assert Eventually.true?(fn -> status(strategy).connected == [] end)
      {_, ref} = spawn_monitor(fn -> diagnose(context) end)
      assert_receive {:DOWN, ^ref, :process, _, :normal}, 5_000
    end)
  end

  defp node_of(n), do: :"app-#{n}@node.telemetry.test"

  defp status(strategy \\ :telemetry) do
    {:ok, status} = Cluster.status(strategy)
    status
  end

  # Reports these events without a strategy, because a strategy diagnoses only in a VM that is alive, and releases a stand-in
  # only after a minute.
  defp diagnose(context) do
    config = Config.new!(options(context, links: 1))
    counts = %{members: 1, connected: 1}
    :ok = Report.report(config, {:link_released, "nonode@nohost"}, counts)
    for finding <- @findings, do: Report.diagnosed(config, "nonode@nohost", finding, 1)
  end

  defp moduledoc do
    {:docs_v1, _, _, _, %{"en" => moduledoc}, _, _} = Code.fetch_docs(Telemetry)
    moduledoc
  end

  # Returns the rows of the table of events: %{event => {measurements, metadata}}.
  defp table do
    for [_, events, measurements, metadata] <-
          Regex.scan(~r/^\| (`\[:caravan.*?) \| (.*?) \| (.*?)\|$/m, moduledoc()),
        [event] <- Regex.scan(~r/\[.*?\]/, events),
        into: %{},
        do: {elem(Code.eval_string(event), 0), {keys(measurements), keys(metadata)}}
  end

  defp keys(cell),
    do: for([_, key] <- Regex.scan(~r/`:(\w+)`/, cell), do: String.to_atom(key)) |> Enum.sort()

  @tag :capture_log
  test "the table has the events that the code emits, with their keys", context do
    emitted = for {[:caravan | _], _, _} = event <- all_events(context), do: event

    keys =
      for {event, emissions} <- Enum.group_by(emitted, &elem(&1, 0)), into: %{} do
        for {_event, _measurements, metadata} <- emissions, do: assert(metadata.topology)
        metadata = keys_of(emissions, 2) -- [:topology]
        {event, {keys_of(emissions, 1), metadata}}
      end

    assert keys == table()

    # The documentation has the reasons, the findings and the limits too.
    documented = moduledoc() <> inspect(Code.fetch_docs(Caravan.Dns.Error))

    for {_event, _measurements, metadata} <- emitted,
        kind <- [result(metadata[:result]), metadata[:finding], metadata[:limit]],
        kind != nil,
        do: assert(documented =~ ~r/`\{?:#{kind}\W/, "#{inspect(kind)} is not documented")

    results = for {[_, _, :connect, :stop], _, %{result: result}} <- emitted, do: result(result)

    assert Enum.sort(Enum.uniq(results)) == [
             :crashed,
             :not_distributed,
             :ok,
             :returned,
             :timeout,
             :unreachable
           ]
  end

  defp keys_of(emissions, index),
    do: emissions |> Enum.flat_map(&Map.keys(elem(&1, index))) |> Enum.uniq() |> Enum.sort()

  defp result({:error, reason}) when is_tuple(reason), do: elem(reason, 0)
  defp result({:error, reason}), do: reason
  defp result(result), do: result

  # The test above sees only what it causes.
  test "the table has each event that is in the source" do
    source = Enum.map_join(Path.wildcard("lib/caravan/cluster/**/*.ex"), &File.read!/1)

    events =
      Regex.scan(~r/emit\(\s*config,\s*\[((?::\w+(?:, )?)+)\]/, source, capture: :all_but_first)

    assert length(events) > 5

    for [event] <- events do
      {event, []} = Code.eval_string("[:caravan, #{event}]")
      assert is_map_key(table(), event), "#{inspect(event)} is not documented"
    end
  end

  describe "the status" do
    @lookup [:caravan, :dns, :lookup]
    @status [:caravan, :topology, :status]

    setup do
      test = self()
      events = [@status, @lookup ++ [:start], @lookup ++ [:stop]]
      send = fn event, measurements, _, _ -> send(test, {List.last(event), measurements}) end
      :telemetry.attach_many(test, events, send, nil)
      on_exit(fn -> :telemetry.detach(test) end)
    end

    # Returns the measurements of the next status, and checks that no lookup was in flight.
    defp next(in_flight \\ 0, ended \\ 0) do
      assert_receive {what, measurements} when what in [:start, :stop, :status], 20_000

      case what do
        :start ->
          next(in_flight + 1, ended)

        :stop ->
          next(in_flight - 1, ended + 1)

        :status ->
          assert in_flight == 0 and ended > 0
          measurements
      end
    end

    defp until(fun) do
      measurements = next()
      if fun.(measurements), do: measurements, else: until(fun)
    end

    @tag :capture_log
    test "comes when all lookups have ended, failed ones too", context do
      Knot.put_records(context.knot, records([1, 2]))
      FakeNetwork.behave(context.network, node_of(2), :unreachable)
      query = ["_app._tcp.telemetry.test", "none.telemetry.test"]
      start(context, :status, query: query, keep: 300_000, lookup_timeout: 200)
      # On a busy machine, the first lookup may fail.
      assert %{drained: 0} = until(&(&1.members == 2))
      assert %{missing: 1, answer_age: age} = until(&(&1.connected == 1))
      assert age in 0..10_000

      # A failure does not change the members, and the answer becomes older.
      stop_supervised!(Knot)
      assert %{members: 2, missing: 1} = until(&(&1.answer_age > 400))
    end

    test "comes after a drain and a resume", context do
      start(context, :status, poll_interval: 3_600_000, min_interval: 3_600_000)
      assert %{drained: 0} = next()
      assert Cluster.drain(:telemetry) == :ok
      assert_received {:status, %{drained: 1}}
      assert Cluster.resume(:telemetry) == :ok
      assert_received {:status, %{drained: 0}}
    end
  end

  describe "metrics" do
    test "raises without Telemetry.Metrics, and names the dependency to add" do
      assert_raise RuntimeError, ~r/Add {:telemetry_metrics, "~> 1.0"} to deps in mix.exs/, fn ->
        Telemetry.metrics()
      end
    end

    @tag :capture_log
    test "have events, measurements and tags that a strategy emits", context do
      [{module, _binary}] = Code.compile_file("test/support/telemetry_metrics.exs")

      on_exit(fn ->
        :code.purge(module)
        :code.delete(module)
      end)

      metrics = Telemetry.metrics()
      assert length(metrics) == 9
      emitted = all_events(context)

      for metric <- metrics do
        events = for {event, _, _} = emission <- emitted, event == metric.event_name, do: emission
        assert events != [], "no event for #{inspect(metric)}"

        for {_event, measurements, metadata} <- events do
          assert is_integer(measurements[metric.measurement])
          tags = Map.take(metric.tag_values.(metadata), metric.tags)
          assert Enum.sort(Map.keys(tags)) == Enum.sort(metric.tags)
          for {_tag, value} <- tags, do: assert(is_atom(value) or is_binary(value))
        end

        # With the name of a node as a tag, the number of time series would grow with the cluster.
        assert metric.tags -- [:topology, :query, :type, :result] == []
      end
    end
  end
end
