defmodule Caravan.Doctor.Report do
  # Pure. The report of the doctor: its checks as plain maps, and what follows from them.
  @moduledoc false

  alias Caravan.Doctor.Check

  @type t :: Caravan.Doctor.report()

  @spec new([Check.t()], node :: String.t() | nil, strict :: boolean) :: t
  def new(checks, node, strict) do
    counts =
      Enum.reduce(
        checks,
        %{ok: 0, warning: 0, failed: 0, skipped: 0},
        &Map.update!(&2, &1.status, fn count -> count + 1 end)
      )

    checks = Enum.map(checks, &Check.to_map/1)
    good = counts.failed == 0 and not (strict and counts.warning > 0)
    report = %{node: node, ok: false, counts: counts, checks: checks}
    %{report | ok: good and ran?(counts) and without_time(report) == []}
  end

  @doc "Returns whether at least one check was not skipped."
  @spec ran?(counts :: map) :: boolean
  def ran?(counts), do: counts.ok + counts.warning + counts.failed > 0

  @doc "Returns the ids of the checks that were not finished when the timeout was over."
  @spec without_time(t) :: [String.t()]
  def without_time(report),
    do: for(check <- report.checks, Check.without_time?(check), do: check.id) |> Enum.uniq()

  @doc "Returns the ids for which the report is not ok."
  @spec failures(t, strict :: boolean) :: [String.t()]
  def failures(report, strict) do
    bad = if strict, do: ["failed", "warning"], else: ["failed"]
    for(%{status: status, id: id} <- report.checks, status in bad, do: id) |> Enum.uniq()
  end
end
