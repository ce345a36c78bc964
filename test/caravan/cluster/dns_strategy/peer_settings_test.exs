defmodule Caravan.Cluster.DnsStrategy.PeerSettingsTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.DnsStrategy.PeerSettings
  alias Caravan.Cluster.Job

  @visible [node_type: :visible]

  defp new do
    PeerSettings.new(Config.new!(query: "app.test", node_sname: "app", log_level: :debug))
  end

  # Returns the settings after a nodeup of each of the nodes.
  defp connected(nodes), do: Enum.reduce(nodes, new(), &PeerSettings.nodeup(&2, &1, @visible))

  # Ends the pause before the next question, and returns the node that is asked.
  defp ask(settings) do
    {_differing, settings} =
      PeerSettings.handle(settings, {:timeout, settings.timer, PeerSettings})

    {_job, node} = settings.job
    {node, settings}
  end

  # Replaces the job that asks by one that does not end by itself.
  defp hang({node, settings}) do
    job = Job.start(fn -> Process.sleep(:infinity) end, 5_000)
    {node, %{settings | job: {job, node}}}
  end

  # Handles the :DOWN message of the job that asks, as if the node had this value.
  defp answer(%{job: {job, node}} = settings, value),
    do:
      PeerSettings.handle(
        settings,
        {:DOWN, job.ref, :process, job.pid, {Job, {:ok, %{node => value}}}}
      )

  test "a nodeup only queues the node and starts a timer" do
    settings = connected([:a@h])
    assert Process.read_timer(settings.timer) in 1_000..5_000
    assert settings.job == nil
    assert connected([:a@h, :b@h]).job == nil
    assert PeerSettings.nodeup(settings, :b@h, @visible).timer == settings.timer
  end

  test "there is one question at a time, until each node was asked once" do
    {first, settings} = ask(connected([:a@h, :b@h]))
    assert settings.timer == nil
    {[], settings} = answer(settings, true)
    {second, settings} = ask(settings)
    assert Enum.sort([first, second]) == [:a@h, :b@h]
    {[], settings} = answer(settings, true)
    assert {settings.timer, settings.job} == {nil, nil}
  end

  test "hidden nodes are not asked" do
    for info <- [[node_type: :hidden], [], :rubbish],
        do: assert(PeerSettings.nodeup(new(), :a@h, info) == new())
  end

  test "a node differs until it is disconnected" do
    {:a@h, settings} = ask(connected([:a@h]))
    {[:a@h], settings} = answer(settings, false)
    assert {[:a@h], _settings} = PeerSettings.nodedown(settings, :b@h)
    assert {[], settings} = PeerSettings.nodedown(settings, :a@h)

    # It is asked again after it was connected again.
    {:a@h, settings} = settings |> PeerSettings.nodeup(:a@h, @visible) |> ask()
    assert {[], _settings} = answer(settings, true)
  end

  test "a node that is disconnected before its turn is not asked" do
    {[], settings} = PeerSettings.nodedown(connected([:a@h, :b@h]), :a@h)
    {:b@h, settings} = ask(settings)
    {[], settings} = answer(settings, true)
    assert {settings.timer, settings.job} == {nil, nil}
  end

  test "a node that is disconnected while it is asked does not hold up the others" do
    {node, settings} = connected([:a@h, :b@h]) |> ask() |> hang()
    {job, ^node} = settings.job
    {[], settings} = PeerSettings.nodedown(settings, node)
    refute Process.alive?(job.pid)
    assert {_other, _settings} = ask(settings)
  end

  test "a node that does not answer is mentioned at debug level only" do
    # This VM is not connected to it.
    {:a@h, settings} = ask(connected([:a@h]))
    assert_receive {:DOWN, _ref, :process, _pid, _reason} = down, 5_000

    # Other tests may log at the same time.
    refute capture_log([level: :info], fn -> PeerSettings.handle(settings, down) end) =~
             "a@h did not answer"

    assert capture_log(fn ->
             assert {[], %{job: nil}} = PeerSettings.handle(settings, down)
           end) =~ "a@h did not answer"

    {:a@h, settings} = ask(connected([:a@h]))
    {job, _node} = settings.job
    assert {[], %{job: nil}} = PeerSettings.handle(settings, {Job, job.ref})
  end

  test "other messages are unknown" do
    {_node, settings} = ask(connected([:a@h]))

    for settings <- [new(), connected([:a@h]), settings],
        message <- [
          :hello,
          {:timeout, nil, PeerSettings},
          {:timeout, make_ref(), PeerSettings},
          {:DOWN, make_ref(), :process, self(), :x}
        ],
        do: assert(PeerSettings.handle(settings, message) == :unknown)
  end

  test "a stop ends the timer and the question" do
    settings = connected([:a@h])
    assert PeerSettings.stop(settings) == new()
    refute Process.read_timer(settings.timer)

    {_node, settings} = settings |> ask() |> hang()
    {job, _node} = settings.job
    assert PeerSettings.stop(settings) == new()
    refute Process.alive?(job.pid)
    assert PeerSettings.stop(new()) == new()
  end
end
