defmodule Caravan.Cluster.DnsStrategy.DepartureTest do
  @moduledoc "Drains without distribution, so that no node is connected. drain_nodes_test.exs drains real nodes."
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Distribution.Drain
  alias Caravan.Cluster.DnsStrategy.Departure

  setup context do
    key = :"departure_test #{context.line}"
    on_exit(fn -> Drain.resume(key) end)
    %{key: key}
  end

  # Returns a caller as GenServer passes it. Its reply is the message {tag, reply}.
  defp from, do: {self(), make_ref()}

  # Hands messages to the departure until one of them is its own.
  defp next(departure) do
    assert_receive message, 5_000
    with :unknown <- Departure.handle(departure, message), do: next(departure)
  end

  test "all callers get the reply of one job", %{key: key} do
    [{_, one}, {_, two}] = [first, second] = [from(), from()]
    departure = Departure.new(key)
    refute Departure.drained?(departure)
    departure = Departure.drain(departure, first, ["a@h"])
    assert Departure.drained?(departure)
    departure = Departure.drain(departure, second, ["a@h"])
    assert {:ok, departure} = next(departure)
    assert_received {^one, :ok}
    assert_received {^two, :ok}
    Departure.stop(departure)
  end

  test "a caller that drains again later gets the reply of another job", %{key: key} do
    {_, one} = first = from()
    {:ok, departure} = key |> Departure.new() |> Departure.drain(first, []) |> next()
    assert_received {^one, :ok}
    {_, two} = second = from()
    departure = Departure.drain(departure, second, [])
    assert {:ok, departure} = next(departure)
    assert_received {^two, :ok}
    refute_received {^one, _reply}
    Departure.stop(departure)
  end

  test "callers that still wait at a resume get an error, and the job has no result", %{key: key} do
    {_, tag} = caller = from()
    departure = key |> Departure.new() |> Departure.drain(caller, []) |> Departure.resume()
    assert_received {^tag, {:error, :failed}}
    refute Departure.drained?(departure)
    assert departure == Departure.new(key)
    refute_receive {:DOWN, _, _, _, _}, 100
  end

  test "after a job, the departure checks once for connected nodes", %{key: key} do
    {:ok, departure} = key |> Departure.new() |> Departure.drain(from(), []) |> next()
    assert_receive {Departure, _ref} = check, 5_000
    assert {:ok, departure} = Departure.handle(departure, check)
    assert Departure.handle(departure, check) == :unknown
    # No node is connected, so no job was started.
    refute_receive {:DOWN, _, _, _, _}, 100
    refute_receive {Departure, _ref}, 600
  end

  test "a check of a strategy that is not drained starts no job", %{key: key} do
    departure = Departure.new(key)
    assert Departure.check(departure) == departure
  end

  test "a strategy that was restarted is still drained", %{key: key} do
    :ok = Drain.start(key)
    assert Departure.drained?(Departure.new(key))
  end

  test "callers of a job that crashes get an error, and a check follows", %{key: key} do
    {_, tag} = caller = from()
    departure = key |> Departure.new() |> Departure.drain(caller, [])
    # The message of a job that was killed.
    message = {:DOWN, departure.job.ref, :process, departure.job.pid, :killed}

    assert {{:error, {:failed, {:crashed, :killed}}}, departure} =
             Departure.handle(departure, message)

    assert_received {^tag, {:error, :failed}}
    assert_receive {Departure, _ref} = check, 5_000
    assert {:ok, _departure} = Departure.handle(departure, check)
  end

  test "callers of a job that hangs get a timeout", %{key: key} do
    {_, tag} = caller = from()
    departure = key |> Departure.new() |> Departure.drain(caller, [])
    deadline = {Caravan.Cluster.Job, departure.job.ref}
    assert {{:error, :timeout}, departure} = Departure.handle(departure, deadline)
    assert_received {^tag, {:error, :timeout}}
    Departure.stop(departure)
  end

  test "a message of another process is unknown", %{key: key} do
    departure = Departure.new(key)
    assert Departure.handle(departure, {Departure, make_ref()}) == :unknown
    assert Departure.handle(departure, {:DOWN, make_ref(), :process, self(), :x}) == :unknown
    departure = Departure.drain(departure, from(), [])
    assert Departure.handle(departure, {:DOWN, make_ref(), :process, self(), :x}) == :unknown
    Departure.stop(departure)
  end
end
