defmodule Caravan.Epmd.NodesTest do
  use ExUnit.Case, async: true

  import Caravan.Test.Host, only: [forbid_epmd: 1]

  alias Caravan.Epmd
  alias Caravan.Native
  alias Caravan.Test.Command
  alias Caravan.Test.DnsServer
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @connect_at """
  wait = fn wait -> if System.os_time() < moment, do: wait.(wait) end
  wait.(wait)
  :net_kernel.connect_node(other)
  """

  setup :forbid_epmd

  defp start_pair!(host, args \\ []) do
    [a, b] = for x <- ["a", "b"], do: PeerNode.start!(name: PeerNode.name(x, host), args: args)
    {a, b}
  end

  defp connect(from, to), do: PeerNode.call(from, :net_kernel, :connect_node, [to.name])
  defp nodes(node, kind \\ :visible), do: PeerNode.call(node, :erlang, :nodes, [kind])

  # Ends the connection of two nodes, so that the next test starts without one.
  defp disconnect(a, b) do
    # This may take several attempts: a message of :global that is on its way connects the nodes again, and
    # can disconnect them too.
    alone = fn ->
      PeerNode.call(a, :erlang, :disconnect_node, [b.name])
      nodes(a) == [] and nodes(b) == []
    end

    Host.await(alone, "both nodes alone")
  end

  defp assert_connected(a, b) do
    assert nodes(a) == [b.name]
    # The node that accepts the connection may report it a moment later.
    Host.await(fn -> nodes(b) == [a.name] end, "#{b.name} to see #{a.name}")
    assert PeerNode.call(a, :erpc, :call, [b.name, :erlang, :node, []]) == b.name
    assert PeerNode.call(b, :erpc, :call, [a.name, :erlang, :node, []]) == a.name
  end

  # If both nodes dial at once, one of the two attempts is closed a moment later.
  defp assert_one_connection(a, b) do
    ports = [PeerNode.port(a), PeerNode.port(b)]

    for node <- [a, b] do
      Host.await(
        fn ->
          match?(
            [_one],
            for({x, y} <- Host.connections(node.os_pid), x in ports or y in ports, do: x)
          )
        end,
        "one connection of #{node.name}"
      )
    end
  end

  defp assert_both_directions(a, b) do
    assert Host.listening_ports(a.os_pid) == [PeerNode.port(a)]
    assert Host.listening_ports(b.os_pid) == [PeerNode.port(b)]

    assert connect(a, b)
    assert_connected(a, b)
    disconnect(a, b)
    assert connect(b, a)
    assert_connected(b, a)
    disconnect(a, b)
  end

  defp assert_same_moment(a, b, rounds) do
    for _round <- 1..rounds do
      moment = System.os_time() + System.convert_time_unit(20, :millisecond, :native)

      results =
        [{a, b}, {b, a}]
        |> Enum.map(fn {from, to} ->
          Task.async(PeerNode, :eval, [from, @connect_at, [moment: moment, other: to.name]])
        end)
        |> Task.await_many(30_000)

      assert results == [true, true]
      assert_connected(a, b)
      assert_one_connection(a, b)
      disconnect(a, b)
    end
  end

  describe "two nodes connect in both directions" do
    test "over IPv4" do
      {a, b} = start_pair!("127.0.0.1")
      assert_both_directions(a, b)
      assert_same_moment(a, b, 50)
    end

    test "over IPv6" do
      {a, b} = start_pair!("::1", ~w(-proto_dist inet6_tcp))
      assert_both_directions(a, b)
      assert_same_moment(a, b, 10)
    end

    test "over TLS, with verified certificates" do
      {a, b} = start_pair!("127.0.0.1", PeerNode.tls_args())

      assert_both_directions(a, b)
      assert_same_moment(a, b, 10)

      # A node without TLS cannot connect. This shows that the others use TLS.
      plain = PeerNode.start!(name: PeerNode.name("plain"))
      refute connect(plain, a)
    end

    test "with short names" do
      [a, b] = for x <- ["a", "b"], do: PeerNode.start!(name: "#{x}-#{Host.free_port()}")
      assert_both_directions(a, b)
    end
  end

  describe "a node" do
    test "that is hidden connects and stays hidden" do
      a = PeerNode.start!(name: PeerNode.name("a"), args: ~w(-hidden))
      b = PeerNode.start!(name: PeerNode.name("b"))

      assert connect(a, b)
      Host.await(fn -> nodes(b, :hidden) == [a.name] end, "#{b.name} to see #{a.name}")
      assert nodes(b) == []
      assert PeerNode.call(b, :net_adm, :names, []) == {:ok, [entry(b), entry(a)]}
    end

    test "that does not listen connects to one that does" do
      args = ~w(-dist_listen false)
      a = PeerNode.start!(name: "a-70000@127.0.0.1", args: args)
      b = PeerNode.start!(name: PeerNode.name("b"))

      assert Host.listening_ports(a.os_pid) == []
      assert connect(a, b)
      assert PeerNode.call(b, :erpc, :call, [a.name, :erlang, :node, []]) == a.name
    end

    test "with OTP's own epmd module and -erl_epmd_port connects, in both directions" do
      # With -erl_epmd_port, OTP expects all nodes on one port, so each node has another address.
      port = Host.free_port()
      use = &["-kernel", "inet_dist_use_interface", &1]
      a = PeerNode.start!(name: "a-#{port}@127.0.0.1", args: use.("{127,0,0,1}"))

      b =
        PeerNode.start!(
          name: "b-#{port}@127.0.0.2",
          epmd: false,
          args: ["-erl_epmd_port", "#{port}"] ++ use.("{127,0,0,2}"),
          # No epmd daemon can run at this address. Otherwise, the node would register there.
          env: [{"ERL_EPMD_PORT", "#{Host.free_port()}"}]
        )

      assert PeerNode.call(a, :net_kernel, :epmd_module, []) == Epmd
      assert PeerNode.call(b, :net_kernel, :epmd_module, []) == :erl_epmd
      assert_both_directions(a, b)
    end

    test "that listens on another port than that of its name is reached through a port mapping" do
      [outside, inside] = [Host.free_port(), Host.free_port()]
      args = ~w(-caravan listen_port #{inside})
      a = PeerNode.start!(name: "a-#{outside}@127.0.0.1", args: args)
      b = PeerNode.start!(name: PeerNode.name("b"))
      assert Host.listening_ports(a.os_pid) == [inside]

      refute connect(b, a)
      start_supervised!({Task, fn -> map_port(outside, inside) end})
      assert Host.await(fn -> connect(b, a) end, "a connection through the mapped port")
      assert_connected(b, a)
    end

    test "that cannot reach a name keeps its distribution" do
      a = PeerNode.start!(name: PeerNode.name("a"))
      b = PeerNode.start!(name: PeerNode.name("b"))
      kernel = PeerNode.call(a, :erlang, :whereis, [:net_kernel])

      for name <- [
            "unknown-#{Host.free_port()}@127.0.0.1",
            "app-70000@127.0.0.1",
            "app@nonexistent.invalid",
            "rpc-1f2e-app-4001@127.0.0.1",
            "app-4001@::1",
            "žluť@127.0.0.1",
            "app@žluť.invalid",
            "@",
            "app-4001@"
          ] do
        assert PeerNode.call(a, :net_kernel, :connect_node, [String.to_atom(name)]) == false
      end

      assert PeerNode.call(a, :erlang, :whereis, [:net_kernel]) == kernel
      assert connect(a, b)
    end

    @tag Requirements.tag(:erl_call)
    test "accepts erl_call" do
      a = PeerNode.start!(name: PeerNode.name("a"))
      address = "127.0.0.1:#{PeerNode.port(a)}"
      call = ["erl_call", "-address", address, "-c", "caravan_test", "-a", "erlang node"]

      assert %{status: 0, stdout: stdout} = Command.run(call)
      assert stdout =~ "#{a.name}"
    end

    @otp System.otp_release() |> String.to_integer()
    @tag skip: @otp < 27 && "OTP #{@otp} has no kernel parameter epmd_module"
    test "takes the module from kernel's parameter epmd_module" do
      args = ["-start_epmd", "false", "-kernel", "epmd_module", "'Elixir.Caravan.Epmd'"]
      a = PeerNode.start!(name: PeerNode.name("a"), epmd: false, args: args)
      b = PeerNode.start!(name: PeerNode.name("b"))

      assert PeerNode.call(a, :net_kernel, :epmd_module, []) == Epmd
      assert_both_directions(a, b)
    end
  end

  describe "a node that is started again under its name" do
    test "has another creation, and the pids of its previous run are dead" do
      name = PeerNode.name("b")
      a = PeerNode.start!(name: PeerNode.name("a"))

      lives =
        for _life <- 1..4 do
          b = PeerNode.start!(name: name)
          assert connect(a, b)
          # The same process has the same number in each run. Only the creation differs.
          init = PeerNode.call(a, :erpc, :call, [b.name, :erlang, :whereis, [:init]])
          creation = PeerNode.call(b, :erlang, :system_info, [:creation])
          PeerNode.stop!(b)
          Host.await(fn -> nodes(a) == [] end, "#{name} gone")
          {creation, init}
        end

      {creations, pids} = Enum.unzip(lives)
      assert length(Enum.uniq(creations)) == 4
      assert Enum.all?(creations, &(&1 > 4))

      b = PeerNode.start!(name: name)
      assert connect(a, b)
      assert PeerNode.call(a, :erpc, :call, [b.name, :erlang, :whereis, [:init]]) not in pids

      # The node itself reports whether a process is alive.
      down = """
      for pid <- pids do
        ref = Process.monitor(pid)

        receive do
          {:DOWN, ^ref, _, _, reason} -> reason
        after
          10_000 -> :alive
        end
      end
      """

      assert Enum.uniq(PeerNode.eval(a, down, pids: pids)) == [:noproc]
    end
  end

  describe "Node.start/2 and Node.stop/0" do
    setup do
      {:ok, node: PeerNode.start!(), name: PeerNode.name("late") |> String.to_atom()}
    end

    test "let a VM start under one name, stop, and start under another", %{node: node, name: name} do
      other = PeerNode.start!(name: PeerNode.name("other"))

      for name <- [name, PeerNode.name("later") |> String.to_atom(), name] do
        assert {:ok, _pid} = PeerNode.call(node, Node, :start, [name])
        assert Host.listening_ports(node.os_pid) == [PeerNode.port(Atom.to_string(name))]
        assert PeerNode.call(node, :erlang, :set_cookie, [:caravan_test])
        assert connect(node, other)
        sees = fn -> PeerNode.call(other, :erlang, :nodes, []) == [name] end
        Host.await(sees, "#{other.name} to see #{name}")

        assert PeerNode.call(node, Node, :stop, []) == :ok
        assert Host.listening_ports(node.os_pid) == []
        Host.await(fn -> nodes(other) == [] end, "#{name} gone")
      end
    end

    test "a stopped node is no longer among the names", %{node: node, name: name} do
      assert {:ok, _pid} = PeerNode.call(node, Node, :start, [name])
      assert {:ok, [_name]} = PeerNode.call(node, :net_adm, :names, [])
      assert PeerNode.call(node, Node, :stop, []) == :ok
      assert PeerNode.call(node, :net_adm, :names, []) == {:ok, []}
    end

    test "a port in use is an error, and the VM keeps running", %{node: node, name: name} do
      port = Host.free_port()
      {:ok, socket} = :gen_tcp.listen(port, [])
      taken = :"taken-#{port}@127.0.0.1"
      assert {:error, _reason} = PeerNode.call(node, Node, :start, [taken])
      refute PeerNode.call(node, Node, :alive?, [])
      :gen_tcp.close(socket)

      assert {:ok, _pid} = PeerNode.call(node, Node, :start, [taken])
      assert PeerNode.call(node, Node, :stop, []) == :ok
      assert {:ok, _pid} = PeerNode.call(node, Node, :start, [name])
    end

    test "a name without a port is an error, and the VM keeps running", %{node: node, name: name} do
      assert {:error, _reason} = PeerNode.call(node, Node, :start, [:"late-70000@127.0.0.1"])
      assert {:ok, _pid} = PeerNode.call(node, Node, :start, [name])
    end

    test "a setting that does not parse is an error, and the VM keeps running", context do
      %{node: node, name: name} = context
      PeerNode.call(node, System, :put_env, ["CARAVAN_BASE_PORT", "abc"])
      assert {:error, reason} = PeerNode.call(node, Node, :start, [name])
      assert inspect(reason) =~ "CARAVAN_BASE_PORT: expected a port"

      PeerNode.call(node, System, :put_env, ["CARAVAN_BASE_PORT", "4370"])
      assert {:ok, _pid} = PeerNode.call(node, Node, :start, [name])
    end
  end

  describe ":net_adm.names/0 and /1" do
    test "return this node and its connected nodes, for any name of this host" do
      {a, b} = start_pair!("127.0.0.1")
      assert PeerNode.call(a, :net_adm, :names, []) == {:ok, [entry(a)]}

      assert connect(a, b)
      assert PeerNode.call(a, :net_adm, :names, []) == {:ok, [entry(a), entry(b)]}

      {:ok, hostname} = :inet.gethostname()

      for host <- [~c"localhost", :localhost, ~c"127.0.0.1", {127, 0, 0, 1}, hostname] do
        assert PeerNode.call(a, :net_adm, :names, [host]) == {:ok, [entry(a), entry(b)]}
      end

      PeerNode.stop!(b)
      alone = fn -> PeerNode.call(a, :net_adm, :names, []) == {:ok, [entry(a)]} end
      Host.await(alone, "the node that ended to be gone from the names")
    end

    test "return the connected nodes of another host" do
      port = Host.free_port()
      use = &["-kernel", "inet_dist_use_interface", &1]
      a = PeerNode.start!(name: "a-#{port}@127.0.0.1", args: use.("{127,0,0,1}"))
      b = PeerNode.start!(name: "b-#{port}@127.0.0.2", args: use.("{127,0,0,2}"))

      for host <- [~c"127.0.0.2", :"127.0.0.2", {127, 0, 0, 2}] do
        assert PeerNode.call(a, :net_adm, :names, [host]) == {:error, :address}
      end

      assert connect(a, b)

      for host <- [~c"127.0.0.2", :"127.0.0.2", {127, 0, 0, 2}] do
        assert PeerNode.call(a, :net_adm, :names, [host]) == {:ok, [entry(b)]}
      end

      assert PeerNode.call(a, :net_adm, :names, [~c"nonexistent.invalid"]) == {:error, :address}
      assert PeerNode.call(a, :net_adm, :names, []) == {:ok, [entry(a)]}
    end
  end

  describe "a reload of Caravan.Native in a running node" do
    test "disturbs neither lookups nor connects" do
      server = start_supervised!({DnsServer, answers: [{"a.test", :a, [{127, 0, 0, 1}]}]})
      options = [nameservers: [DnsServer.address(server)]]
      {a, b} = start_pair!("127.0.0.1")
      kernel = PeerNode.call(a, :erlang, :whereis, [:net_kernel])

      # Lookups in flight hold the library that the reload would unload.
      PeerNode.call(a, Caravan.Dns, :lookup, ["a.test", :a, options])

      for round <- 1..10 do
        lookups =
          for _ <- 1..4,
              do: Task.async(PeerNode, :call, [a, Caravan.Dns, :lookup, ["a.test", :a, options]])

        connects = Task.async(fn -> {connect(a, b), disconnect(a, b)} end)
        assert {:module, Native} = reload(a, round)

        assert Enum.all?(
                 Task.await_many(lookups, 60_000),
                 &match?({:ok, %{records: [{127, 0, 0, 1}]}}, &1)
               )

        assert {true, _disconnected} = Task.await(connects, 60_000)
        assert PeerNode.call(a, Epmd, :dist_port, ["app-4001"]) == 4001
      end

      assert PeerNode.call(a, :erlang, :whereis, [:net_kernel]) == kernel
    end

    defp reload(node, round) when rem(round, 2) == 0, do: PeerNode.call(node, :c, :l, [Native])

    defp reload(node, _round) do
      PeerNode.call(node, :code, :purge, [Native])
      PeerNode.call(node, :code, :load_file, [Native])
    end
  end

  defp entry(node) do
    [name, _host] = node.name |> Atom.to_string() |> String.split("@")
    {to_charlist(name), PeerNode.port(node)}
  end

  # Maps a port, as a container runtime does with `-p outside:inside`.
  defp map_port(outside, inside) do
    options = [:binary, active: true, reuseaddr: true, ip: {127, 0, 0, 1}]
    {:ok, listener} = :gen_tcp.listen(outside, options)
    {:ok, client} = :gen_tcp.accept(listener)
    {:ok, node} = :gen_tcp.connect({127, 0, 0, 1}, inside, [:binary, active: true])
    relay(%{client => node, node => client})
  end

  defp relay(other) do
    receive do
      {:tcp, socket, bytes} ->
        :ok = :gen_tcp.send(other[socket], bytes)
        relay(other)

      {:tcp_closed, socket} ->
        :gen_tcp.close(other[socket])
    end
  end
end
