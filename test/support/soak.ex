defmodule Caravan.Test.Soak do
  @moduledoc """
  A cluster of twelve VMs on loopback under a random schedule of faults. `.ci/soak` runs it.

  After each round of faults, `Caravan.Test.Soak.Calm` checks that the cluster is whole. At the end,
  `Caravan.Test.Soak.Report` checks that no VM has grown.

  The same seed gives the same faults at the same times. The effect of the faults also depends on how busy the
  machine is.
  """

  alias Caravan.Test.Soak.Calm
  alias Caravan.Test.Soak.Firewall
  alias Caravan.Test.Soak.Fleet
  alias Caravan.Test.Soak.Report
  alias Caravan.Test.Soak.Schedule

  @nodes 12

  # Nodes whose VM is never ended, so that its memory can be followed for the whole run.
  @veterans 4

  # A run with more problems than this ends early.
  @most_problems 40

  @enforce_keys [:seed, :fleet, :schedule, :dir]
  defstruct @enforce_keys ++ [records: %{}, rounds: 0, faults: [], meshes: [], problems: []]

  @typedoc """
    * `:faults`: the kinds of all faults so far
    * `:meshes`: for each round, how many milliseconds it took until all nodes were connected
    * `:problems`: what the checks found, newest first
  """
  @type t :: %__MODULE__{
          seed: integer,
          fleet: Fleet.t(),
          schedule: Schedule.t(),
          dir: Path.t(),
          records: Calm.records(),
          rounds: non_neg_integer,
          faults: [atom],
          meshes: [non_neg_integer],
          problems: [String.t()]
        }

  @doc """
  Runs rounds of faults and checks for this number of minutes, and prints the results. Returns whether the checks
  found no problem.

  The logs of the VMs go to `dir`.
  """
  @spec run(minutes :: number, seed :: integer, dir :: Path.t()) :: boolean
  def run(minutes, seed, dir) do
    # A table of DnsServer that test_helper.exs makes for tests.
    _ = :ets.new(Caravan.Test.DnsServer, [:named_table, :public])
    deadline = System.monotonic_time(:millisecond) + round(minutes * 60_000)
    IO.puts("soak: seed #{seed}, #{minutes} min, #{@nodes} VMs, files in #{dir}")

    unless Firewall.possible?(),
      do: IO.puts("soak: links are not cut, because that takes root and nft")

    schedule = Schedule.new(seed, nodes: @nodes, veterans: @veterans, cuts: Firewall.possible?())

    args = ["-connect_all", "#{schedule.connect_all}"]
    IO.puts("soak: VM arguments #{Enum.join(args, " ")}")
    fleet = Fleet.start(@nodes, dir, args)
    soak = %__MODULE__{seed: seed, fleet: fleet, schedule: schedule, dir: dir}
    soak = soak |> check([]) |> rounds(deadline)
    :ok = Fleet.stop(soak.fleet)
    {text, problems} = Report.summary(soak)
    IO.puts(text)
    problems == 0
  end

  defp rounds(soak, deadline) do
    over = System.monotonic_time(:millisecond) >= deadline

    if over or length(soak.problems) > @most_problems,
      do: soak,
      else: soak |> one_round() |> rounds(deadline)
  end

  defp one_round(soak) do
    {round, schedule} = Schedule.next(soak.schedule)
    start = System.monotonic_time(:millisecond)

    fleet =
      Enum.reduce(round.steps, soak.fleet, fn {at, action}, fleet ->
        Process.sleep(max(0, start + at - System.monotonic_time(:millisecond)))
        Fleet.perform(fleet, action)
      end)

    check(
      %{
        soak
        | fleet: fleet,
          schedule: schedule,
          rounds: soak.rounds + 1,
          faults: round.faults ++ soak.faults
      },
      round.faults
    )
  end

  defp check(soak, faults) do
    result = Calm.check(soak.fleet, soak.schedule, soak.records, soak.dir)
    IO.puts(Report.round(soak, faults, result))

    %{
      soak
      | fleet: Fleet.forget(soak.fleet),
        records: result.records,
        meshes: List.wrap(result.mesh_after) ++ soak.meshes,
        problems: Enum.reverse(result.problems) ++ soak.problems
    }
  end
end
