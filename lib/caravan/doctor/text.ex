defmodule Caravan.Doctor.Text do
  # Pure. The report of the doctor as text for a terminal.
  @moduledoc false

  alias Caravan.Doctor.Report

  @guide "https://hexdocs.pm/caravan/#{Mix.Project.config()[:version]}/troubleshooting.html"

  # Findings from the least to the most important one, so that the last lines are those to read.
  @order ~w(ok skipped warning failed)
  @colors %{"ok" => "32", "skipped" => "2", "warning" => "33", "failed" => "31"}

  @doc """
  Returns the report as text: one line for each finding, below it what was expected and the fix, and the counts.

  Without `:verbose`, only warnings and failures are listed, or the skipped checks if all checks were skipped. With
  `:color`, the statuses have colors (ANSI).
  """
  @spec format(Report.t(), %{
          :color => boolean,
          :verbose => boolean,
          optional(atom) => term
        }) :: String.t()
  def format(report, %{color: color, verbose: verbose}) do
    ran? = Report.ran?(report.counts)
    shown = if verbose or not ran?, do: @order, else: ["warning", "failed"]

    findings =
      for status <- shown, %{status: ^status} = check <- report.checks, do: finding(check, color)

    none = if ran?, do: "", else: ". No check could run"
    Enum.join(findings ++ [counts(report) <> none <> no_time(report)], "\n")
  end

  defp no_time(report) do
    case Report.without_time(report) do
      [] -> ""
      ids -> ". Not finished within :timeout: #{Enum.join(ids, ", ")}"
    end
  end

  defp finding(check, color) do
    status = color(String.pad_trailing(check.status, 8), @colors[check.status], color)
    about = [check.topology, check.subject] |> Enum.reject(&(&1 == nil)) |> Enum.join(" ")
    about = if about == "", do: "", else: about <> ": "
    first = "#{status} #{check.id}  #{about}#{indent(check.seen, "  ")}"

    Enum.join([first | details(check)], "\n")
  end

  defp details(%{fix: nil}), do: []

  defp details(check) do
    [
      "    expected: #{indent(check.expected, "      ")}",
      "    fix: #{indent(check.fix, "      ")}",
      "    see: #{@guide}##{anchor(check.id)}"
    ]
  end

  # The name that ExDoc gives to the heading of an id.
  defp anchor(id), do: String.replace(id, ".", "-")

  defp indent(text, margin), do: text |> String.trim() |> String.replace("\n", "\n" <> margin)

  defp counts(%{counts: counts} = report) do
    node = report.node || "no node"

    "#{node}: #{counts.ok} ok, #{counts.warning} #{plural("warning", counts.warning)}, " <>
      "#{counts.failed} failed, #{counts.skipped} skipped"
  end

  defp plural(word, 1), do: word
  defp plural(word, _count), do: word <> "s"

  defp color(text, _code, false), do: text
  defp color(text, code, true), do: "\e[#{code}m#{text}\e[0m"
end
