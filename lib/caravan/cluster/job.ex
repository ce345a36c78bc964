defmodule Caravan.Cluster.Job do
  # Effect. One call in a process of its own, with a deadline. The owner gets two kinds of messages and hands
  # every message it does not know to outcome/2. The process is not linked: an owner that ends leaves
  # a connect that is under way alone.
  @moduledoc false

  @enforce_keys [:ref, :pid, :timer]
  defstruct @enforce_keys

  @type t :: %__MODULE__{ref: reference, pid: pid, timer: reference}

  @type outcome :: {:ok, term} | {:error, :timeout} | {:error, {:crashed, term}}

  @doc "Runs `fun`; its outcome is there after `timeout` milliseconds at the latest."
  @spec start((() -> term), timeout :: pos_integer) :: t
  def start(fun, timeout) do
    {pid, ref} = spawn_monitor(__MODULE__, :perform, [fun])
    %__MODULE__{ref: ref, pid: pid, timer: Process.send_after(self(), {__MODULE__, ref}, timeout)}
  end

  @doc "Runs `fun` and waits for its outcome, `timeout` milliseconds at the longest."
  @spec run((() -> term), timeout :: pos_integer) :: outcome
  def run(fun, timeout) do
    %__MODULE__{ref: ref} = job = start(fun, timeout)

    receive do
      {:DOWN, ^ref, :process, _pid, _reason} = message -> outcome(job, message)
      {__MODULE__, ^ref} = message -> outcome(job, message)
    end
  end

  @doc "The job's reference if `message` is one of a job, else `nil`."
  @spec ref(message :: term) :: reference | nil
  def ref({:DOWN, ref, :process, _pid, _reason}), do: ref
  def ref({__MODULE__, ref}), do: ref
  def ref(_message), do: nil

  @doc "What became of the job, from the message that carries its reference."
  @spec outcome(t, message :: term) :: outcome
  def outcome(%__MODULE__{} = job, {:DOWN, _ref, :process, _pid, reason}) do
    _ = Process.cancel_timer(job.timer)

    case reason do
      {__MODULE__, outcome} -> outcome
      other -> {:error, {:crashed, other}}
    end
  end

  def outcome(%__MODULE__{} = job, {__MODULE__, _ref}) do
    stop(job)
    {:error, :timeout}
  end

  @doc "Ends the job; it has no outcome any more, though its timer's message may still come."
  @spec stop(t) :: :ok
  def stop(%__MODULE__{} = job) do
    Process.demonitor(job.ref, [:flush])
    Process.exit(job.pid, :kill)
    _ = Process.cancel_timer(job.timer)
    :ok
  end

  @doc false
  @spec perform((() -> term)) :: no_return
  def perform(fun), do: exit({__MODULE__, run(fun)})

  # Caught, because the emulator logs an exception that ends a process, and the owner logs it anyway.
  defp run(fun) do
    {:ok, fun.()}
  catch
    :exit, reason -> {:error, {:crashed, reason}}
    :throw, value -> {:error, {:crashed, {:throw, value}}}
    :error, reason -> {:error, {:crashed, Exception.normalize(:error, reason, __STACKTRACE__)}}
  end
end
