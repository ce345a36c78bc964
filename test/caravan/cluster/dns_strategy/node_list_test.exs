defmodule Caravan.Cluster.DnsStrategy.NodeListTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.DnsStrategy.NodeList

  # A custom list_nodes function: each call waits for what the test process lets it return.
  def list(test) do
    send(test, {:listing, self()})

    receive do
      {:return, term} -> term
    end
  end

  defp custom(function \\ {__MODULE__, :list, [self()]}) do
    NodeList.new(Config.new!(query: "app.test", node_sname: "app", list_nodes: function))
  end

  defp default, do: NodeList.new(Config.new!(query: "app.test", node_sname: "app"))

  # Lets the list function that is called next return `term`, and handles the message of its job.
  defp return(list, term) do
    assert_receive {:listing, pid}, 5_000
    send(pid, {:return, term})
    next(list)
  end

  defp next(list) do
    assert_receive message when elem(message, 0) in [:DOWN, Caravan.Cluster.Job], 5_000
    NodeList.handle(list, message)
  end

  describe "the default list" do
    test "is returned at once, with the events behind it" do
      assert {[{:connected_nodes, []}, :tick], list} = NodeList.refresh(default(), [:tick])
      assert list == default()
    end

    test "has a node of a nodeup, and lacks one of a nodedown" do
      assert {[{:connected_nodes, ["a@h"]}], _} = NodeList.nodeup(default(), :a@h)
      assert {[{:connected_nodes, []}], _} = NodeList.nodedown(default(), :a@h)
    end

    test "starts no job" do
      assert NodeList.handle(default(), {:DOWN, make_ref(), :process, self(), :normal}) ==
               :unknown
    end
  end

  describe "a custom list" do
    test "is returned by a job, with the events behind it" do
      assert {[], list} = NodeList.refresh(custom(), [:one, :two])
      assert {:ok, events, list} = return(list, [:a@h])
      assert events == [{:connected_nodes, ["a@h"]}, :one, :two]
      assert list == custom()
    end

    test "is fetched again after events that came while it was fetched, once for all of them" do
      {[], list} = NodeList.refresh(custom(), [:one])
      {[], list} = NodeList.nodeup(list, :a@h)
      {[], list} = NodeList.refresh(list, [:two])
      {[], list} = NodeList.nodedown(list, :b@h)
      {[], list} = NodeList.refresh(list, [:three])
      assert {:ok, [{:connected_nodes, []}, :one], list} = return(list, [])
      assert {:ok, [{:connected_nodes, ["a@h"]}, :two, :three], list} = return(list, [:a@h])
      assert list == custom()
      refute_received {:listing, _pid}
    end

    test "that fails is an error, and its events are returned all the same" do
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
