defmodule Caravan.Cluster.Distribution.ProbeTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.Probe
  alias Caravan.Test.Cluster
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  defp config(options \\ []), do: Config.new!([query: "app.test", node_sname: "app"] ++ options)

  defp find(node, name, timeout \\ 2_000, every \\ 2_000),
    do: PeerNode.call(node, Probe, :find, [to_string(name), timeout, every])

  for {title, tls?} <- [{"TCP", false}, {"TLS", true}] do
    test "over #{title}, a node that is probed logs nothing, and can be connected" do
      args = if unquote(tls?), do: PeerNode.tls_args(), else: []

      [a, b] =
        for name <- ["a", "b"],
            do: PeerNode.start!(name: PeerNode.name(name), args: args)

      # The supervisors of TLS log each of their processes with the level :info.
      log = Cluster.log_of(b, :notice)
      processes = fn -> PeerNode.call(b, :erlang, :system_info, [:process_count]) end
      before = processes.()
      for _ <- 1..100, do: assert({:accepted, _where} = find(a, b.name))

      # The other node has handled the probes when it has handled this connection.
      assert PeerNode.call(a, :net_kernel, :connect_node, [b.name])
      assert PeerNode.call(a, :erlang, :nodes, []) == [b.name]
      Host.await(fn -> processes.() < before + 30 end, "the end of all processes")
      assert log.() == ""
    end
  end

  test "a port that refuses is found at once, and each attempt ends with the probe" do
    node = PeerNode.start!(name: PeerNode.name("a"))
    closed = Host.free_port()
    where = "127.0.0.1:#{closed}"
    assert find(node, "app-#{closed}@127.0.0.1") == {:refused, where}
    assert find(node, "app-#{closed}@127.0.0.1", 60_000, 10) == {:refused, where}
  end

  test "without a reply, a new attempt begins every few milliseconds, until one of them is accepted" do
    node = PeerNode.start!(name: PeerNode.name("a"))

    # Linux drops further connects if the queue of a listener is full.
    {:ok, listener} = :gen_tcp.listen(0, ip: {127, 0, 0, 1}, backlog: 0, active: false)
    {:ok, port} = :inet.port(listener)
    full = fill(port, [])
    name = "app-#{port}@127.0.0.1"
    sockets = fn -> length(PeerNode.call(node, :erlang, :ports, [])) end
    before = sockets.()

    assert find(node, name, 300, 20) == {:no_reply, "127.0.0.1:#{port}"}
    Host.await(fn -> sockets.() <= before end, "the end of all attempts")

    probe = Task.async(fn -> find(node, name, 25_000, 20) end)
    Host.await(fn -> sockets.() > before + 5 end, "attempts")
    for _ <- 0..length(full), do: {:ok, _} = :gen_tcp.accept(listener)
    assert Task.await(probe, 30_000) == {:accepted, "127.0.0.1:#{port}"}
    Host.await(fn -> sockets.() <= before end, "the end of all attempts")
  end

  # Connects until the queue is full. Returns the sockets.
  defp fill(port, sockets) do
    case :gen_tcp.connect({127, 0, 0, 1}, port, [], 1_000) do
      {:ok, socket} -> fill(port, [socket | sockets])
      {:error, :timeout} -> sockets
    end
  end

  test "a probe is possible only where it does what the connect function does" do
    refute Probe.possible?(config())
    possible? = &PeerNode.call(&1, Probe, :possible?, [config(&2)])
    node = PeerNode.start!(name: PeerNode.name("a"))
    assert possible?.(node, [])
    assert possible?.(node, connect: {:net_kernel, :hidden_connect_node, []})
    refute possible?.(node, connect: {Some.Module, :connect, []})
    refute possible?.(PeerNode.start!(name: nil), [])

    # These VMs are not alive, so they need no module for the protocol. Only the argument is read.
    for {protocol, tcp?} <- [inet_tcp: true, inet6_tls: true, custom: false] do
      node = PeerNode.start!(args: ~w(-proto_dist #{protocol}))
      assert PeerNode.call(node, Caravan.Epmd.Settings, :tcp?, []) == tcp?
    end
  end
end
