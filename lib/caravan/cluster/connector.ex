defmodule Caravan.Cluster.Connector do
  # Connects nodes in parallel: so many at once, each with a deadline, so that an address that drops
  # packets delays nobody but itself. State of its owner, not a process: the owner hands its messages
  # to handle/2.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Job

  @enforce_keys [:connect, :timeout, :limit]
  defstruct @enforce_keys ++ [queue: [], running: %{}]

  @opaque t :: %__MODULE__{
            connect: {module, atom, [term]},
            timeout: pos_integer,
            limit: pos_integer,
            queue: [String.t()],
            running: %{reference => {String.t(), Job.t()}}
          }

  @type result ::
          :ok
          | {:error, :unreachable | :not_distributed | :timeout}
          | {:error, {:crashed, term} | {:returned, term}}

  @spec new(Config.t()) :: t
  def new(%Config{} = config) do
    %__MODULE__{
      connect: config.connect,
      timeout: config.connect_timeout,
      limit: config.max_connects
    }
  end

  @doc "Names that are being connected."
  @spec names(t) :: MapSet.t(String.t())
  def names(%__MODULE__{} = connector) do
    connector.running
    |> Map.values()
    |> MapSet.new(fn {name, _job} -> name end)
  end

  @doc """
  Connects `names` from now on, in this order, in place of those that still wait for their turn. None
  may be among `names/1`.
  """
  @spec connect(t, [String.t()]) :: t
  def connect(%__MODULE__{} = connector, names) do
    start(%{connector | queue: names})
  end

  @doc "The outcome of one connect, if `message` tells of one."
  @spec handle(t, message :: term) :: {String.t(), result, t} | :unknown
  def handle(%__MODULE__{} = connector, message) do
    case Map.pop(connector.running, Job.ref(message)) do
      {nil, _running} ->
        :unknown

      {{name, job}, running} ->
        result = job |> Job.outcome(message) |> result()
        {name, result, start(%{connector | running: running})}
    end
  end

  defp start(%{queue: [name | queue]} = connector)
       when map_size(connector.running) < connector.limit do
    {module, function, arguments} = connector.connect
    node = String.to_atom(name)
    job = Job.start(fn -> apply(module, function, arguments ++ [node]) end, connector.timeout)
    start(%{connector | queue: queue, running: Map.put(connector.running, job.ref, {name, job})})
  end

  defp start(connector), do: connector

  # What libcluster expects of a topology's connect function.
  defp result({:ok, true}), do: :ok
  defp result({:ok, false}), do: {:error, :unreachable}
  defp result({:ok, :ignored}), do: {:error, :not_distributed}
  defp result({:ok, other}), do: {:error, {:returned, other}}
  defp result({:error, reason}), do: {:error, reason}
end
