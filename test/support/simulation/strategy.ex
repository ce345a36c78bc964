defmodule Caravan.Test.Strategy do
  @moduledoc """
  A strategy in this VM that queries a `DnsServer` and dials in a `FakeNetwork`.

      import Caravan.Test.Strategy
      setup :start_servers

  The test process gets the messages of the server and of the network.
  """

  import ExUnit.Assertions
  import ExUnit.Callbacks, only: [start_supervised!: 1]

  alias Caravan.Cluster.DnsStrategy
  alias Caravan.Test.DnsServer
  alias Caravan.Test.FakeNetwork

  @doc "Starts the nameserver and the network, for `setup`. The topology is named after the test."
  @spec start_servers(map) :: map
  def start_servers(context) do
    server = start_supervised!(DnsServer)
    network = start_supervised!({FakeNetwork, self()})
    DnsServer.subscribe(server)
    %{server: server, network: network, topology: context.test}
  end

  @doc "Starts a strategy. `options` override those of `options/2`."
  @spec start(map, keyword) :: pid
  def start(context, options \\ []),
    do: start_supervised!({DnsStrategy, options(context, options)})

  @doc "Returns the options of a strategy that looks up `_app._tcp.test`."
  @spec options(map, keyword) :: keyword
  def options(context, options \\ []) do
    [
      query: "_app._tcp.test",
      node_sname: "app",
      nameservers: [DnsServer.address(context.server)],
      lookup_timeout: 2_000,
      poll_interval: 100,
      topology: context.topology
    ]
    |> Keyword.merge(FakeNetwork.options(context.network))
    |> Keyword.merge(options)
  end

  @doc "Returns an SRV record for `DnsServer`."
  @spec srv(:inet.port_number(), String.t()) :: tuple
  def srv(port, host \\ "node.test"), do: {0, 0, port, host}

  @doc "Waits for two more queries. Then the strategy has handled the answer that came before this call."
  @spec await_round() :: {:dns_query, map}
  def await_round do
    flush_queries()
    assert_receive {:dns_query, _}, 5_000
    assert_receive {:dns_query, _}, 5_000
  end

  @doc "Deletes the messages about queries that have come so far."
  @spec flush_queries() :: :ok
  def flush_queries do
    receive do
      {:dns_query, _} -> flush_queries()
    after
      0 -> :ok
    end
  end
end
