defmodule Caravan.Cluster.DnsStrategy.Jobs do
  # Owner-state. Jobs that run, each with a tag that says what it is for.
  @moduledoc false

  alias Caravan.Cluster.Job

  defstruct running: %{}

  @type tag :: term
  @opaque t :: %__MODULE__{running: %{reference => {tag, Job.t(), started :: integer}}}

  @spec new() :: t
  def new, do: %__MODULE__{}

  @doc "Starts a job."
  @spec start(t, tag, (() -> term), timeout :: pos_integer) :: t
  def start(%__MODULE__{} = jobs, tag, fun, timeout) do
    job = Job.start(fun, timeout)
    put_in(jobs.running[job.ref], {tag, job, System.monotonic_time()})
  end

  @doc """
  Returns the outcome of the job that `message` belongs to, with its duration in native units, or `:unknown`.
  """
  @spec handle(t, message :: term) :: {tag, Job.outcome(), duration :: integer, t} | :unknown
  def handle(%__MODULE__{} = jobs, message) do
    case Map.pop(jobs.running, Job.ref(message)) do
      {nil, _running} ->
        :unknown

      {{tag, job, started}, running} ->
        duration = System.monotonic_time() - started
        {tag, Job.outcome(job, message), duration, %{jobs | running: running}}
    end
  end

  @doc "Returns the number of running jobs for whose tag `which` returns true."
  @spec count(t, (tag -> boolean)) :: non_neg_integer
  def count(%__MODULE__{} = jobs, which),
    do: Enum.count(jobs.running, fn {_ref, {tag, _job, _started}} -> which.(tag) end)

  @doc "Ends all jobs. They have no outcome."
  @spec stop(t) :: t
  def stop(%__MODULE__{} = jobs) do
    for {_ref, {_tag, job, _started}} <- jobs.running, do: :ok = Job.stop(job)
    %{jobs | running: %{}}
  end
end
