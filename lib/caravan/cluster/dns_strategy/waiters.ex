defmodule Caravan.Cluster.DnsStrategy.Waiters do
  # Owner-state. The callers of await/2 that wait: until their condition holds, their deadline, or their death.
  @moduledoc false

  @typedoc """
  The key is the monitor of the caller. The value is the caller, the number of nodes that it waits for, and the timer of
  its deadline. With 0 nodes, it waits until each source has had a response.
  """
  @opaque t :: %{reference => {GenServer.from(), nodes :: non_neg_integer, timer :: reference}}

  @spec new() :: t
  def new, do: %{}

  @doc "Returns the number of callers. Only tests use it."
  @spec count(t) :: non_neg_integer
  def count(waiters), do: map_size(waiters)

  @doc "Adds a caller. `timeout` is in milliseconds."
  @spec add(t, GenServer.from(), non_neg_integer, timeout :: non_neg_integer) :: t
  def add(waiters, {pid, _tag} = from, nodes, timeout) do
    ref = Process.monitor(pid)
    timer = Process.send_after(self(), {__MODULE__, ref}, timeout)
    Map.put(waiters, ref, {from, nodes, timer})
  end

  @doc """
  Replies `:ok` to the callers whose condition holds, and deletes them.

  `responded?` is whether each source has had a response.
  """
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
  Deletes the caller that `message` belongs to. At its deadline, it first gets `{:error, :timeout}`. Returns `:unknown` for
  other messages.
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
