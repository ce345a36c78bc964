defmodule Caravan.Cluster.DnsStrategy.JobsTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.DnsStrategy.Jobs

  defp next(jobs) do
    receive do
      message -> with :unknown <- Jobs.handle(jobs, message), do: next(jobs)
    after
      5_000 -> flunk("no job has ended")
    end
  end

  test "an outcome comes with the tag and the duration of its job" do
    jobs = Jobs.start(%Jobs{}, :a, fn -> 1 end, 5_000)
    assert {:a, {:ok, 1}, duration, jobs} = next(jobs)
    assert duration > 0
    assert Jobs.count(jobs, fn _tag -> true end) == 0
  end

  test "a job that hangs does not delay others, and ends at its deadline" do
    jobs =
      %Jobs{}
      |> Jobs.start(:hangs, fn -> Process.sleep(:infinity) end, 500)
      |> Jobs.start(:quick, fn -> :done end, 5_000)

    assert {:quick, {:ok, :done}, _, jobs} = next(jobs)
    assert Jobs.count(jobs, &(&1 == :hangs)) == 1
    assert {:hangs, {:error, :timeout}, _, _jobs} = next(jobs)
  end

  test "a job that is stopped has no outcome" do
    owner = self()

    hang = fn ->
      send(owner, {:started, self()})
      Process.sleep(:infinity)
    end

    jobs = %Jobs{} |> Jobs.start(:a, hang, 60_000) |> Jobs.start(:b, fn -> :done end, 60_000)
    assert_receive {:started, pid}
    monitor = Process.monitor(pid)
    jobs = Jobs.stop(jobs, &(&1 == :a))
    assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}
    assert {:b, {:ok, :done}, _, jobs} = next(jobs)
    assert Jobs.count(jobs, fn _tag -> true end) == 0
    refute_received {:DOWN, _, _, ^pid, _}
  end

  test "a message of another process is unknown" do
    assert Jobs.handle(%Jobs{}, :hello) == :unknown
    assert Jobs.handle(%Jobs{}, {:DOWN, make_ref(), :process, self(), :normal}) == :unknown
  end
end
