defmodule Caravan.Cluster.DnsStrategy.Tick do
  # Owner-state. The timer of the strategy: when the next :tick comes.
  @moduledoc false

  @typedoc "The time is in monotonic milliseconds. There is no timer for `:never`."
  @opaque t :: {:never, nil} | {integer, timer :: reference}

  @spec new() :: t
  def new, do: {:never, nil}

  @doc "Sends `:tick` to the caller at this time. Replaces the time that was set before."
  @spec set(t, :never | integer) :: t
  def set({at, _timer} = tick, at), do: tick

  def set(tick, at) do
    _ = cancel(tick)
    start(at)
  end

  @doc """
  Cancels the timer. A `:tick` may still come afterwards, because this function does not wait for the timer. The
  strategy handles it as any other one.
  """
  @spec cancel(t) :: t
  def cancel({:never, nil} = tick), do: tick

  def cancel({_at, timer}) do
    :ok = Process.cancel_timer(timer, async: true, info: false)
    new()
  end

  defp start(:never), do: new()

  defp start(at) do
    wait = max(0, at - System.monotonic_time(:millisecond))
    {at, Process.send_after(self(), :tick, wait)}
  end
end
