defmodule Caravan.Cluster.DnsStrategy.WarningsTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.DnsStrategy.Warnings

  @source {"a.test", :srv}

  defp new(options \\ []) do
    defaults = [topology: :warnings_test, query: "a.test", node_sname: "app"]
    Warnings.new(Config.new!(Keyword.merge(defaults, options)))
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

  test "each text names the cause" do
    assert capture_log(fn -> Warnings.left_out(new(), @source, ["x", "y"]) end) =~
             ~s([caravan:warnings_test] 2 records of "a.test" are left out: x)

    assert capture_log(fn -> Warnings.list_nodes(new(), {:error, "it failed"}) end) =~ "it failed"

    assert capture_log(fn -> Warnings.peer_table(new(), {:error, :full}) end) =~
             "the table of addresses is full"

    warnings = new()

    assert capture_log(fn ->
             assert Warnings.list_nodes(warnings, :ok) == warnings
             assert Warnings.peer_table(warnings, :ok) == warnings
           end) == ""
  end
end
