defmodule Caravan.Cluster.DnsStrategy.Failures do
  # Owner-state. Why nodes could not be connected: the last reason for each node, with the id and the text of its check.
  @moduledoc false

  alias Caravan.Cluster.Distribution.Connector
  alias Caravan.Cluster.Distribution.Diagnosis
  alias Caravan.Cluster.Report

  @opaque t :: %{(name :: String.t()) => {cause, failure}}

  @type failure :: {id :: String.t(), text :: String.t()}

  # What was returned by a probe or a diagnosis, or by OTP.
  @typep cause :: {:finding, Diagnosis.finding()} | {:reason, Connector.reason() | :not_listed}

  @spec new() :: t
  def new, do: %{}

  @doc "Stores why a connect failed."
  @spec connect_failed(t, String.t(), Connector.reason() | :not_listed) :: t
  def connect_failed(failures, name, {:probe, finding, _duration}),
    do: diagnosed(failures, name, finding)

  # Later attempts are not diagnosed, and OTP returns less than the diagnosis has found. So its finding stays.
  def connect_failed(failures, name, reason) do
    case failures do
      %{^name => {{:finding, finding}, _failure}} when reason in [:unreachable, :timeout] ->
        if Diagnosis.handshake?(finding),
          do: failures,
          else: put(failures, name, {:reason, reason})

      _ ->
        put(failures, name, {:reason, reason})
    end
  end

  @doc "Stores what a diagnosis has found."
  @spec diagnosed(t, String.t(), Diagnosis.finding()) :: t
  def diagnosed(failures, name, finding), do: put(failures, name, {:finding, finding})

  @doc "Deletes the failures of all other nodes."
  @spec keep(t, [String.t()]) :: t
  def keep(failures, names), do: Map.take(failures, names)

  @doc "Returns the last failure of a node, or `nil`."
  @spec of(t, String.t()) :: failure | nil
  def of(failures, name) do
    case failures do
      %{^name => {_cause, failure}} -> failure
      _ -> nil
    end
  end

  defp put(failures, name, cause) do
    case failures do
      %{^name => {^cause, _failure}} -> failures
      _ -> Map.put(failures, name, {cause, failure(cause)})
    end
  end

  defp failure({:finding, finding}), do: {Diagnosis.id(finding), Diagnosis.text(finding)}
  defp failure({:reason, reason}), do: {Report.check(reason), Report.describe(reason)}
end
