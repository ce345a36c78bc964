defmodule Caravan.Hosts.NetnsTest do
  @moduledoc "Checks the network namespaces that the other tests here use as hosts."
  use ExUnit.Case, async: true

  alias Caravan.Test.Host
  alias Caravan.Test.Netns
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag(:netns)

  @hosts %{a: ["10.77.0.1/24", "fd77::1/64"], b: ["10.77.0.2/24", "fd77::2/64"]}
  @addresses [{10, 77, 0, 2}, {0xFD77, 0, 0, 0, 0, 0, 0, 2}]

  test "packets pass a link until it is cut" do
    net = start_supervised!({Netns, hosts: @hosts})
    a = PeerNode.start!(epmd: false, wrapper: Netns.wrapper(net, :a))
    b = PeerNode.start!(epmd: false, wrapper: Netns.wrapper(net, :b))

    # The process that listens must stay, and accept. Otherwise the backlog fills up, and the kernel drops further
    # connections.
    listen = """
    spawn(fn ->
      {:ok, listener} = :gen_tcp.listen(4001, [:inet6, ipv6_v6only: false])
      for _ <- Stream.cycle([:ok]), do: {:ok, _socket} = :gen_tcp.accept(listener)
    end)
    """

    assert is_pid(PeerNode.eval(b, listen))

    results = fn ->
      for ip <- @addresses do
        case PeerNode.call(a, :gen_tcp, :connect, [ip, 4001, [], 1_500]) do
          {:ok, _socket} -> :ok
          {:error, reason} -> reason
        end
      end
    end

    Host.await(fn -> results.() == [:ok, :ok] end, "a to reach b")

    for {faults, expected} <- [
          {[{:cut, [:a], [:b]}], [:timeout, :timeout]},
          {[{:silent, [hd(@addresses)]}], [:timeout, :ok]},
          {[{:silent, tl(@addresses)}], [:ok, :timeout]},
          {[], [:ok, :ok]}
        ] do
      :ok = Netns.set(net, faults)
      assert results.() == expected
    end

    :ok = Netns.set(net, [{:lose, 99}])
    assert :timeout in results.()

    # The host has no interface of this machine.
    assert {:ok, interfaces} = PeerNode.call(a, :inet, :getifaddrs, [])
    assert Enum.sort(Enum.map(interfaces, &elem(&1, 0))) == [~c"eth0", ~c"lo"]
  end

  test "a VM that was killed leaves no namespace" do
    vm = PeerNode.start!(epmd: false)
    {:ok, net} = PeerNode.call(vm, GenServer, :start, [Netns, @hosts])
    holders = for host <- [:a, :b], do: holder(PeerNode.call(vm, Netns, :wrapper, [net, host]))
    assert Enum.all?(holders, &Host.alive?/1)

    {_, 0} = System.cmd("kill", ["-9", vm.os_pid])
    Host.await(fn -> not Enum.any?(holders, &Host.alive?/1) end, "the namespaces to end")
  end

  defp holder(["nsenter", "--net=/proc/" <> rest, "--"]), do: rest |> String.split("/") |> hd()
end
