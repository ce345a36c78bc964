defmodule Caravan.Cluster.ConnectorTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Connector
  alias Caravan.Cluster.Job
  alias Caravan.Test.FakeNetwork

  setup do
    %{network: start_supervised!({FakeNetwork, self()})}
  end

  defp result(network, name, timeout \\ 5_000) do
    config = Config.new!([query: "app.test", node_sname: "app"] ++ FakeNetwork.options(network))
    config |> Connector.connect(name) |> Job.run(timeout) |> Connector.result()
  end

  test "tells what became of a connect", %{network: network} do
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

  test "disconnects by the function of the topology", %{network: network} do
    :ok = result(network, "up@h")
    config = Config.new!([query: "app.test", node_sname: "app"] ++ FakeNetwork.options(network))
    assert config |> Connector.disconnect("up@h") |> Job.run(5_000) |> Connector.result() == :ok
    assert FakeNetwork.list(network) == []
  end
end
