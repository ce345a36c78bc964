defmodule Caravan.Test.Soak do
  @moduledoc """
  Runs a cluster of twelve VMs on loopback under random faults. `.ci/soak` calls it.

  `Caravan.Test.Soak.Schedule` decides on rounds of faults, and `Caravan.Test.Soak.Fleet` carries them out. After each
  round, `Caravan.Test.Soak.Checks` checks the nodes. At the end, it checks that no VM has grown.

  The same seed gives the same faults at the same times. What the faults lead to also depends on the load of the
  machine.
  """

  alias Caravan.Test.Soak.Checks
  alias Caravan.Test.Soak.Firewall
  alias Caravan.Test.Soak.Fleet
  alias Caravan.Test.Soak.Report
  alias Caravan.Test.Soak.Schedule

  @nodes 12

  # The number of nodes whose VM runs for the whole soak.
  @long_running 4

  # A soak with more problems than this ends early.
  @most_problems 40

  @enforce_keys [:seed, :fleet, :schedule]
  defstruct @enforce_keys ++ [histories: %{}, rounds: 0, faults: [], meshes: [], problems: []]

  @typedoc """
    * `:faults`: the kinds of all faults so far
    * `:meshes`: how many milliseconds it took after each round until all nodes were connected
    * `:problems`: texts, newest first
  """
  @type t :: %__MODULE__{
          seed: integer,
          fleet: Fleet.t(),
          schedule: Schedule.t(),
          histories: Checks.histories(),
          rounds: non_neg_integer,
          faults: [atom],
          meshes: [non_neg_integer],
          problems: [String.t()]
        }

  @doc """
  Runs rounds of faults for this number of minutes, and prints what the checks find. Returns whether they found no
  problem.

  The logs of the VMs go to `dir`.
  """
  @spec run(minutes :: number, seed :: integer, dir :: Path.t()) :: boolean
  def run(minutes, seed, dir) do
    # DnsServer needs this table. In tests, test_helper.exs creates it.
    _ = :ets.new(Caravan.Test.DnsServer, [:named_table, :public])
    deadline = System.monotonic_time(:millisecond) + round(minutes * 60_000)
    IO.puts("soak: seed #{seed}, #{minutes} min, #{@nodes} VMs, files in #{dir}")

    unless Firewall.possible?(),
      do: IO.puts("soak: no links are cut, because that needs root and nft")

    options = [nodes: @nodes, long_running: @long_running, cuts: Firewall.possible?()]
    schedule = Schedule.new(seed, options)
    args = ["-connect_all", "#{schedule.connect_all}"]
    IO.puts("soak: VM arguments #{Enum.join(args, " ")}")
    fleet = Fleet.start(@nodes, dir, args)
    soak = %__MODULE__{seed: seed, fleet: fleet, schedule: schedule}
    soak = soak |> check([]) |> rounds(deadline)
    :ok = Fleet.stop(soak.fleet)
    soak = add_problems(soak, Checks.final_problems(soak.histories))
    IO.puts(Report.summary(soak))
    soak.problems == []
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
    result = Checks.run(soak.fleet, soak.schedule, soak.histories)
    IO.puts(Report.round(soak, faults, result))

    add_problems(
      %{
        soak
        | fleet: Fleet.end_round(soak.fleet),
          histories: result.histories,
          meshes: List.wrap(result.mesh_after) ++ soak.meshes
      },
      result.problems
    )
  end

  defp add_problems(soak, problems),
    do: %{soak | problems: Enum.reverse(problems) ++ soak.problems}
end
