defmodule Caravan.Cluster.ReportTest do
  # Not async: other tests would capture its lines.
  use ExUnit.Case

  import ExUnit.CaptureLog

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.DnsStrategy.StartReport
  alias Caravan.Cluster.Report

  @source {"a.test", :srv}

  # A handler of Erlang's logger, which sends the metadata to the test.
  def log(%{meta: %{topology: topology} = metadata}, %{config: %{test: test, topology: topology}}),
    do: send(test, {:metadata, metadata})

  def log(_event, _handler), do: :ok

  setup context do
    handler = %{config: %{test: self(), topology: context.test}}
    :ok = :logger.add_handler(context.test, __MODULE__, handler)
    on_exit(fn -> :logger.remove_handler(context.test) end)
    %{config: Config.new!(topology: context.test, query: "a.test", node_sname: "app")}
  end

  defp metadata(fun) do
    capture_log(fun)
    assert_received {:metadata, metadata}
    assert metadata.domain == [:elixir, :caravan]
    {metadata[:node], metadata[:check]}
  end

  defp reported(config, report),
    do: metadata(fn -> Report.report(config, report, %{members: 1, connected: 1}) end)

  test "a line about a node has the node as metadata", %{config: config} do
    name = "nonode@nohost"
    assert reported(config, {:nodes_up, [name], nil}) == {name, nil}
    assert reported(config, {:nodes_down, [name], nil}) == {name, nil}

    assert metadata(fn -> Report.disconnected(config, name, {:error, :timeout}, 1) end) ==
             {name, nil}
  end

  test "a line about a problem has the id of its check as metadata", %{config: config} do
    name = "nonode@nohost"
    diagnosed = fn finding -> metadata(fn -> Report.diagnosed(config, name, finding, 1) end) end
    assert diagnosed.({:refused, "h:1"}) == {name, "peer.refused"}
    assert diagnosed.({:unresolvable, "h"}) == {name, "peer.resolve"}

    failed = fn reason -> metadata(fn -> Report.connect_failed(config, name, reason) end) end
    assert failed.(:not_distributed) == {name, "node.alive"}
    assert failed.(:timeout) == {name, "peer.connected"}

    assert reported(config, {:lookup_failed, @source, {:timeout, "no"}}) == {nil, "dns.lookup"}
    assert reported(config, {:lookup_failed, @source, {:nxdomain, "no"}}) == {nil, "dns.empty"}
    assert reported(config, {:limit, :max_nodes, 1}) == {nil, "dns.names"}
    assert metadata(fn -> StartReport.log(config) end) == {nil, "node.alive"}
  end

  test "a failed lookup names all nameservers, unless the error names the only one", %{
    config: config
  } do
    failed = {:lookup_failed, @source, {:timeout, "no answer"}}

    line = fn config ->
      capture_log(fn -> Report.report(config, failed, %{members: 0, connected: 0}) end)
    end

    assert line.(config) =~ "no answer. Nameservers: those of /etc/resolv.conf"
    nameservers = ["10.0.0.2:53", "tls://10.0.0.3#dns.example"]

    assert line.(%{config | nameservers: nameservers}) =~
             "no answer. Nameservers: #{Enum.join(nameservers, ", ")}"

    assert line.(%{config | nameservers: ["10.0.0.2:53"]}) =~ "no answer\n"
    assert line.(%{config | dns_client: Client}) =~ "no answer\n"
  end

  test "a refused connection names the settings that give the port, if the name has no number",
       %{config: config} do
    line = fn config, name, finding ->
      _ = String.to_atom(name)
      capture_log(fn -> Report.diagnosed(config, name, finding, 1) end)
    end

    hint = "This node has base_port 4370 and port_rule name, from which the port follows"

    assert line.(config, "app@refused", {:refused, "h:1"}) =~
             "nothing listens on h:1: the node is down, or has another port. #{hint}"

    refute line.(config, "app-4001@refused", {:refused, "h:1"}) =~ hint
    refute line.(config, "app@refused", {:no_reply, "h:1"}) =~ hint
    refute line.(%{config | ports: :srv}, "app@refused", {:refused, "h:1"}) =~ hint
  end
end
