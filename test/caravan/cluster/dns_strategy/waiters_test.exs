defmodule Caravan.Cluster.DnsStrategy.WaitersTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.DnsStrategy.Waiters

  defp from, do: {self(), make_ref()}

  test "a caller gets its reply when enough nodes are connected" do
    {_, two} = from = from()
    waiters = Waiters.add(Waiters.new(), from, 2, 60_000)
    assert Waiters.reply(waiters, 1, true) == waiters
    refute_received {^two, _reply}
    assert Waiters.reply(waiters, 2, false) == Waiters.new()
    assert_received {^two, :ok}
  end

  test "with 0 nodes, a caller gets its reply when every query was answered" do
    {_, tag} = from = from()
    waiters = Waiters.add(Waiters.new(), from, 0, 60_000)
    assert Waiters.reply(waiters, 5, false) == waiters
    assert Waiters.reply(waiters, 0, true) == Waiters.new()
    assert_received {^tag, :ok}
  end

  test "at its deadline a caller gets an error" do
    {_, tag} = from = from()
    waiters = Waiters.new() |> Waiters.add(from, 1, 10) |> Waiters.add(from(), 2, 60_000)
    assert_receive {Waiters, _ref} = message, 5_000
    waiters = Waiters.handle(waiters, message)
    assert_received {^tag, {:error, :timeout}}
    assert Waiters.count(waiters) == 1
    # A deadline that passes when the caller has its reply already changes nothing.
    assert Waiters.handle(waiters, message) == :unknown
    refute_received {^tag, _reply}
  end

  test "a caller that dies is deleted" do
    caller = spawn(fn -> receive do: (:stop -> :ok) end)
    waiters = Waiters.add(Waiters.new(), {caller, make_ref()}, 1, 60_000)
    Process.exit(caller, :kill)
    assert_receive {:DOWN, _ref, :process, ^caller, :killed} = message, 5_000
    assert Waiters.handle(waiters, message) == Waiters.new()
    assert Waiters.handle(Waiters.new(), message) == :unknown
  end

  test "a caller that has its reply is not monitored any more" do
    {_, tag} = from = from()
    Waiters.new() |> Waiters.add(from, 0, 0) |> Waiters.reply(0, true)
    assert_received {^tag, :ok}
    assert Process.info(self(), :monitors) == {:monitors, []}
  end
end
