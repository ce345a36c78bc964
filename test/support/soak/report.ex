defmodule Caravan.Test.Soak.Report do
  @moduledoc "Pure. What a soak prints."

  alias Caravan.Test.Soak
  alias Caravan.Test.Soak.Calm
  alias Caravan.Test.Soak.Growth
  alias Caravan.Test.Soak.LogCheck
  alias Caravan.Test.Soak.Schedule

  @doc "Returns the text after a round: its faults, and the problems with the seed."
  @spec round(Soak.t(), [atom], Calm.result()) :: String.t()
  def round(soak, faults, result) do
    lasting =
      for condition <- [:down, :drained, :unnamed],
          ids = Schedule.nodes(soak.schedule, condition),
          ids != [],
          do: ", #{condition}: #{Enum.join(ids, " ")}"

    mesh = if result.mesh_after, do: "mesh after #{result.mesh_after} ms", else: "no mesh"
    problems = for text <- result.problems, do: "\n  PROBLEM (seed #{soak.seed}): #{text}"
    "round #{soak.rounds}: #{Enum.join(faults, " ")}; #{mesh}#{lasting}#{problems}"
  end

  @doc "Returns the text at the end of a run, and the number of problems."
  @spec summary(Soak.t()) :: {String.t(), non_neg_integer}
  def summary(soak) do
    grown = grown(soak.records)
    problems = Enum.reverse(soak.problems) ++ grown ++ unheard(soak.records)
    links = for {_log, record} <- soak.records, do: LogCheck.links(record.check)
    {lost, restored} = Enum.unzip(links)

    text = """

    == soak: #{if problems == [], do: "all well", else: "#{length(problems)} problems"}, seed #{soak.seed}
    rounds           #{soak.rounds}, #{length(soak.faults)} faults
    faults           #{faults(soak.faults)}
    VMs started      #{map_size(soak.records)}
    connect_all      #{soak.schedule.connect_all}
    links            #{Enum.sum(lost)} lost, #{Enum.sum(restored)} restored, seen from both ends
    mesh after calm  #{meshes(soak.meshes)}
    last VM of each node, at the first, the middle and the last check:
    #{soak.records |> last_of_each() |> Enum.map_join("\n", &row/1)}
    #{Enum.map_join(problems, "\n", &"PROBLEM: #{&1}")}
    """

    {String.trim_trailing(text), length(problems)}
  end

  defp grown(records) do
    for {log, record} <- records,
        found = Growth.judge(record.samples),
        is_list(found),
        text <- found,
        do: "#{name(log)}: #{text}"
  end

  # Without this, the checks of logs would pass if there were no logs.
  defp unheard(records) do
    if Enum.any?(records, fn {_log, record} -> LogCheck.logged_connection?(record.check) end),
      do: [],
      else: ["no VM logged a connection, so nothing is known of Caravan's log"]
  end

  defp faults(faults) do
    faults
    |> Enum.frequencies()
    |> Enum.sort()
    |> Enum.map_join(", ", fn {kind, n} -> "#{kind} #{n}" end)
  end

  defp meshes([]), do: "never"

  defp meshes(meshes) do
    median = meshes |> Enum.sort() |> Enum.at(div(length(meshes), 2))
    "median #{median} ms, longest #{Enum.max(meshes)} ms"
  end

  defp last_of_each(records) do
    records
    |> Enum.group_by(fn {log, _record} -> log |> name() |> String.split("-") |> hd() end)
    |> Enum.map(fn {_node, all} ->
      Enum.max_by(all, fn {log, _} -> {String.length(log), log} end)
    end)
    |> Enum.sort_by(fn {log, _record} ->
      {log |> name() |> String.split("-") |> hd() |> String.length(), log}
    end)
  end

  defp row({log, %{samples: samples}}) do
    counts =
      for {count, label, unit} <- [
            {:rss, "MiB", 1_048_576},
            {:atoms, "atoms", 1},
            {:processes, "processes", 1},
            {:ports, "ports", 1},
            {:descriptors, "descriptors", 1}
          ],
          course = Growth.course(samples, count),
          do: "#{label} #{course |> Tuple.to_list() |> Enum.map_join("/", &in_units(&1, unit))}"

    seconds = if samples == [], do: 0, else: samples |> List.last() |> elem(0) |> div(1_000)

    "  #{String.pad_trailing(name(log), 10)} #{seconds} s#{judged(samples)}: #{Enum.join(counts, ", ")}"
  end

  defp judged(samples) do
    case Growth.judge(samples) do
      :short -> " (too short to judge)"
      :otp -> " (not judged: erlang/otp#9117)"
      _texts -> ""
    end
  end

  defp in_units(value, 1), do: value
  defp in_units(value, unit), do: Float.round(value / unit, 1)

  defp name(log), do: Path.basename(log, ".log")
end
