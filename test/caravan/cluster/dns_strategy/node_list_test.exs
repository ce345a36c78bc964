defmodule Caravan.Cluster.DnsStrategy.NodeListTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.DnsStrategy.NodeList

  # A custom list_nodes function. Each call waits until the test process sends the value to return.
  def list(test) do
    send(test, {:listing, self()})

    receive do
      {:return, term} -> term
    end
  end

  defp custom(function \\ {__MODULE__, :list, [self()]}) do
    NodeList.new(Config.new!(query: "app.test", node_sname: "app", list_nodes: function))
  end

  defp default(min_interval \\ 3_600_000) do
    options = [query: "app.test", node_sname: "app", poll_interval: 3_600_000]
    NodeList.new(Config.new!([min_interval: min_interval] ++ options))
  end

  # Makes the next call of the list function return `term`, and handles the message of its job.
  defp return(list, term) do
    assert_receive {:listing, pid}, 5_000
    send(pid, {:return, term})
    # On a busy machine, the deadline of the job may pass before.
    assert_receive {:DOWN, _ref, :process, ^pid, _reason} = message, 5_000
    NodeList.handle(list, message)
  end

  defp next(list) do
    assert_receive message when elem(message, 0) in [:DOWN, Caravan.Cluster.Job], 5_000
    NodeList.handle(list, message)
  end

  describe "the default list" do
    test "is returned at once, followed by the events" do
      assert {[{:connected_nodes, []}, :tick], _list} = NodeList.refresh(default(), [:tick])
    end

    test "is read for events when it was not read for :min_interval" do
      assert {[{:connected_nodes, []}, :one], list} = NodeList.refresh_if_stale(default(), [:one])
      assert {[:two], ^list} = NodeList.refresh_if_stale(list, [:two])
      assert {[], ^list} = NodeList.refresh_if_stale(list, [])

      {_events, list} = NodeList.refresh(default(50), [])
      Process.sleep(60)
      assert {[{:connected_nodes, []}, :three], _list} = NodeList.refresh_if_stale(list, [:three])
    end

    test "is not read for a nodeup or a nodedown" do
      list = default()
      assert NodeList.nodeup(list, :a@h) == {[{:nodeup, "a@h"}], list}
      assert NodeList.nodedown(list, :a@h) == {[{:nodedown, "a@h"}], list}
    end

    test "starts no job" do
      assert NodeList.handle(default(), {:DOWN, make_ref(), :process, self(), :normal}) ==
               :unknown
    end
  end

  describe "a custom list" do
    test "is returned by a job, followed by the events" do
      assert {[], list} = NodeList.refresh(custom(), [:one, :two])
      assert {:ok, events, list} = return(list, [:a@h])
      assert events == [{:connected_nodes, ["a@h"]}, :one, :two]
      assert list == custom()
    end

    test "is fetched once more after all events that came while it was fetched" do
      {[], list} = NodeList.refresh(custom(), [:one])
      {[], list} = NodeList.nodeup(list, :a@h)
      {[], list} = NodeList.refresh(list, [:two])
      {[], list} = NodeList.nodedown(list, :b@h)
      {[], list} = NodeList.refresh_if_stale(list, [:three])

      assert for(event <- [:one, :three, :four], do: NodeList.holds?(list, &(&1 == event))) == [
               true,
               true,
               false
             ]

      assert {:ok, [{:connected_nodes, []}, :one], list} = return(list, [])
      refute NodeList.holds?(list, &(&1 == :one))
      assert {:ok, [{:connected_nodes, ["a@h"]}, :two, :three], list} = return(list, [:a@h])
      assert list == custom()
      refute_received {:listing, _pid}
    end

    test "is fetched for each nodeup and nodedown" do
      {[], list} = NodeList.nodeup(custom(), :a@h)
      assert {:ok, [{:connected_nodes, []}], list} = return(list, [])
      {[], list} = NodeList.nodedown(list, :a@h)
      assert {:ok, [{:connected_nodes, ["a@h"]}], _list} = return(list, [:a@h])
    end

    test "may be another call of :erlang.nodes/1" do
      {[], list} = NodeList.refresh(custom({:erlang, :nodes, [:visible]}), [:tick])
      assert {:ok, [{:connected_nodes, []}, :tick], _list} = next(list)
    end

    test "that fails is an error, and the events are still returned" do
      for rubbish <- [:rubbish, ["a@h"], [:a@h | :b@h]] do
        {[], list} = NodeList.refresh(custom(), [:tick])
        assert {{:error, text}, [:tick], _list} = return(list, rubbish)
        assert text =~ "list_nodes {#{inspect(__MODULE__)}, :list,"
        assert text =~ "failed: {:returned, #{inspect(rubbish)}}"
      end

      {[], list} = NodeList.refresh(custom({Enum, :fetch!, [[], 0]}), [:tick])
      assert {{:error, text}, [:tick], _list} = next(list)
      assert text =~ "failed: {:crashed, %Enum.OutOfBoundsError{"
    end

    test "that hangs is an error, and the next one is fetched" do
      {[], list} = NodeList.refresh(custom(), [:one])
      {[], list} = NodeList.refresh(list, [:two])
      assert_receive {:listing, _hangs}, 5_000
      assert {{:error, text}, [:one], list} = next(list)
      assert text =~ "failed: :timeout"
      assert {:ok, [{:connected_nodes, []}, :two], _list} = return(list, [])
    end

    test "is not returned after stop/1, nor are its events" do
      {[], list} = NodeList.refresh(custom(), [:one])
      {[], list} = NodeList.refresh(list, [:two])
      assert_receive {:listing, pid}, 5_000
      ref = Process.monitor(pid)
      list = NodeList.stop(list)
      assert list == custom()
      assert_receive {:DOWN, ^ref, :process, ^pid, :killed}, 5_000
      refute_receive _, 100
    end

    test "takes no message of another job" do
      {[], list} = NodeList.refresh(custom(), [])
      assert NodeList.handle(list, {:DOWN, make_ref(), :process, self(), :normal}) == :unknown
      assert NodeList.handle(list, {Caravan.Cluster.Job, make_ref()}) == :unknown
      assert NodeList.handle(list, :hello) == :unknown
      NodeList.stop(list)
    end
  end
end
