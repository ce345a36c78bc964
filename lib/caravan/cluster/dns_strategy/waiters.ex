defmodule Caravan.Cluster.DnsStrategy.Waiters do
  # Owner-state. The callers of await/2, each with a deadline.
  @moduledoc false

  @typedoc "How many nodes each caller waits for. With 0, it waits until every query was answered."
  @type t :: [{GenServer.from(), nodes :: non_neg_integer, timer :: reference}]

  @spec new() :: t
  def new, do: []

  @doc "Adds a caller. At its deadline, the owner gets `{:await_timeout, from}`, for `time_out/2`."
  @spec add(t, GenServer.from(), non_neg_integer, timeout :: non_neg_integer) :: t
  def add(waiters, from, nodes, timeout),
    do: [{from, nodes, Process.send_after(self(), {:await_timeout, from}, timeout)} | waiters]

  @doc "Replies to the callers that have what they wait for."
  @spec reply(t, connected :: non_neg_integer, responded? :: boolean) :: t
  def reply(waiters, connected, responded?) do
    {ready, waiting} =
      Enum.split_with(waiters, fn {_from, nodes, _timer} ->
        if nodes == 0, do: responded?, else: connected >= nodes
      end)

    for {from, _nodes, timer} <- ready do
      _ = Process.cancel_timer(timer)
      GenServer.reply(from, :ok)
    end

    waiting
  end

  @doc "Replies `{:error, :timeout}` to a caller whose deadline is over."
  @spec time_out(t, GenServer.from()) :: t
  def time_out(waiters, from) do
    {late, waiting} = Enum.split_with(waiters, &(elem(&1, 0) == from))
    Enum.each(late, fn {from, _nodes, _timer} -> GenServer.reply(from, {:error, :timeout}) end)
    waiting
  end
end
