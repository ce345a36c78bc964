defmodule Caravan.Epmd.SettingsTest do
  use ExUnit.Case, async: true

  alias Caravan.Epmd
  alias Caravan.Epmd.Settings
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  defp put_env(node, key, value),
    do: :ok = PeerNode.call(node, :application, :set_env, [:caravan, key, value])

  defp export(node, name, value),
    do: true = PeerNode.call(node, :os, :putenv, [to_charlist(name), to_charlist(value)])

  defp dist_port(node, name \\ "app"), do: PeerNode.call(node, Epmd, :dist_port, [name])

  defp listen_port(node, name \\ :app) do
    {:ok, port} = PeerNode.call(node, Epmd, :listen_port_please, [name, ~c"127.0.0.1"])
    port
  end

  defp refusal(node) do
    error = catch_error(PeerNode.call(node, Epmd, :start_link, []))
    assert {:caravan, line} = error
    line
  end

  test "if -proto_dist is there twice, the protocol is the one that OTP uses" do
    name = fn -> PeerNode.name("app", "::1") end
    once = PeerNode.start!(name: name.(), args: ~w(-proto_dist inet6_tcp))
    assert PeerNode.call(once, Settings, :family, []) == :inet6

    twice = PeerNode.start!(name: name.(), args: ~w(-proto_dist inet6_tcp -proto_dist inet6_tls))
    refute PeerNode.call(twice, Settings, :tls?, [])

    # An IPv4 socket refuses connections over IPv6.
    used =
      case :gen_tcp.connect({0, 0, 0, 0, 0, 0, 0, 1}, PeerNode.port(twice), [:inet6]) do
        {:ok, socket} -> :gen_tcp.close(socket) && :inet6
        {:error, :econnrefused} -> :inet
      end

    assert PeerNode.call(twice, Settings, :family, []) == used
  end

  describe "the first place with a setting counts:" do
    test "the environment before the application environment before the default" do
      node = PeerNode.start!()
      assert dist_port(node) == 4370

      put_env(node, :base_port, 5001)
      assert dist_port(node) == 5001
      export(node, "CARAVAN_BASE_PORT", "5002")
      assert dist_port(node) == 5002

      assert dist_port(node, "app-4001") == 4001
      put_env(node, :port_rule, :fixed)
      assert dist_port(node, "app-4001") == 5002
      export(node, "CARAVAN_PORT_RULE", "name")
      assert dist_port(node, "app-4001") == 4001

      [first, second] = [Host.free_port(), Host.free_port()]
      put_env(node, :listen_port, first)
      assert listen_port(node) == first
      export(node, "CARAVAN_LISTEN_PORT", to_string(second))
      assert listen_port(node) == second
      assert dist_port(node) == 5002
    end

    test "VM arguments before all others, in any number of -caravan flags" do
      port = Host.free_port()

      node =
        PeerNode.start!(
          args: ~w(-caravan base_port 5003 port_rule fixed -caravan listen_port #{port}),
          env: [
            {"CARAVAN_BASE_PORT", "5002"},
            {"CARAVAN_PORT_RULE", "name"},
            {"CARAVAN_LISTEN_PORT", "5002"}
          ]
        )

      put_env(node, :base_port, 5001)
      put_env(node, :port_rule, :name)
      put_env(node, :listen_port, 5001)

      assert dist_port(node) == 5003
      assert dist_port(node, "app-4001") == 5003
      assert listen_port(node, :"app-4001") == port
    end

    test "the last of two equal VM arguments" do
      node = PeerNode.start!(args: ~w(-caravan base_port 5003 -caravan base_port 5004))
      assert dist_port(node) == 5004
    end
  end

  test "small numbers are added to base_port" do
    node = PeerNode.start!(args: ~w(-caravan base_port 65530))
    assert dist_port(node) == 65_530
    assert dist_port(node, "app-5") == 65_535
    assert dist_port(node, "app-1024") == 1024
    assert %ArgumentError{} = catch_error(dist_port(node, "app-6"))
  end

  test "port_rule fixed gives the base port to every name but those of temporary nodes" do
    node = PeerNode.start!(args: ~w(-caravan port_rule fixed))

    for name <- ["app", "app-2", "app-4001", "app-70000"],
        do: assert(dist_port(node, name) == 4370)

    assert %ArgumentError{} = catch_error(dist_port(node, "rpc-1f2e-app-4001"))
  end

  test "a temporary node listens on any port, whatever the settings of the main node" do
    env = [{"CARAVAN_LISTEN_PORT", "5001"}, {"CARAVAN_PORT_RULE", "fixed"}]
    node = PeerNode.start!(env: env)
    assert listen_port(node, :"rpc-1f2e-app-4001") == 0
  end

  test "listen_port is the port of the node RELEASE_NODE, and of no other node" do
    where = fn node, name, host ->
      PeerNode.call(node, Epmd, :address_please, [to_charlist(name), to_charlist(host), :inet])
    end

    env = [{"CARAVAN_LISTEN_PORT", "5001"}, {"RELEASE_NODE", "app-4001@192.0.2.1"}]
    node = PeerNode.start!(env: env)
    assert where.(node, "app-4001", "192.0.2.1") == {:ok, {127, 0, 0, 1}, 5001, 6}
    assert where.(node, "app-4001", "192.0.2.2") == {:ok, {192, 0, 2, 2}, 4001, 6}
    assert where.(node, "app-4002", "192.0.2.1") == {:ok, {192, 0, 2, 1}, 4002, 6}

    assert PeerNode.call(node, Epmd, :port_please, [~c"app-4001", ~c"192.0.2.1"]) ==
             {:port, 5001, 6}

    # A node that binds one address is reached there.
    interface = [:kernel, :inet_dist_use_interface, {127, 0, 0, 2}]
    :ok = PeerNode.call(node, :application, :set_env, interface)
    assert where.(node, "app-4001", "192.0.2.1") == {:ok, {127, 0, 0, 2}, 5001, 6}

    # Without listen_port, the node is at the host and the port of its name.
    export(node, "CARAVAN_LISTEN_PORT", "")
    assert where.(node, "app-4001", "192.0.2.1") == {:ok, {192, 0, 2, 1}, 4001, 6}
  end

  test "with short names, RELEASE_NODE is the node on the host of this one" do
    env = [{"CARAVAN_LISTEN_PORT", "5001"}, {"RELEASE_NODE", "app"}]
    node = PeerNode.start!(name: PeerNode.name("rpc-1f2e-app"), env: env)
    where = &PeerNode.call(node, Epmd, :port_please, [~c"app", &1])
    assert where.(~c"127.0.0.1") == {:port, 5001, 6}
    assert where.(~c"127.0.0.2") == {:port, 4370, 6}
  end

  test "the application environment may hold strings, and nil for an unset setting" do
    node = PeerNode.start!()
    put_env(node, :base_port, "5001")
    put_env(node, :port_rule, "fixed")
    put_env(node, :listen_port, nil)
    assert dist_port(node, "app-4001") == 5001
  end

  test "distribution reads the settings when it starts, and keeps them until the next start" do
    node = PeerNode.start!()
    export(node, "CARAVAN_BASE_PORT", "5001")
    PeerNode.call(node, Epmd, :start_link, [])
    export(node, "CARAVAN_BASE_PORT", "5002")
    assert dist_port(node) == 5001
    PeerNode.call(node, Epmd, :start_link, [])
    assert dist_port(node) == 5002
  end

  test "a start that fails leaves the settings unchanged" do
    node = PeerNode.start!()
    export(node, "CARAVAN_BASE_PORT", "abc")
    assert refusal(node)
    export(node, "CARAVAN_BASE_PORT", "5001")
    assert dist_port(node) == 5001

    PeerNode.call(node, Epmd, :start_link, [])
    export(node, "CARAVAN_BASE_PORT", "5002")
    export(node, "CARAVAN_PORT_RULE", "digits")
    assert refusal(node)
    assert dist_port(node) == 5001
    assert PeerNode.call(node, Epmd, :port_please, [~c"app", ~c"h.test"]) == {:port, 5001, 6}
  end

  describe "a setting that does not parse" do
    setup do
      {:ok, node: PeerNode.start!()}
    end

    test "is refused with its place, the expected values and the value found", %{node: node} do
      for value <- ["abc", "0", "-1", "65536", "4370x", "4370 ", "0x1112", "1.5"] do
        export(node, "CARAVAN_BASE_PORT", value)
        line = refusal(node)
        assert line =~ "environment variable CARAVAN_BASE_PORT: expected a port from 1 to 65535"
        assert line =~ value
      end

      PeerNode.call(node, :os, :unsetenv, [~c"CARAVAN_BASE_PORT"])

      for value <- [:abc, 0, 65_536, "abc", 1.5, %{}, []] do
        put_env(node, :listen_port, value)
        line = refusal(node)
        assert line =~ "config :caravan, listen_port: expected a port from 1 to 65535"
      end

      put_env(node, :listen_port, nil)
      put_env(node, :port_rule, :digits)
      line = refusal(node)
      assert line =~ "config :caravan, port_rule: expected name or fixed"
      assert line =~ "digits"
    end

    test "is refused in one readable line for any text", %{node: node} do
      for value <- ["žluť", "４３７０", "4370\n", "\n\n4370"] do
        export(node, "CARAVAN_BASE_PORT", value)
        line = refusal(node)
        assert String.valid?(line)
        refute line =~ "\n"
        assert line =~ "CARAVAN_BASE_PORT"
      end
    end

    test "makes dist_port/1 raise ArgumentError", %{node: node} do
      export(node, "CARAVAN_BASE_PORT", "abc")
      error = catch_error(dist_port(node))
      assert %ArgumentError{message: message} = error
      assert message =~ "CARAVAN_BASE_PORT"
    end

    test "makes connects fail, but does not raise in net_kernel", %{node: node} do
      export(node, "CARAVAN_BASE_PORT", "abc")
      arguments = [~c"app", ~c"127.0.0.1", :inet]
      assert {:error, _reason} = PeerNode.call(node, Epmd, :address_please, arguments)
      assert PeerNode.call(node, Epmd, :port_please, [~c"app", {127, 0, 0, 1}]) == :noport
    end
  end
end
