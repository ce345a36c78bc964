defmodule Caravan.Cluster.DnsStrategy.Waiters do
  # Owner-state. The callers of await/2. Each waits until its deadline, or until it dies.
  @moduledoc false

  @typedoc """
  By monitor: how many nodes the caller waits for, and the timer of its deadline. With 0 nodes, the caller
  waits until every query was answered.
  """
  @opaque t :: %{reference => {GenServer.from(), nodes :: non_neg_integer, timer :: reference}}

  @spec new() :: t
  def new, do: %{}

  @doc "Returns the number of callers. For tests."
  @spec count(t) :: non_neg_integer
  def count(waiters), do: map_size(waiters)

  @doc "Adds a caller. `timeout` is in milliseconds."
  @spec add(t, GenServer.from(), non_neg_integer, timeout :: non_neg_integer) :: t
  def add(waiters, {pid, _tag} = from, nodes, timeout) do
    ref = Process.monitor(pid)
    timer = Process.send_after(self(), {__MODULE__, ref}, timeout)
    Map.put(waiters, ref, {from, nodes, timer})
  end

  @doc "Replies to the callers that have what they wait for."
  @spec reply(t, connected :: non_neg_integer, responded? :: boolean) :: t
  def reply(waiters, connected, responded?) do
    for {ref, {from, nodes, _timer}} <- waiters,
        if(nodes == 0, do: responded?, else: connected >= nodes),
        reduce: waiters do
      waiters ->
        GenServer.reply(from, :ok)
        delete(waiters, ref)
    end
  end

  @doc """
  Deletes the caller that `message` belongs to: at its deadline, after the reply `{:error, :timeout}`, or
  because it has died. Returns `:unknown` for other messages.
  """
  @spec handle(t, message :: term) :: t | :unknown
  def handle(waiters, {__MODULE__, ref}) when is_map_key(waiters, ref) do
    {from, _nodes, _timer} = waiters[ref]
    GenServer.reply(from, {:error, :timeout})
    delete(waiters, ref)
  end

  def handle(waiters, {:DOWN, ref, :process, _pid, _reason}) when is_map_key(waiters, ref),
    do: delete(waiters, ref)

  def handle(_waiters, _message), do: :unknown

  defp delete(waiters, ref) do
    {{_from, _nodes, timer}, waiters} = Map.pop!(waiters, ref)
    _ = Process.cancel_timer(timer)
    Process.demonitor(ref, [:flush])
    waiters
  end
end
