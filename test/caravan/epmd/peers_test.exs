defmodule Caravan.Epmd.PeersTest do
  # Each test starts a VM, because a VM has one table.
  use ExUnit.Case, async: true

  alias Caravan.Epmd
  alias Caravan.Epmd.Peers
  alias Caravan.Native
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  @v4 {10, 77, 0, 7}
  @v6 {0xFD77, 0, 0, 0, 0, 0, 0, 7}

  setup do
    {:ok, node: PeerNode.start!()}
  end

  defp put(node, topology, entries), do: PeerNode.call(node, Peers, :put, [topology, entries])
  defp delete(node, topology), do: PeerNode.call(node, Peers, :delete, [topology])
  defp list(node), do: PeerNode.call(node, Peers, :list, [])

  defp address(node, name, host, family \\ :inet),
    do: PeerNode.call(node, Epmd, :address_please, [to_charlist(name), to_charlist(host), family])

  defp port(node, name, host), do: PeerNode.call(node, Epmd, :port_please, [~c"#{name}", host])

  defp names(count), do: for(n <- 1..count, do: {"app-#{n}@node#{n}.test", 25_000, [@v4]})

  describe "put/2 and delete/1" do
    test "replace and delete the entries of one topology only", %{node: node} do
      assert list(node) == []
      assert put(node, :one, [{"b@h.test", nil, []}, {"a@h.test", 4001, [@v4, @v6]}]) == :ok
      assert put(node, :two, [{"c@h.test", 65_535, [@v6]}]) == :ok

      assert list(node) == [
               {"a@h.test", 4001, [@v4, @v6]},
               {"b@h.test", nil, []},
               {"c@h.test", 65_535, [@v6]}
             ]

      assert put(node, :one, [{"b@h.test", 1, []}]) == :ok
      assert list(node) == [{"b@h.test", 1, []}, {"c@h.test", 65_535, [@v6]}]
      assert delete(node, :one) == :ok
      assert delete(node, :never_there) == :ok
      assert list(node) == [{"c@h.test", 65_535, [@v6]}]
      assert put(node, :two, []) == :ok
      assert list(node) == []
    end

    test "use the entry that was put last, until it is deleted", %{node: node} do
      for {topology, port} <- [one: 1, two: 2],
          do: :ok = put(node, topology, [{"a@h.test", port, []}])

      assert list(node) == [{"a@h.test", 2, []}]
      assert delete(node, :two) == :ok
      assert list(node) == [{"a@h.test", 1, []}]
    end

    test "leave the port and the addresses that a later entry of another topology lacks", %{
      node: node
    } do
      :ok = put(node, :one, [{"a@h.test", 1, [@v4]}])
      :ok = put(node, :two, [{"a@h.test", nil, []}])
      assert list(node) == [{"a@h.test", 1, [@v4]}]
      :ok = put(node, :two, [{"a@h.test", 2, []}])
      assert list(node) == [{"a@h.test", 2, [@v4]}]
      assert delete(node, :one) == :ok
      assert list(node) == [{"a@h.test", 2, []}]
    end

    test "keep 16,384 names at most, and 16 addresses of each", %{node: node} do
      assert put(node, :one, names(16_384)) == :ok
      assert put(node, :two, [{"b@h.test", nil, []}]) == {:error, :full}
      assert put(node, :one, names(16_385)) == {:error, :full}
      assert length(list(node)) == 16_384
      assert address(node, "app-16384", "node16384.test") == {:ok, @v4, 25_000, 6}

      addresses = for n <- 1..20, do: {10, 77, 0, n}
      assert put(node, :one, [{"a@h.test", nil, addresses}]) == :ok
      assert list(node) == [{"a@h.test", nil, Enum.take(addresses, 16)}]
      assert put(node, :two, [{"b@h.test", nil, []}]) == :ok
    end

    test "refuse an invalid entry with an error that has a valid example", %{node: node} do
      :ok = put(node, :one, [{"a@h.test", 1, []}])

      for entry <- [
            {"a@h.test", 0, []},
            {"a@h.test", 65_536, []},
            {"a@h.test", 65_537, []},
            {"a@h.test", "4001", []},
            {:"a@h.test", 4001, []},
            {"a", 4001, []},
            {"@h.test", 4001, []},
            {"a@", 4001, []},
            {"a@b@h.test", 4001, []},
            {<<255, "@h.test">>, 4001, []},
            {String.duplicate("a", 255) <> "@h", 4001, []},
            {"a@h.test", 4001, [{1, 2, 3}]},
            {"a@h.test", 4001, [{1, 2, 3, 256}]},
            {"a@h.test", 4001, [{1, 2, 3, 4, 5, 6, 7, 65_536}]},
            {"a@h.test", 4001, ["10.77.0.7"]},
            {"a@h.test", 4001, @v4},
            {"a@h.test", 4001},
            nil
          ] do
        error = catch_error(put(node, :one, [{"b@h.test", 2, [@v4]}, entry]))
        assert %ArgumentError{message: message} = error
        assert message =~ "expected an entry such as {\"app@node1.example.com\", 4001"
        assert message =~ inspect(entry)
      end

      assert list(node) == [{"a@h.test", 1, []}]
    end

    test "call a native function that refuses invalid entries too", %{node: node} do
      for entry <- [
            {"a@h.test", 65_537, []},
            {"a@h.test", 0, []},
            {"a@h.test", 1, [{1, 2, 3, 256}]},
            {"a@h.test", 1, [{1, 2, 3}]},
            {"a@h.test", 1, [{1, 2, 3, 4, 5, 6, 7, 65_536}]},
            {:a, 1, []},
            :a
          ] do
        assert catch_error(PeerNode.call(node, Native, :peers_put, [:one, [entry]])) == :badarg
      end

      assert list(node) == []
    end

    test "keep the table when the module that holds the library is reloaded", %{node: node} do
      :ok = put(node, :one, [{"a@h.test", 1, []}])
      assert PeerNode.call(node, :c, :l, [Native]) == {:module, Native}
      assert list(node) == [{"a@h.test", 1, []}]
      :ok = put(node, :one, [{"b@h.test", nil, []}])
      assert list(node) == [{"b@h.test", nil, []}]
    end

    # Applications hash passwords there, for example.
    test "wait for no dirty scheduler for CPU", %{node: node} do
      code = """
      parent = self()

      for _ <- 1..:erlang.system_info(:dirty_cpu_schedulers) do
        spawn(fn ->
          :erts_debug.dirty_cpu(:wait, 10_000)
          send(parent, :ended)
        end)
      end

      # Until then, a dirty scheduler may be free.
      Process.sleep(500)
      Caravan.Epmd.Peers.put(:one, [{"a@h.test", nil, []}])
      Caravan.Epmd.Peers.rotate("a@h.test")
      Caravan.Epmd.Peers.delete(:one)
      receive do: (:ended -> :waited), after: (0 -> :ok)
      """

      assert PeerNode.eval(node, code) == :ok
    end

    test "create no atom", %{node: node} do
      count = fn -> PeerNode.call(node, :erlang, :system_info, [:atom_count]) end
      :ok = put(node, :one, names(10))
      # The first calls load modules, whose names are atoms.
      _ = {list(node), address(node, "app-1", "node1.test")}
      _ = PeerNode.call(node, Epmd, :names, [~c"node1.test"])
      before = count.()

      :ok = put(node, :one, names(2_000))
      assert length(list(node)) == 2_000
      assert {:ok, _, _, _} = address(node, "app-2000", "node2000.test")
      assert {:ok, [_]} = PeerNode.call(node, Epmd, :names, [~c"node2000.test"])
      :ok = delete(node, :one)
      assert count.() == before
    end
  end

  describe "address_please/3" do
    test "finds a node in the table whose host no resolver knows", %{node: node} do
      :ok = put(node, :one, [{"app@nonexistent.invalid", 25_017, [@v6, @v4, {10, 77, 0, 8}]}])
      assert address(node, "app", "nonexistent.invalid") == {:ok, @v4, 25_017, 6}
      assert address(node, "app", "nonexistent.invalid", :inet6) == {:ok, @v6, 25_017, 6}
    end

    test "follows the port rule if the table has no port", %{node: node} do
      :ok = put(node, :one, [{"app-4001@h.test", nil, [@v4]}, {"app-70000@h.test", nil, [@v4]}])
      assert address(node, "app-4001", "h.test") == {:ok, @v4, 4001, 6}
      assert {:error, _reason} = address(node, "app-70000", "h.test")
    end

    test "returns the port in the table for a name without digits", %{node: node} do
      :ok = put(node, :one, [{"app-70000@h.test", 4001, [@v4]}])
      assert address(node, "app-70000", "h.test") == {:ok, @v4, 4001, 6}
    end

    test "uses the host if the table has no address", %{node: node} do
      :ok = put(node, :one, [{"app@localhost", 4001, []}, {"app@127.0.0.9", 4002, []}])
      assert address(node, "app", "localhost") == {:ok, {127, 0, 0, 1}, 4001, 6}
      assert address(node, "app", "127.0.0.9") == {:ok, {127, 0, 0, 9}, 4002, 6}
    end

    test "asks no resolver about a node whose address is in the table", %{node: node} do
      :ok = put(node, :one, [{"app@localhost", 4001, [@v6, @v4]}])
      assert address(node, "app", "localhost") == {:ok, @v4, 4001, 6}
    end

    test "uses the host if the table has no address of the family", %{node: node} do
      :ok = put(node, :one, [{"app@localhost", 4001, [@v6]}, {"app@127.0.0.9", 4001, [@v6]}])
      assert address(node, "app", "localhost") == {:ok, {127, 0, 0, 1}, 4001, 6}
      assert address(node, "app", "127.0.0.9") == {:ok, {127, 0, 0, 9}, 4001, 6}
    end

    test "finds a node by its full name only", %{node: node} do
      :ok = put(node, :one, [{"app@127.0.0.1", 25_017, [@v4]}])
      assert address(node, "app2", "127.0.0.1") == {:ok, {127, 0, 0, 1}, 4372, 6}
      assert address(node, "app", "127.0.0.11") == {:ok, {127, 0, 0, 11}, 4370, 6}
    end
  end

  describe "port_please/2" do
    test "finds the port in the table by host and by address", %{node: node} do
      :ok = put(node, :one, [{"app@h.test", 25_017, [@v4, @v6]}, {"app@i.test", nil, []}])

      for host <- [~c"h.test", @v4, @v6],
          do: assert(port(node, "app", host) == {:port, 25_017, 6})

      for host <- [~c"i.test", {10, 0, 0, 1}],
          do: assert(port(node, "app", host) == {:port, 4370, 6})
    end
  end

  describe "names/1" do
    test "lists the nodes in the table by host and by address", %{node: node} do
      names = &PeerNode.call(node, :net_adm, :names, [&1])

      :ok =
        put(node, :one, [
          {"b-4001@h.test", nil, [@v4]},
          {"a@h.test", 25_017, [@v4, @v6]},
          {"c@localhost", 25_018, []},
          {"d-70000@h.test", nil, [@v4]}
        ])

      for host <- [~c"h.test", :"h.test", @v4, ~c"10.77.0.7"],
          do: assert(names.(host) == {:ok, [{~c"a", 25_017}, {~c"b-4001", 4001}]})

      assert names.(@v6) == {:ok, [{~c"a", 25_017}]}
      assert PeerNode.call(node, :net_adm, :names, []) == {:ok, [{~c"c", 25_018}]}
      assert names.(~c"i.test") == {:error, :address}
    end
  end

  describe "two nodes on a host that no resolver knows, one on a port that is not in its name," do
    setup do
      port = Host.free_port()
      use = ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]

      b =
        PeerNode.start!(name: "b@caravan.invalid", args: ~w(-caravan listen_port #{port}) ++ use)

      a = PeerNode.start!(name: PeerNode.name("a", "caravan.invalid"), args: use)
      refute PeerNode.call(a, :net_kernel, :connect_node, [b.name])

      entries =
        for {node, port} <- [{a, nil}, {b, port}],
            do: {to_string(node.name), port, [{127, 0, 0, 1}]}

      :ok = put(a, :one, entries)
      {:ok, a: a, b: b, port: port}
    end

    test "connect, and list each other's name once", %{a: a, b: b, port: port} do
      own = {~c"#{a.name |> to_string() |> String.split("@") |> hd()}", PeerNode.port(a)}
      before = PeerNode.call(a, :net_adm, :names, [])
      assert before == {:ok, [own, {~c"b", port}]}

      assert PeerNode.call(a, :net_kernel, :connect_node, [b.name])
      assert PeerNode.call(a, :net_adm, :names, []) == before
    end

    test "find each other by net_adm:world_list/1", %{a: a, b: b} do
      assert Enum.sort(PeerNode.call(a, :net_adm, :world_list, [[:"caravan.invalid"]])) ==
               Enum.sort([a.name, b.name])
    end
  end
end
