defmodule Caravan.Cluster.JobTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Job

  defp outcome(job) do
    receive do
      message -> if Job.ref(message) == job.ref, do: Job.outcome(job, message), else: outcome(job)
    after
      20_000 -> flunk("the job has no outcome")
    end
  end

  test "the outcome is what the function returns" do
    assert outcome(Job.start(fn -> :done end, 60_000)) == {:ok, :done}
  end

  test "an exception, a throw and an exit are errors" do
    assert {:error, {:crashed, %RuntimeError{}}} = outcome(Job.start(fn -> raise "no" end, 5_000))
    assert outcome(Job.start(fn -> throw(:no) end, 5_000)) == {:error, {:crashed, {:throw, :no}}}
    assert outcome(Job.start(fn -> exit(:no) end, 5_000)) == {:error, {:crashed, :no}}
  end

  test "at the deadline, the process is killed" do
    owner = self()

    hanging = fn ->
      send(owner, {:started, self()})
      Process.sleep(:infinity)
    end

    job = Job.start(hanging, 50)
    assert_receive {:started, pid}
    monitor = Process.monitor(pid)
    assert outcome(job) == {:error, :timeout}
    assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}
  end

  test "after the outcome, there is no timer and no message" do
    job = Job.start(fn -> :done end, 60_000)
    assert outcome(job) == {:ok, :done}
    assert Process.read_timer(job.timer) == false
    refute_received _
  end
end
