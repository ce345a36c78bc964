defmodule Caravan.Cluster.SilentResolverTest do
  use ExUnit.Case, async: true

  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements
  alias Caravan.Test.SystemFiles

  @moduletag Requirements.tag(:system_files)

  # net_kernel sends the ticks, without which other nodes take this one for dead.
  test "net_kernel does not wait for the resolver of the host to dial members without addresses" do
    %{node: node} =
      system =
      SystemFiles.start!(
        resolv_conf: "nameserver 127.0.0.1\n",
        hosts: "",
        node: [name: "app-4001@127.0.0.1"]
      )

    SystemFiles.nameserver!(system, :of_the_host, ip: {127, 0, 0, 1})
    SystemFiles.server(system, :of_the_host, :put_default, [:silent])

    # The targets have no addresses, so the hosts of the members are left to the resolver of the host.
    records = for n <- 1..20, do: {0, 0, 4001, "host#{n}.test"}
    agent = [ip: {127, 0, 0, 2}, answers: [{"app.test", :srv, records}]]
    SystemFiles.nameserver!(system, :agent, agent)

    code = """
    {:ok, pid} = Caravan.Cluster.DnsStrategy.start_link(options)
    Process.unlink(pid)

    slowest =
      for _ <- 1..30 do
        Process.sleep(100)
        {time, _ticktime} = :timer.tc(:net_kernel, :get_net_ticktime, [])
        div(time, 1000)
      end
      |> Enum.max()

    {:ok, status} = Caravan.Cluster.status(:app)
    {slowest, length(status.missing)}
    """

    options = [topology: :app, query: "app.test", node_sname: "app", nameservers: ["127.0.0.2"]]
    assert {slowest, 20} = PeerNode.eval(node, code, options: options)
    assert slowest < 5_000, "net_kernel was busy for #{slowest} ms"
  end
end
