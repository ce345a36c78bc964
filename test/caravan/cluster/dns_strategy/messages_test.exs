defmodule Caravan.Cluster.DnsStrategy.MessagesTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery
  alias Caravan.Cluster.DnsStrategy.Jobs
  alias Caravan.Cluster.DnsStrategy.Messages
  alias Caravan.Cluster.DnsStrategy.State
  alias Caravan.Cluster.DnsStrategy.Tick
  alias Caravan.Cluster.DnsStrategy.Waiters
  alias Caravan.Test.FakeNetwork

  @name "app-4001@node1.test"

  # The dns_client of the tests.
  def get_nodes("app.test"), do: [{4001, "node1.test"}]
  def get_nodes("b.test"), do: :invalid

  # The calling process is the strategy: it gets the messages.
  defp state(context, options \\ []) do
    key = :"messages_test #{context.line}"
    defaults = [topology: key, query: "app.test", node_sname: "app", dns_client: __MODULE__]
    State.new(Config.new!(Keyword.merge(defaults, options)), key)
  end

  # Returns a state whose list of connected nodes has just been read.
  defp fresh(context) do
    {[{:connected_nodes, []}, :tick], state} = Messages.events(:tick, state(context))
    state
  end

  # The events of the next message. A message that belongs to no module has none.
  defp next(state) do
    assert_receive message, 5_000
    Messages.events(message, state)
  end

  defp connect_returns(state, result) do
    # Creates the atom that the dial of this node would have created.
    _ = String.to_atom(@name)
    jobs = Jobs.start(state.jobs, {:connect, @name}, fn -> result end, 5_000)
    next(%{state | jobs: jobs})
  end

  test "a tick reads the list of connected nodes, unless it was read within :min_interval",
       context do
    assert {[{:connected_nodes, []}, :tick], state} = Messages.events(:tick, state(context))
    assert {[:tick], _state} = Messages.events(:tick, state)
  end

  test "a tick cancels the timer of another one", context do
    later = System.monotonic_time(:millisecond) + 60_000
    state = State.update(state(context), :tick, &Tick.set(&1, later))
    assert {_events, %{tick: tick}} = Messages.events(:tick, state)
    assert tick == Tick.new()
  end

  test "a nodeup and a nodedown are events", context do
    state = state(context)
    assert {[{:nodeup, "a@h"}], state} = Messages.events({:nodeup, :a@h, []}, state)
    assert {[{:nodedown, "a@h"}], _state} = Messages.events({:nodedown, :a@h, []}, state)
  end

  test "with a custom :list_nodes, a nodeup calls it, and its list is the event", context do
    network = start_supervised!({FakeNetwork, self()})
    state = state(context, FakeNetwork.options(network))
    assert {[], state} = Messages.events({:nodeup, :a@h, []}, state)
    assert {[{:connected_nodes, []}], _state} = next(state)
  end

  test "the end of a lookup is an answer or a failure", context do
    [one, two] = [{"app.test", :srv}, {"b.test", :srv}]
    state = state(context, query: ["app.test", "b.test"])
    {_events, state} = Messages.events(:tick, state)
    state = State.update(state, :discovery, &Discovery.start(&1, one))
    assert {[{:answer, ^one, %{endpoints: endpoints, complete: true}}], state} = next(state)
    assert Map.keys(endpoints) == [@name]
    state = State.update(state, :discovery, &Discovery.start(&1, two))
    assert {[{:lookup_failed, ^two, {:client_returned, _text}}], _state} = next(state)
  end

  test "a connect that succeeds makes the list of connected nodes an event, and then its own result",
       context do
    capture_log(fn ->
      assert {[{:connected_nodes, []}, {:connect_result, @name, :ok}], state} =
               connect_returns(fresh(context), true)

      assert state.jobs == Jobs.new()
    end)
  end

  test "a connect that fails makes only its own result an event, if the list was just read",
       context do
    capture_log(fn ->
      assert {[{:connect_result, @name, {:error, :unreachable}}], _state} =
               connect_returns(fresh(context), false)
    end)
  end

  test "the deadline of a caller changes the waiters alone", context do
    state = state(context)
    from = {self(), make_ref()}
    waiting = State.update(state, :waiters, &Waiters.add(&1, from, 1, 0))
    assert next(waiting) == {[], state}
  end

  test "a message that belongs to no module has no effect", context do
    state = state(context)

    for message <- [:hello, {make_ref(), {:ok, 1}}, {:DOWN, make_ref(), :process, self(), :x}],
        do: assert(Messages.events(message, state) == {[], state})
  end
end
