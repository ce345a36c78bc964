defmodule Caravan.Cluster.Distribution.Connector do
  # Effect. The connect, disconnect and list_nodes functions of a topology, as libcluster defines them, and what
  # their outcomes mean. They are the user's own: they may raise, hang, or return rubbish.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Job

  @type result :: :ok | {:error, reason}
  @type reason ::
          :unreachable | :not_distributed | :timeout | {:crashed, term} | {:returned, term}

  @doc "To be run as a job. The name becomes an atom here."
  @spec connect(Config.t(), String.t()) :: (() -> term)
  def connect(%Config{connect: mfa}, name), do: call(mfa, name)

  @spec disconnect(Config.t(), String.t()) :: (() -> term)
  def disconnect(%Config{disconnect: mfa}, name), do: call(mfa, name)

  @doc "Returns the call of the `list_nodes` function, to be run as a job."
  @spec list(Config.t()) :: (() -> term)
  def list(%Config{list_nodes: {module, function, arguments}}),
    do: fn -> apply(module, function, arguments) end

  @doc "The connected nodes, from the outcome of that job."
  @spec listed(Job.outcome()) :: {:ok, [node]} | {:error, term}
  def listed({:ok, nodes}) do
    if is_list(nodes) and not List.improper?(nodes) and Enum.all?(nodes, &is_atom/1),
      do: {:ok, nodes},
      else: {:error, {:returned, nodes}}
  end

  def listed({:error, reason}), do: {:error, reason}

  @doc "What the outcome of such a job says."
  @spec result(Job.outcome()) :: result
  def result({:ok, true}), do: :ok
  def result({:ok, false}), do: {:error, :unreachable}
  def result({:ok, :ignored}), do: {:error, :not_distributed}
  def result({:ok, other}), do: {:error, {:returned, other}}
  def result({:error, reason}), do: {:error, reason}

  defp call({module, function, arguments}, name) do
    node = NodeAtom.create(name)
    fn -> apply(module, function, arguments ++ [node]) end
  end
end
