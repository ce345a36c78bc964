defmodule Caravan.Doctor.ListenerTest do
  use ExUnit.Case, async: true

  alias Caravan.Doctor.Listener
  alias Caravan.Test.Host

  test "finds the program that listens on a port, over IPv4 and IPv6" do
    for {ip, family} <- [{{127, 0, 0, 1}, :inet}, {{0, 0, 0, 0, 0, 0, 0, 1}, :inet6}] do
      port = Host.free_port()
      {:ok, socket} = :gen_tcp.listen(port, [family, ip: ip])
      assert Listener.find(port) =~ ~r/\A\S+ \(pid #{System.pid()}\)\z/
      :ok = :gen_tcp.close(socket)
      assert Listener.find(port) == nil
    end
  end

  test "does not find a program whose socket on the port is connected, but does not listen" do
    port = Host.free_port()
    {:ok, listener} = :gen_tcp.listen(port, ip: {127, 0, 0, 1})
    {:ok, _client} = :gen_tcp.connect({127, 0, 0, 1}, port, [])
    {:ok, _accepted} = :gen_tcp.accept(listener)
    :ok = :gen_tcp.close(listener)
    assert Listener.find(port) == nil
  end
end
