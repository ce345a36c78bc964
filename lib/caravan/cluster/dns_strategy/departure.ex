defmodule Caravan.Cluster.DnsStrategy.Departure do
  # Owner-state. How a drained strategy leaves the cluster: one job at a time that disconnects the peers, and the
  # callers that wait for it. After a leave that has succeeded, and after a crash, a job only keeps nodes out: it
  # disconnects no node if that would harm another topology.
  @moduledoc false

  alias Caravan.Cluster.Distribution.Drain
  alias Caravan.Cluster.Job

  @enforce_keys [:key]
  defstruct @enforce_keys ++
              [names: [], callers: [], leaving: false, job: nil, exempt: [], check: nil]

  @typedoc """
    * `:names`: the nodes that the strategy knew when it was drained;
    * `:callers`: who gets a reply when the job ends;
    * `:leaving`: whether the strategy has been drained, and no leave job has succeeded since;
    * `:exempt`: the nodes that may stay connected, as the last job returned them;
    * `:check`: the reference and the timer of the next check.
  """
  @opaque t :: %__MODULE__{
            key: Drain.key(),
            names: [String.t()],
            callers: [GenServer.from()],
            leaving: boolean,
            job: Job.t() | nil,
            exempt: [node],
            check: {reference, timer :: reference} | nil
          }

  # Milliseconds from the end of a job to a check, which starts another job if the leave has not succeeded, or if a node
  # is connected that has to be disconnected.
  @check_after 500

  @spec new(Drain.key()) :: t
  def new(key), do: %__MODULE__{key: key}

  @doc "Returns whether the strategy is drained. It stays drained if it crashes and is restarted."
  @spec drained?(t) :: boolean
  def drained?(%__MODULE__{key: key}), do: Drain.drained?(key)

  @doc """
  Drains the strategy: marks it as drained, and starts a leave job, unless one runs already. The caller gets its reply
  when the job ends.
  """
  @spec drain(t, GenServer.from(), names :: [String.t()]) :: t
  def drain(%__MODULE__{} = departure, from, names) do
    unless drained?(departure), do: :ok = Drain.start(departure.key)
    departure = if departure.leaving, do: departure, else: stop(departure)
    start(%{departure | callers: [from | departure.callers], names: names, leaving: true})
  end

  @doc """
  Starts a job if the strategy is drained and a node is connected. Call it after a nodeup, and after a restart of the
  strategy.

  The function does not use the exempt nodes of the last job, because they may have changed since then. The new job asks
  the other strategies which nodes are exempt.
  """
  @spec check(t) :: t
  def check(%__MODULE__{} = departure), do: check(departure, [])

  @doc """
  Returns the result of the leave job that `message` belongs to, or `:unknown`.

  All callers have then got the result as their reply, with `{:error, :failed}` in place of
  `{:error, {:failed, reason}}`.
  """
  @spec handle(t, message :: term) ::
          {:ok | {:error, :timeout | {:failed, term}}, t} | :unknown
  def handle(%__MODULE__{check: {ref, _timer}} = departure, {__MODULE__, ref}),
    do: {:ok, check(%{departure | check: nil}, departure.exempt)}

  def handle(%__MODULE__{job: %Job{ref: ref} = job} = departure, message) do
    if Job.ref(message) == ref,
      do: left(%{departure | job: nil}, Job.outcome(job, message)),
      else: :unknown
  end

  def handle(%__MODULE__{}, _message), do: :unknown

  @doc "Ends the drain. Callers that still wait for it get `{:error, :failed}`."
  @spec resume(t) :: t
  def resume(%__MODULE__{} = departure) do
    departure = %{stop(departure) | leaving: false} |> reply({:error, :failed})
    :ok = Drain.resume(departure.key)
    departure
  end

  @doc "Ends the job and the timer."
  @spec stop(t) :: t
  def stop(%__MODULE__{} = departure) do
    if departure.job, do: Job.stop(departure.job)
    cancel(%{departure | job: nil})
  end

  defp start(%{job: nil, key: key, names: names} = departure) do
    leave = if departure.leaving, do: &Drain.leave(&1, names), else: &Drain.keep_out/1
    %{departure | job: Job.start(fn -> leave.(key) end, Drain.deadline())}
  end

  defp start(departure), do: departure

  defp left(departure, outcome) do
    {result, exempt} =
      case outcome do
        {:ok, exempt} -> {:ok, exempt}
        {:error, :timeout} -> {{:error, :timeout}, []}
        {:error, reason} -> {{:error, {:failed, reason}}, []}
      end

    departure = %{departure | exempt: exempt, leaving: departure.leaving and result != :ok}
    departure = departure |> cancel() |> reply(reply_of(result))
    ref = make_ref()
    timer = Process.send_after(self(), {__MODULE__, ref}, @check_after)
    {result, %{departure | check: {ref, timer}}}
  end

  defp reply_of({:error, {:failed, _reason}}), do: {:error, :failed}
  defp reply_of(result), do: result

  defp check(departure, exempt) do
    if drained?(departure) and (departure.leaving or Drain.unexpected_connections?(exempt)),
      do: start(departure),
      else: departure
  end

  defp reply(departure, reply) do
    Enum.each(departure.callers, &GenServer.reply(&1, reply))
    %{departure | callers: []}
  end

  defp cancel(%{check: nil} = departure), do: departure

  defp cancel(%{check: {_ref, timer}} = departure) do
    _ = Process.cancel_timer(timer)
    %{departure | check: nil}
  end
end
