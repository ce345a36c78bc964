defmodule Caravan.Cluster.DnsStrategy.WarningsTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.DnsStrategy.PeerSettings
  alias Caravan.Cluster.DnsStrategy.Warnings
  alias Caravan.Cluster.Job

  @source {"a.test", :srv}
  @visible [node_type: :visible]

  defp new(options \\ []) do
    defaults = [topology: :warnings_test, query: "a.test", node_sname: "app"]
    config = Config.new!(Keyword.merge(defaults, options))
    Warnings.new(config, :warnings_test)
  end

  defp left_out(warnings, source, reasons) do
    log = capture_log(fn -> send(self(), Warnings.left_out(warnings, source, reasons)) end)
    assert_received %Warnings{} = warnings
    {lines(log), warnings}
  end

  defp lines(log), do: length(Regex.scan(~r/\[caravan:warnings_test\]/, log))

  test "a condition is logged when it begins, and not while it lasts" do
    assert {1, warnings} = left_out(new(), @source, ["x", "y"])
    assert {0, _warnings} = left_out(warnings, @source, ["z"])
  end

  test "each source has a condition of its own" do
    {1, warnings} = left_out(new(), @source, ["x"])
    assert {1, _warnings} = left_out(warnings, {"b.test", :srv}, ["x"])
  end

  test "a condition that ends within :keep and begins again is not logged again" do
    {1, warnings} = left_out(new(keep: 60_000), @source, ["x"])
    {0, warnings} = left_out(warnings, @source, [])
    assert {0, _warnings} = left_out(warnings, @source, ["x"])
    {1, warnings} = left_out(new(keep: 0), @source, ["x"])
    {0, warnings} = left_out(warnings, @source, [])
    assert {1, _warnings} = left_out(warnings, @source, ["x"])
  end

  # Asks a node for its connect_all, and takes in its answer.
  defp asked(warnings, value) do
    timer = {:timeout, warnings.peer_settings.timer, PeerSettings}
    %{peer_settings: %{job: {job, node}}} = warnings = Warnings.handle(warnings, timer)
    message = {:DOWN, job.ref, :process, job.pid, {Job, {:ok, %{node => value}}}}
    log = capture_log(fn -> send(self(), Warnings.handle(warnings, message)) end)
    assert_received %Warnings{} = warnings
    {lines(log), log, warnings}
  end

  test "nodes with another connect_all are a condition until none is connected" do
    warnings = new(keep: 0) |> Warnings.nodeup(:a@h, @visible)
    {1, text, warnings} = asked(warnings, false)
    assert text =~ "connect_all is true on this node and false on a@h."
    {0, _text, warnings} = warnings |> Warnings.nodeup(:b@h, @visible) |> asked(false)
    warnings = Warnings.nodedown(warnings, :a@h)
    {0, _text, warnings} = warnings |> Warnings.nodeup(:c@h, @visible) |> asked(true)
    warnings = Warnings.nodedown(warnings, :b@h)
    assert {1, text, _warnings} = warnings |> Warnings.nodeup(:d@h, @visible) |> asked(false)
    assert text =~ "d@h"
  end

  test "messages that belong to no question are unknown, and a stop ends the questions" do
    warnings = Warnings.nodeup(new(), :a@h, @visible)
    timer = {:timeout, warnings.peer_settings.timer, PeerSettings}
    assert Warnings.handle(warnings, {:timeout, make_ref(), PeerSettings}) == :unknown
    assert warnings |> Warnings.stop() |> Warnings.handle(timer) == :unknown
  end

  test "a node that has been reported, or is not connected, does not wait for a report" do
    warnings = Warnings.nodeup(new(), :a@h, @visible)
    assert Warnings.nodedown(warnings, :a@h).unnamed_nodes.waiting == %{}

    warnings =
      put_in(warnings.unnamed_nodes.waiting[:a@h], System.monotonic_time(:millisecond) - 60_000)

    test = self()
    capture_log(fn -> send(test, Warnings.unnamed_nodes(warnings)) end)
    assert_received %Warnings{unnamed_nodes: %{waiting: none}} when none == %{}
  end

  test "the peer table is full until the addresses of the topology fit again" do
    refute Warnings.peer_table_full?(new())
    full = Warnings.peer_table(new(), {:error, :full})
    assert Warnings.peer_table_full?(full)
    refute full |> Warnings.peer_table(:ok) |> Warnings.peer_table_full?()
  end

  test "each text names the cause" do
    assert capture_log(fn -> Warnings.left_out(new(), @source, ["x", "y"]) end) =~
             ~s([caravan:warnings_test] 2 records of "a.test" are left out. The reason for the first: x)

    assert capture_log(fn -> Warnings.list_nodes(new(), {:error, "it failed"}) end) =~ "it failed"

    assert capture_log(fn -> Warnings.peer_table(new(), {:error, :full}) end) =~
             "the peer table is full"

    warnings = new()

    # Other tests may log at the same time.
    log =
      capture_log(fn ->
        assert Warnings.list_nodes(warnings, :ok) == warnings
        assert Warnings.peer_table(warnings, :ok) == warnings
      end)

    assert lines(log) == 0
  end

  describe "troubles that last" do
    @minute 60_000

    # Returns the lines, and the warnings, whose next check is not delayed.
    defp remind(warnings, troubles) do
      test = self()
      log = capture_log(fn -> send(test, Warnings.remind(warnings, fn -> troubles end)) end)
      assert_received %Warnings{} = warnings
      # Other tests may log at the same time.
      own = for line <- String.split(log, "\n"), line =~ "[caravan:warnings_test]", do: line
      {Enum.join(own), %{warnings | checked_at: nil}}
    end

    defp ago(minutes), do: System.monotonic_time(:millisecond) - minutes * @minute
    defp none, do: %{missing: [], members: 5, failing: []}

    test "are members that are missing" do
      missing = [{"b@h", ago(4), nil}, {"a@h", ago(6), "nothing listens on h:1"}]
      {log, warnings} = remind(new(), %{none() | missing: missing})

      assert log =~
               "[caravan:warnings_test] still 2 of 5 members missing: a@h (for 6 minutes), b@h (for 4 minutes). " <>
                 "The last attempt to connect a@h: nothing listens on h:1"

      assert {"", warnings} = remind(warnings, %{none() | missing: missing})
      {log, warnings} = remind(warnings, none())
      assert log =~ "no member is missing any more"
      assert {"", warnings} = remind(warnings, none())
      assert {"", _warnings} = remind(warnings, %{none() | missing: [{"a@h", ago(4), nil}]})
    end

    test "are lookups that fail" do
      failing = [{@source, ago(61), "DNS lookup failed"}]
      {log, warnings} = remind(new(), %{none() | failing: failing})
      assert log =~ "still, for an hour: DNS lookup failed"
      # The membership reports that the lookup is answered again.
      assert {"", _warnings} = remind(warnings, none())
    end

    test "are not over, and not reported, while the strategy is drained" do
      missing = %{none() | missing: [{"a@h", ago(6), nil}]}
      {_log, warnings} = remind(new(), missing)
      assert {"", warnings} = remind(warnings, nil)
      assert {"", _warnings} = remind(warnings, none())
    end

    test "are looked for every ten seconds at most" do
      test = self()

      troubles = fn ->
        send(test, :called)
        none()
      end

      warnings = Warnings.remind(new(), troubles)
      assert_received :called
      assert Warnings.remind(warnings, troubles) == warnings
      refute_received :called
    end
  end
end
