defmodule Caravan.Cluster.DnsStrategy.Waiters do
  # Who waits for nodes, each with a deadline. State of its owner, a GenServer.
  @moduledoc false

  alias Caravan.Cluster.Membership

  @typedoc "For how many nodes each waits; 0: for DNS to speak."
  @type t :: [{GenServer.from(), nodes :: non_neg_integer, timer :: reference}]

  @doc "At its deadline, the owner gets `{:await_timeout, from}`."
  @spec add(t, GenServer.from(), non_neg_integer, timeout :: non_neg_integer) :: t
  def add(waiters, from, nodes, timeout),
    do: [{from, nodes, Process.send_after(self(), {:await_timeout, from}, timeout)} | waiters]

  @doc "Answers those who have what they waited for."
  @spec answer(t, Membership.t()) :: t
  def answer([], _membership), do: []

  def answer(waiters, membership) do
    connected = length(Membership.connected(membership))
    heard = Membership.responded?(membership)

    {ready, waiting} =
      Enum.split_with(waiters, fn {_from, nodes, _timer} ->
        if nodes == 0, do: heard, else: connected >= nodes
      end)

    for {from, _nodes, timer} <- ready do
      _ = Process.cancel_timer(timer)
      GenServer.reply(from, :ok)
    end

    waiting
  end

  @spec time_out(t, GenServer.from()) :: t
  def time_out(waiters, from) do
    {late, waiting} = Enum.split_with(waiters, &(elem(&1, 0) == from))
    Enum.each(late, fn {from, _nodes, _timer} -> GenServer.reply(from, {:error, :timeout}) end)
    waiting
  end
end
