defmodule Caravan.Doctor.TextTest do
  use ExUnit.Case, async: true

  alias Caravan.Doctor.Check
  alias Caravan.Doctor.Report
  alias Caravan.Doctor.Text

  @guide "https://hexdocs.pm/caravan/#{Mix.Project.config()[:version]}/troubleshooting.html"

  defp report(node \\ "app@h") do
    results = [
      {"node.alive", {:failed, "no name", "a name", "in a file:\na line\n"}, []},
      {"node.epmd_module", {:ok, "Caravan.Epmd"}, []},
      {"node.host", {:warning, "odd", "even", "try"}, [topology: "app", subject: "query"]},
      {"ports.rule", {:skipped, "no time"}, []}
    ]

    checks =
      for {id, result, fields} <- results,
          do: id |> Check.new(fields, fn -> result end) |> Check.put_result(result, 7)

    Report.new(checks, node, false)
  end

  test "the text has warnings, then failures, then the counts" do
    assert Text.format(report(), %{color: false, verbose: false}) == """
           warning  node.host  app query: odd
               expected: even
               fix: try
               see: #{@guide}#node-host
           failed   node.alive  no name
               expected: a name
               fix: in a file:
                 a line
               see: #{@guide}#node-alive
           app@h: 1 ok, 1 warning, 1 failed, 1 skipped. Not finished within :timeout: ports.rule\
           """
  end

  test "with verbose, the checks that are ok or skipped come first" do
    assert ["ok       node.epmd_module  Caravan.Epmd", "skipped  ports.rule  no time" | _] =
             report() |> Text.format(%{color: false, verbose: true}) |> String.split("\n")
  end

  test "with color, the statuses have colors, and without it there is no escape sequence" do
    assert Text.format(report(), %{color: true, verbose: false}) =~
             "\e[31mfailed  \e[0m node.alive"

    refute Text.format(report(), %{color: false, verbose: true}) =~ "\e"
  end

  test "if all checks were skipped, the text has them and says that no check could run" do
    skipped =
      for {id, why} <- [{"ports.rule", "off"}, {"dns.self", "ports.rule has failed"}],
          do: Check.put_result(Check.new(id, fn -> nil end), {:skipped, why}, 1)

    report = Report.new(skipped, "app@h", false)
    refute report.ok
    assert Report.failures(report, false) == []

    assert Text.format(report, %{color: false, verbose: false}) == """
           skipped  ports.rule  off
           skipped  dns.self  ports.rule has failed
           app@h: 0 ok, 0 warnings, 0 failed, 2 skipped. No check could run\
           """
  end

  test "a report is not ok if a check had no time, and the text names that check" do
    ok = Check.put_result(Check.new("node.alive", fn -> nil end), {:ok, "app@h"}, 1)

    cut =
      for id <- ["peer.connected", "peer.connected", "dns.drift"],
          do: Check.new(id, fn -> nil end)

    report = Report.new([ok | Enum.map(cut, &Check.put_no_time(&1, 1))], "app@h", false)
    refute report.ok
    assert Report.failures(report, false) == []

    assert Text.format(report, %{color: false, verbose: false}) ==
             "app@h: 1 ok, 0 warnings, 0 failed, 3 skipped. Not finished within :timeout: peer.connected, dns.drift"
  end

  test "a report without checks is not ok" do
    report = Report.new([], "app@h", false)
    refute report.ok
    assert Text.format(report, %{color: false, verbose: false}) =~ "0 skipped. No check could run"
  end

  test "a report of no node says so" do
    assert Text.format(report(nil), %{color: false, verbose: false}) =~
             "no node: 1 ok"
  end

  test "a report is ok without failures, and with strict without warnings" do
    warning =
      Check.put_result(Check.new("node.host", fn -> nil end), {:warning, "a", "b", "c"}, 1)

    assert Report.new([warning], "app@h", false).ok
    refute Report.new([warning], "app@h", true).ok
    refute report().ok
    assert Report.failures(report(), false) == ["node.alive"]
    assert Report.failures(report(), true) == ["node.alive", "node.host"]
  end
end
