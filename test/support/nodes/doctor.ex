defmodule Caravan.Test.Doctor do
  @moduledoc "Runs `Caravan.Doctor` on a node under test."

  import ExUnit.Assertions, only: [assert: 1]
  import ExUnit.Callbacks, only: [start_supervised!: 2]

  alias Caravan.Test.DnsServer
  alias Caravan.Test.PeerNode

  @doc "Returns the report of a node."
  @spec report(PeerNode.t(), keyword) :: Caravan.Doctor.Report.t()
  def report(node, options \\ []), do: PeerNode.call(node, Caravan.Doctor, :report, [options])

  @doc "Returns the warnings and failures of a report, each as `{status, id, seen}`. Fails if a check has crashed."
  @spec findings(Caravan.Doctor.Report.t()) :: [{String.t(), String.t(), String.t()}]
  def findings(%{checks: checks}) do
    assert for(%{seen: "the check crashed" <> _} = check <- checks, do: check) == []

    for %{status: status} = check <- checks,
        status in ["warning", "failed"],
        do: {status, check.id, check.seen}
  end

  @doc "Returns the check of this id in a report."
  @spec check(Caravan.Doctor.Report.t(), String.t()) :: map
  def check(%{checks: checks}, id) do
    [check] = Enum.filter(checks, &(&1.id == id))
    check
  end

  @doc "Returns the environment that the script of a release sets for `eval`. Variables in `more` take precedence."
  @spec eval_env(String.t(), [{String.t(), String.t()}]) :: [{String.t(), String.t()}]
  def eval_env(name, more \\ []) do
    env = [
      {"RELEASE_COMMAND", "eval"},
      {"RELEASE_DISTRIBUTION", "name"},
      {"RELEASE_NODE", name}
    ]

    Enum.uniq_by(more ++ env, &elem(&1, 0))
  end

  @query "_app._tcp.test"

  @doc """
  Starts a node. Returns the node, and the options of a topology. In DNS, the topology has an SRV record for the port of
  the node and for each port of `ports`. A record means the node `app-PORT@127.0.0.1`.
  """
  @spec node_with_members([:inet.port_number()], keyword) :: {PeerNode.t(), keyword}
  def node_with_members(ports, options \\ []) do
    name = PeerNode.name("app")
    server = start_server([PeerNode.port(name) | ports])
    node = PeerNode.start!([name: name] ++ options)
    {node, strategy(server)}
  end

  @doc "Starts a nameserver with SRV records of these ports."
  @spec start_server([:inet.port_number()]) :: pid
  def start_server(ports) do
    records = for port <- ports, do: {0, 0, port, "host.test"}
    answers = [{@query, :srv, records}, {"host.test", :a, [{127, 0, 0, 1}]}]
    start_supervised!({DnsServer, answers: answers}, id: make_ref())
  end

  @doc "Returns the options of a topology that asks this nameserver."
  @spec strategy(pid) :: keyword
  def strategy(server) do
    [
      query: @query,
      node_sname: "app",
      node_name: "{name}-{port}@127.0.0.1",
      nameservers: [DnsServer.address(server)]
    ]
  end
end
