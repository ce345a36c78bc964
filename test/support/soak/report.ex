defmodule Caravan.Test.Soak.Report do
  @moduledoc "Pure. The texts that a soak prints."

  alias Caravan.Test.Soak
  alias Caravan.Test.Soak.Checks
  alias Caravan.Test.Soak.Growth
  alias Caravan.Test.Soak.History
  alias Caravan.Test.Soak.LogCheck
  alias Caravan.Test.Soak.Schedule

  # A strategy that crashes at each start logs thousands of lines in one round.
  @most_printed 40

  # The counts of the table, each with its label and unit.
  @counts [
    {:rss, "MiB", 1_048_576},
    {:atoms, "atoms", 1},
    {:processes, "processes", 1},
    {:ports, "ports", 1},
    {:descriptors, "descriptors", 1}
  ]

  @doc "Returns the text after a round: its faults, and its problems, each with the seed of the soak."
  @spec round(Soak.t(), faults :: [atom], Checks.result()) :: String.t()
  def round(soak, faults, result) do
    lasting =
      for condition <- [:down, :drained, :not_in_dns],
          ids = Schedule.nodes(soak.schedule, condition),
          ids != [],
          do: ", #{condition}: #{Enum.join(ids, " ")}"

    mesh = if result.mesh_after, do: "mesh after #{result.mesh_after} ms", else: "no mesh"
    problems = list(result.problems, "\n  PROBLEM (seed #{soak.seed}): ")
    "round #{soak.rounds}: #{Enum.join(faults, " ")}; #{mesh}#{lasting}#{problems}"
  end

  @doc "Returns the text at the end of a run."
  @spec summary(Soak.t()) :: String.t()
  def summary(soak) do
    links = for {_vm, history} <- soak.histories, do: LogCheck.links(history.log_check)
    {lost, restored} = Enum.unzip(links)

    text = """

    == soak: #{length(soak.problems)} problems, seed #{soak.seed}
    rounds           #{soak.rounds}, #{length(soak.faults)} faults
    faults           #{faults(soak.faults)}
    VMs started      #{map_size(soak.histories)}
    connect_all      #{soak.schedule.connect_all}
    links            #{Enum.sum(lost)} lost, #{Enum.sum(restored)} restored; each link counts on both nodes
    mesh             #{meshes(soak.meshes)}
    last VM of each node, at the first, the middle and the last check:
    #{soak.histories |> last_vms() |> Enum.map_join("\n", &row/1)}
    """

    text <> list(Enum.reverse(soak.problems), "\nPROBLEM: ")
  end

  defp list(problems, prefix) do
    {printed, others} = Enum.split(problems, @most_printed)
    texts = for text <- printed, do: prefix <> text
    more = if others != [], do: "#{prefix}#{length(others)} more"
    "#{texts}#{more}"
  end

  defp faults(faults) do
    faults
    |> Enum.frequencies()
    |> Enum.sort()
    |> Enum.map_join(", ", fn {fault, count} -> "#{fault} #{count}" end)
  end

  defp meshes([]), do: "never"

  defp meshes(meshes) do
    median = meshes |> Enum.sort() |> Enum.at(div(length(meshes), 2))
    "median #{median} ms after a round, longest #{Enum.max(meshes)} ms"
  end

  defp last_vms(histories) do
    histories
    |> Enum.group_by(fn {{id, _start}, _history} -> id end)
    |> Enum.sort()
    |> Enum.map(fn {_id, vms} -> Enum.max_by(vms, fn {{_id, start}, _history} -> start end) end)
  end

  @spec row({Checks.vm_id(), History.t()}) :: String.t()
  defp row({vm, %{samples: samples}}) do
    counts =
      for {count, label, unit} <- @counts,
          values = Growth.first_middle_last(samples, count),
          do: "#{label} #{values |> Tuple.to_list() |> Enum.map_join("/", &in_units(&1, unit))}"

    seconds = div(Growth.age(samples), 1_000)

    "  #{String.pad_trailing(Checks.name(vm), 10)} #{seconds} s#{not_checked(samples)}: #{Enum.join(counts, ", ")}"
  end

  defp not_checked(samples) do
    case Growth.check(samples) do
      :too_short -> " (growth not checked: too short)"
      :global_fault -> " (growth not checked: erlang/otp#9117)"
      _texts -> ""
    end
  end

  defp in_units(value, 1), do: value
  defp in_units(value, unit), do: Float.round(value / unit, 1)
end
