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

  test "tells which job ended how, and how long it took" do
    jobs = Jobs.start(%Jobs{}, :a, fn -> 1 end, 5_000)
    assert {:a, {:ok, 1}, duration, jobs} = next(jobs)
    assert duration > 0
    assert Jobs.count(jobs, fn _tag -> true end) == 0
  end

  test "one that hangs keeps nobody waiting, and ends at its deadline" do
    jobs =
      %Jobs{}
      |> Jobs.start(:hangs, fn -> Process.sleep(:infinity) end, 500)
      |> Jobs.start(:quick, fn -> :done end, 5_000)

    assert {:quick, {:ok, :done}, _, jobs} = next(jobs)
    assert Jobs.count(jobs, &(&1 == :hangs)) == 1
    assert {:hangs, {:error, :timeout}, _, _jobs} = next(jobs)
  end

  test "those that are stopped have no outcome" do
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

  test "messages of nobody are left to others" do
    assert Jobs.handle(%Jobs{}, :hello) == :unknown
    assert Jobs.handle(%Jobs{}, {:DOWN, make_ref(), :process, self(), :normal}) == :unknown
  end
end
