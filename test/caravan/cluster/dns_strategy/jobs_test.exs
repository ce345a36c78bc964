defmodule Caravan.Cluster.DnsStrategy.JobsTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.DnsStrategy.Jobs

  defp next(jobs) do
    receive do
      message -> with :unknown <- Jobs.handle(jobs, message), do: next(jobs)
    after
      20_000 -> flunk("no job has ended")
    end
  end

  test "an outcome comes with the tag and the duration of its job" do
    jobs = Jobs.start(Jobs.new(), :a, fn -> 1 end, 5_000)
    assert {:a, {:ok, 1}, duration, jobs} = next(jobs)
    assert duration > 0
    assert Jobs.count(jobs, fn _tag -> true end) == 0
  end

  test "a job that hangs does not delay others, and ends at its deadline" do
    jobs =
      Jobs.new()
      |> Jobs.start(:hangs, fn -> Process.sleep(:infinity) end, 60_000)
      |> Jobs.start(:quick, fn -> :done end, 60_000)

    assert {:quick, {:ok, :done}, _, jobs} = next(jobs)
    assert Jobs.count(jobs, &(&1 == :hangs)) == 1

    jobs = Jobs.start(jobs, :ends, fn -> Process.sleep(:infinity) end, 50)
    assert {:ends, {:error, :timeout}, _, jobs} = next(jobs)
    assert Jobs.count(jobs, &(&1 == :hangs)) == 1
    Jobs.stop(jobs)
  end

  test "jobs that are stopped end, and have no outcome" do
    owner = self()

    hang = fn ->
      send(owner, {:started, self()})
      Process.sleep(:infinity)
    end

    jobs = Jobs.new() |> Jobs.start(:a, hang, 60_000) |> Jobs.start(:b, hang, 60_000)
    assert_receive {:started, one}
    assert_receive {:started, two}
    monitors = for pid <- [one, two], do: {Process.monitor(pid), pid}
    assert Jobs.stop(jobs) == Jobs.new()
    for {monitor, pid} <- monitors, do: assert_receive({:DOWN, ^monitor, :process, ^pid, :killed})
    refute_received {:DOWN, _, _, _, _}
  end

  test "a message of another process is unknown" do
    assert Jobs.handle(Jobs.new(), :hello) == :unknown
    assert Jobs.handle(Jobs.new(), {:DOWN, make_ref(), :process, self(), :normal}) == :unknown
  end
end
