defmodule Caravan.Cluster.Discovery do
  # The lookups of one topology that are under way, at most one for each source. State of its owner,
  # not a process: the owner hands its messages to handle/2.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Job
  alias Caravan.Cluster.NodeName
  alias Caravan.Dns
  alias Caravan.Dns.Answer
  alias Caravan.Dns.Error
  alias Caravan.Dns.Service

  defstruct pending: %{}

  @opaque t :: %__MODULE__{
            pending: %{reference => {Config.source(), timer :: reference | Job.t()}}
          }

  @typedoc "An error is a kind, to be compared, and a text."
  @type result :: {:ok, [NodeName.dns_record()]} | {:error, {kind :: term, String.t()}}

  # The resolver answers by the lookup's own deadline; this is for the day it does not.
  @grace 1_000

  @doc "Starts a lookup of every source that has none under way; returns those that failed at once."
  @spec start(t, Config.t()) :: {[{Config.source(), result}], t}
  def start(%__MODULE__{} = discovery, %Config{} = config) do
    busy = for {source, _} <- Map.values(discovery.pending), do: source

    Enum.reduce(config.sources -- busy, {[], discovery}, fn source, {failed, discovery} ->
      case start_one(source, config) do
        {:ok, ref, timer} ->
          {failed, put_in(discovery.pending[ref], {source, timer})}

        {:error, error} ->
          {[{source, result({:error, error})} | failed], discovery}
      end
    end)
  end

  @doc "The outcome of one lookup, if `message` tells of one."
  @spec handle(t, message :: term) :: {Config.source(), result, t} | :unknown
  def handle(%__MODULE__{} = discovery, message) do
    case Map.pop(discovery.pending, ref(message)) do
      {nil, _pending} ->
        :unknown

      {{source, timer}, pending} ->
        {source, outcome(timer, message), %{discovery | pending: pending}}
    end
  end

  defp start_one({query, type}, %Config{dns_client: nil} = config) do
    with {:ok, ref} <- Dns.lookup_async(query, type, Config.dns_options(config)) do
      {:ok, ref, Process.send_after(self(), {__MODULE__, ref}, config.lookup_timeout + @grace)}
    end
  end

  defp start_one({query, _type}, %Config{dns_client: client} = config) do
    job = Job.start(fn -> client_result(client.get_nodes(query)) end, config.lookup_timeout)
    {:ok, job.ref, job}
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
    Dns.cancel(ref)
    {:error, {:silent, "the resolver did not reply"}}
  end

  defp outcome(timer, {_ref, result}) do
    _ = Process.cancel_timer(timer)
    result(result)
  end

  defp result({:ok, %Answer{records: records}}), do: {:ok, records}

  defp result({:error, %Error{} = error}),
    do: {:error, {error.reason, Exception.message(error)}}

  defp client_result(nodes) do
    if is_list(nodes) and Enum.all?(nodes, &client_node?/1),
      do: {:ok, Enum.map(nodes, &client_record/1)},
      else:
        {:error, {:client_returned, "the dns_client returned #{inspect(nodes)}, #{expected()}"}}
  end

  defp expected, do: "expected a list of {port, host}"

  defp client_node?({port, host}), do: port in 0..65_535 and is_binary(host)
  defp client_node?(_other), do: false

  defp client_record({port, host}), do: %Service{priority: 0, weight: 0, port: port, target: host}
end
