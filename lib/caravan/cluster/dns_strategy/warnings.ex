defmodule Caravan.Cluster.DnsStrategy.Warnings do
  # Owner-state. Conditions that the strategy warns about when they begin, and not while they last.
  @moduledoc false

  alias Caravan.Cluster.Alarms
  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Report

  @enforce_keys [:config, :alarms]
  defstruct @enforce_keys

  @opaque t :: %__MODULE__{config: Config.t(), alarms: Alarms.t()}

  @spec new(Config.t()) :: t
  def new(%Config{} = config), do: %__MODULE__{config: config, alarms: Alarms.new()}

  @doc "Warns if a custom `:list_nodes` function failed. With `:ok`, the condition is over."
  @spec list_nodes(t, :ok | {:error, String.t()}) :: t
  def list_nodes(%__MODULE__{} = warnings, :ok), do: clear(warnings, :list_nodes)

  def list_nodes(%__MODULE__{} = warnings, {:error, text}),
    do: warn(warnings, :list_nodes, text)

  @doc """
  Warns if records of an answer were left out. `reasons` has one reason for each of them. Without a reason, the
  condition is over.
  """
  @spec left_out(t, Config.source(), reasons :: [String.t()]) :: t
  def left_out(%__MODULE__{} = warnings, source, []), do: clear(warnings, {:left_out, source})

  def left_out(%__MODULE__{} = warnings, {query, _type} = source, [reason | _] = reasons) do
    text = "#{length(reasons)} records of #{inspect(query)} are left out: #{reason}"
    warn(warnings, {:left_out, source}, text)
  end

  @doc """
  Warns if the addresses of the topology did not fit into `Caravan.Epmd.Peers`. With `:ok`, the condition is over.
  """
  @spec peer_table(t, :ok | {:error, :full}) :: t
  def peer_table(%__MODULE__{} = warnings, :ok), do: clear(warnings, :peer_table)

  def peer_table(%__MODULE__{} = warnings, {:error, :full}) do
    text =
      "the table of addresses is full, so it has no addresses of this topology (see Caravan.Epmd.Peers)"

    warn(warnings, :peer_table, text)
  end

  defp warn(%{config: config} = warnings, condition, text) do
    {new?, alarms} = Alarms.set(warnings.alarms, condition, now())
    if new?, do: Report.log(config, :warning, text)
    %{warnings | alarms: alarms}
  end

  # A condition is not new again within :keep, because one of several nameservers may answer differently than the
  # others.
  defp clear(%{config: config, alarms: alarms} = warnings, condition),
    do: %{warnings | alarms: Alarms.clear(alarms, condition, now(), config.keep)}

  defp now, do: System.monotonic_time(:millisecond)
end
