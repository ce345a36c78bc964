defmodule Caravan.Cluster.DnsStrategy.WaitersTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.DnsStrategy.Waiters

  defp from, do: {self(), make_ref()}

  test "a caller gets its reply when enough nodes are connected" do
    {_, two} = from = from()
    waiters = Waiters.add(Waiters.new(), from, 2, 60_000)
    assert Waiters.reply(waiters, 1, true) == waiters
    refute_received {^two, _reply}
    assert Waiters.reply(waiters, 2, false) == []
    assert_received {^two, :ok}
  end

  test "with 0 nodes, a caller gets its reply when every query was answered" do
    {_, tag} = from = from()
    waiters = Waiters.add(Waiters.new(), from, 0, 60_000)
    assert Waiters.reply(waiters, 5, false) == waiters
    assert Waiters.reply(waiters, 0, true) == []
    assert_received {^tag, :ok}
  end

  test "at the deadline of a caller the owner gets a message, and the caller an error" do
    {_, tag} = from = from()
    waiters = Waiters.new() |> Waiters.add(from, 1, 10) |> Waiters.add(from(), 2, 60_000)
    assert_receive {:await_timeout, ^from}, 5_000
    assert [{_other, 2, _timer}] = waiters = Waiters.time_out(waiters, from)
    assert_received {^tag, {:error, :timeout}}
    # It had its reply meanwhile.
    assert Waiters.time_out(waiters, from) == waiters
    refute_received {^tag, _reply}
  end
end
