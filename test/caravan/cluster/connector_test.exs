defmodule Caravan.Cluster.ConnectorTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Connector
  alias Caravan.Test.FakeNetwork

  setup do
    network = start_supervised!({FakeNetwork, self()})
    %{network: network}
  end

  defp connector(network, options \\ []) do
    [query: "app.test", node_sname: "app"]
    |> Keyword.merge(FakeNetwork.options(network))
    |> Keyword.merge(options)
    |> Config.new!()
    |> Connector.new()
  end

  # Hands messages on until `count` connects have ended.
  defp results(connector, count, results \\ %{})
  defp results(connector, 0, results), do: {results, connector}

  defp results(connector, count, results) do
    receive do
      {:connect, _node} ->
        results(connector, count, results)

      message ->
        case Connector.handle(connector, message) do
          :unknown ->
            results(connector, count, results)

          {name, result, connector} ->
            results(connector, count - 1, Map.put(results, name, result))
        end
    after
      5_000 -> flunk("#{count} connects did not end")
    end
  end

  test "tells what became of each connect", %{network: network} do
    FakeNetwork.behave(network, :down@h, :unreachable)
    FakeNetwork.behave(network, :alone@h, {:returns, :ignored})
    FakeNetwork.behave(network, :odd@h, {:returns, :rubbish})
    FakeNetwork.behave(network, :bad@h, :raises)
    FakeNetwork.behave(network, :dead@h, :hangs)

    names = ~w(up@h down@h alone@h odd@h bad@h dead@h)
    connector = network |> connector(connect_timeout: 2_000) |> Connector.connect(names)
    assert Connector.names(connector) == MapSet.new(names)
    {results, connector} = results(connector, length(names))

    assert %{
             "up@h" => :ok,
             "down@h" => {:error, :unreachable},
             "alone@h" => {:error, :not_distributed},
             "odd@h" => {:error, {:returned, :rubbish}},
             "bad@h" => {:error, {:crashed, %RuntimeError{}}},
             "dead@h" => {:error, :timeout}
           } = results

    assert Connector.names(connector) == MapSet.new()
  end

  test "dead addresses first in the list delay nobody", %{network: network} do
    dead = for n <- 1..20, do: "dead#{n}@h"
    for name <- dead, do: FakeNetwork.behave(network, String.to_atom(name), :hangs)

    connector =
      network |> connector(connect_timeout: 60_000) |> Connector.connect(dead ++ ["live@h"])

    {results, connector} = results(connector, 1)
    assert results == %{"live@h" => :ok}
    assert MapSet.size(Connector.names(connector)) == 20
  end

  test "no more than :max_connects run at once, and the rest have their turn", %{network: network} do
    for n <- 1..3, do: FakeNetwork.behave(network, :"dead#{n}@h", :hangs)

    connector =
      network
      |> connector(connect_timeout: 1_000, max_connects: 2)
      |> Connector.connect(~w(dead1@h dead2@h dead3@h live@h))

    assert_receive {:connect, first}
    assert_receive {:connect, second}
    assert Enum.sort([first, second]) == [:dead1@h, :dead2@h]
    refute_received {:connect, _}

    {results, _connector} = results(connector, 4)
    assert results["live@h"] == :ok
    assert results["dead3@h"] == {:error, :timeout}
  end

  test "messages of nobody are left to others", %{network: network} do
    connector = connector(network)
    assert Connector.handle(connector, :hello) == :unknown
    assert Connector.handle(connector, {:DOWN, make_ref(), :process, self(), :normal}) == :unknown
  end
end
