defmodule Caravan.Cluster.Discovery do
  # The lookups of one topology that are under way. State of its owner, not a process: the owner hands
  # its messages to handle/2. Every lookup that starts has an outcome, whatever becomes of it.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Job
  alias Caravan.Cluster.NodeName
  alias Caravan.Dns
  alias Caravan.Dns.Answer
  alias Caravan.Dns.Error
  alias Caravan.Dns.Service
  alias Caravan.Telemetry

  @enforce_keys [:config]
  defstruct @enforce_keys ++ [pending: %{}]

  @opaque t :: %__MODULE__{
            config: Config.t(),
            pending: %{reference => {Config.source(), started :: integer, reference | Job.t()}}
          }

  @typedoc "An error is a kind, to be compared, and a text. The TTL is in milliseconds."
  @type result ::
          {:ok,
           %{
             records: [NodeName.dns_record()],
             ttl: non_neg_integer | nil,
             complete: boolean
           }}
          | {:error, {kind :: term, String.t()}}

  # The resolver answers by the lookup's own deadline; this is for the day it does not.
  @grace 1_000

  @spec new(Config.t()) :: t
  def new(%Config{} = config), do: %__MODULE__{config: config}

  @doc "Starts a lookup."
  @spec start(t, Config.source()) :: t
  def start(%__MODULE__{config: config} = discovery, source) do
    started = System.monotonic_time()
    emit(:start, %{system_time: System.system_time()}, config, source, %{})
    {ref, timer} = start_one(source, config)
    put_in(discovery.pending[ref], {source, started, timer})
  end

  @doc "The outcome of one lookup, if `message` tells of one."
  @spec handle(t, message :: term) :: {Config.source(), result, t} | :unknown
  def handle(%__MODULE__{} = discovery, message) do
    case Map.pop(discovery.pending, ref(message)) do
      {nil, _pending} ->
        :unknown

      {{source, started, timer}, pending} ->
        result = outcome(timer, message)
        finished(result, discovery.config, source, started)
        {source, result, %{discovery | pending: pending}}
    end
  end

  @doc "Ends all lookups; they have no outcome but for whoever measures them."
  @spec stop(t) :: t
  def stop(%__MODULE__{} = discovery) do
    for {ref, {source, started, timer}} <- discovery.pending do
      give_up(ref, timer)
      finished({:error, {:cancelled, "given up"}}, discovery.config, source, started)
    end

    %{discovery | pending: %{}}
  end

  defp start_one({query, type}, %Config{dns_client: nil} = config) do
    ref = lookup(query, type, Config.dns_options(config, type))
    {ref, Process.send_after(self(), {__MODULE__, ref}, config.lookup_timeout + @grace)}
  end

  defp start_one({query, _type}, %Config{dns_client: client} = config) do
    job = Job.start(fn -> client_result(client.get_nodes(query)) end, config.lookup_timeout)
    {job.ref, job}
  end

  # A lookup that fails at once has its outcome by message, as all others.
  defp lookup(query, type, options) do
    case Dns.lookup_async(query, type, options) do
      {:ok, ref} ->
        ref

      {:error, error} ->
        ref = make_ref()
        send(self(), {ref, {:error, error}})
        ref
    end
  end

  defp give_up(_ref, %Job{} = job), do: Job.stop(job)

  defp give_up(ref, timer) do
    _ = Process.cancel_timer(timer)
    _ = Dns.cancel(ref)
    :ok
  end

  defp ref({ref, {:ok, %Answer{}}}), do: ref
  defp ref({ref, {:error, %Error{}}}), do: ref
  defp ref({__MODULE__, ref}), do: ref
  defp ref(message), do: Job.ref(message)

  defp outcome(%Job{} = job, message) do
    case Job.outcome(job, message) do
      {:ok, result} -> result
      {:error, reason} -> {:error, {:client_failed, "the dns_client failed: #{inspect(reason)}"}}
    end
  end

  defp outcome(_timer, {__MODULE__, ref}) do
    _ = Dns.cancel(ref)
    {:error, {:silent, "the resolver did not reply"}}
  end

  defp outcome(timer, {_ref, result}) do
    _ = Process.cancel_timer(timer)
    result(result)
  end

  # Addresses that the option :allow took away may have been those of anybody; of a target, they take
  # no record away.
  defp result({:ok, %Answer{} = answer}) do
    complete = answer.type == :srv or answer.dropped == 0
    {:ok, %{records: answer.records, ttl: answer.ttl * 1_000, complete: complete}}
  end

  defp result({:error, %Error{} = error}),
    do: {:error, {error.reason, Exception.message(error)}}

  ## A dns_client

  defp client_result(nodes) do
    if is_list(nodes) and not List.improper?(nodes) and Enum.all?(nodes, &client_node?/1),
      do: {:ok, %{records: Enum.map(nodes, &client_record/1), ttl: nil, complete: true}},
      else:
        {:error, {:client_returned, "the dns_client returned #{inspect(nodes)}, #{expected()}"}}
  end

  defp expected, do: "expected a list of {port, host}"

  defp client_node?({port, host}), do: port in 0..65_535 and is_binary(host)
  defp client_node?(_other), do: false

  defp client_record({port, host}), do: %Service{priority: 0, weight: 0, port: port, target: host}

  ## Telemetry

  defp finished(result, config, source, started) do
    duration = System.monotonic_time() - started

    case result do
      {:ok, answer} ->
        records = length(answer.records)
        emit(:stop, %{duration: duration, records: records}, config, source, %{result: :ok})

      {:error, {kind, text}} when kind in [:client_failed, :silent] ->
        error = %{kind: :error, reason: text, stacktrace: []}
        emit(:exception, %{duration: duration}, config, source, error)

      {:error, {kind, _text}} ->
        error = %{result: {:error, kind}}
        emit(:stop, %{duration: duration, records: 0}, config, source, error)
    end
  end

  defp emit(what, measurements, config, {query, type}, metadata) do
    metadata = Map.merge(metadata, %{topology: config.topology, query: query, type: type})
    Telemetry.execute([:caravan, :dns, :lookup, what], measurements, metadata)
  end
end
