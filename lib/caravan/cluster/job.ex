defmodule Caravan.Cluster.Job do
  # Effect. One function call in a separate process, with a deadline.
  #
  # The caller of start/2 gets one of two messages: the :DOWN of the process, or the message of the timer. ref/1
  # says which job a message belongs to, and outcome/2 returns its outcome. The process is not linked, so a
  # connect continues if the strategy ends.
  @moduledoc false

  @enforce_keys [:ref, :pid, :timer]
  defstruct @enforce_keys

  @type t :: %__MODULE__{ref: reference, pid: pid, timer: reference}

  @type outcome :: {:ok, term} | {:error, :timeout} | {:error, {:crashed, term}}

  @doc "Starts `fun`. The message with its outcome comes within `timeout` milliseconds."
  @spec start((() -> term), timeout :: pos_integer) :: t
  def start(fun, timeout) do
    {pid, ref} = spawn_monitor(__MODULE__, :perform, [fun])
    %__MODULE__{ref: ref, pid: pid, timer: Process.send_after(self(), {__MODULE__, ref}, timeout)}
  end

  @doc "Runs `fun`, and returns its outcome within `timeout` milliseconds."
  @spec run((() -> term), timeout :: pos_integer) :: outcome
  def run(fun, timeout), do: fun |> start(timeout) |> await()

  @doc "Waits for the end of a job that the caller has started, and returns its outcome."
  @spec await(t) :: outcome
  def await(%__MODULE__{ref: ref} = job) do
    receive do
      {:DOWN, ^ref, :process, _pid, _reason} = message -> outcome(job, message)
      {__MODULE__, ^ref} = message -> outcome(job, message)
    end
  end

  @doc "Returns the reference of the job that `message` may belong to, or `nil`."
  @spec ref(message :: term) :: reference | nil
  def ref({:DOWN, ref, :process, _pid, _reason}), do: ref
  def ref({__MODULE__, ref}), do: ref
  def ref(_message), do: nil

  @doc "Returns the outcome of the job, from the message with its reference."
  @spec outcome(t, message :: term) :: outcome
  def outcome(%__MODULE__{} = job, {:DOWN, _ref, :process, _pid, reason}) do
    cancel(job.timer)

    case reason do
      {__MODULE__, outcome} -> outcome
      other -> {:error, {:crashed, other}}
    end
  end

  def outcome(%__MODULE__{} = job, {__MODULE__, _ref}) do
    stop(job)
    {:error, :timeout}
  end

  @doc "Ends the job. It has no outcome, but the message of its timer may still come."
  @spec stop(t) :: :ok
  def stop(%__MODULE__{} = job) do
    Process.demonitor(job.ref, [:flush])
    Process.exit(job.pid, :kill)
    cancel(job.timer)
  end

  @doc false
  @spec perform((() -> term)) :: no_return
  def perform(fun), do: exit({__MODULE__, run(fun)})

  # Catches everything. Otherwise the emulator would log the exception, and the owner logs it anyway.
  defp run(fun) do
    {:ok, fun.()}
  catch
    :exit, reason -> {:error, {:crashed, reason}}
    :throw, value -> {:error, {:crashed, {:throw, value}}}
    :error, reason -> {:error, {:crashed, Exception.normalize(:error, reason, __STACKTRACE__)}}
  end

  # Does not wait: the timer may belong to another scheduler, and each connect of the strategy cancels one.
  defp cancel(timer), do: :ok = Process.cancel_timer(timer, async: true, info: false)
end
