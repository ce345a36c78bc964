defmodule Caravan.Cluster.Distribution.ConnectorTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.Connector
  alias Caravan.Cluster.Job
  alias Caravan.Test.FakeNetwork

  setup do
    %{network: start_supervised!({FakeNetwork, self()})}
  end

  defp result(network, name, timeout \\ 5_000) do
    config = Config.new!([query: "app.test", node_sname: "app"] ++ FakeNetwork.options(network))
    config |> Connector.connect(name) |> run(timeout) |> Connector.result()
  end

  defp run(fun, timeout) do
    job = Job.start(fun, timeout)
    assert_receive message when elem(message, 1) == job.ref, 10_000
    Job.outcome(job, message)
  end

  test "the result of a connect depends on what the function returns", %{network: network} do
    FakeNetwork.behave(network, :down@h, :unreachable)
    FakeNetwork.behave(network, :alone@h, {:returns, :ignored})
    FakeNetwork.behave(network, :odd@h, {:returns, :rubbish})
    FakeNetwork.behave(network, :bad@h, :raises)
    FakeNetwork.behave(network, :dead@h, :hangs)

    assert result(network, "up@h") == :ok
    assert result(network, "down@h") == {:error, :unreachable}
    assert result(network, "alone@h") == {:error, :not_distributed}
    assert result(network, "odd@h") == {:error, {:returned, :rubbish}}
    assert {:error, {:crashed, %RuntimeError{}}} = result(network, "bad@h")
    assert result(network, "dead@h", 50) == {:error, :timeout}
  end

  test "a strategy is idle in this VM, which is not alive, only with a connect function of OTP" do
    refute Node.alive?()
    idle? = &Connector.idle?(Config.new!([query: "app.test", node_sname: "app"] ++ &1))
    assert idle?.([])

    for connect <- [{Node, :connect, []}, {:net_kernel, :hidden_connect_node, []}],
        do: assert(idle?.(connect: connect))

    refute idle?.(connect: {__MODULE__, :connect, []})
  end

  test "the disconnect function of the topology is called", %{network: network} do
    :ok = result(network, "up@h")
    config = Config.new!([query: "app.test", node_sname: "app"] ++ FakeNetwork.options(network))
    assert config |> Connector.disconnect("up@h") |> run(5_000) |> Connector.result() == :ok
    assert FakeNetwork.list(network) == []
  end

  test "a list of nodes that are not atoms is an error" do
    listed = &Connector.listed({:ok, &1})
    assert listed.([:a@h]) == {:ok, [:a@h]}

    for rubbish <- [nil, :a@h, ["a@h"], [:a@h | :b@h]],
        do: assert(listed.(rubbish) == {:error, {:returned, rubbish}})
  end
end
