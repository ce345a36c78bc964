defmodule Caravan.NativeTest do
  use ExUnit.Case, async: true

  alias Caravan.Dns.Error
  alias Caravan.Epmd
  alias Caravan.Native
  alias Caravan.Test.DnsServer
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Reload

  describe "port/3" do
    test "returns the port, or the reason why there is none" do
      assert Native.port("app-4001@host", :name, 4370) == 4001
      assert Native.port("app-4001@host", :fixed, 4370) == 4370
      assert Native.port("", :name, 4370) == :empty_name
      assert Native.port("app-70000@host", :name, 4370) == :out_of_range
      assert Native.port("app-1@host", :name, 65_535) == :out_of_range
      assert Native.port("rpc-1f2e-app@host", :fixed, 4370) == :temporary
    end

    test "accepts any bytes as a name" do
      assert Native.port(<<255, 0, "-4001@", 128>>, :name, 4370) == 4001
      assert Native.port(:binary.copy("a", 1_000_000), :name, 4370) == 4370
      assert Native.port(:binary.copy("9", 1_000_000), :name, 4370) == :out_of_range
    end

    test "raises for an invalid name, rule or base port" do
      for arguments <- [
            [~c"app", :name, 4370],
            [:app, :name, 4370],
            [<<1::1>>, :name, 4370],
            ["app", :digits, 4370],
            ["app", "name", 4370],
            ["app", :name, 0],
            ["app", :name, -1],
            ["app", :name, 65_536],
            ["app", :name, 65_537],
            ["app", :name, 4370.0]
          ] do
        assert catch_error(apply(Native, :port, arguments))
      end
    end
  end

  describe "port/1" do
    test "uses the last settings, and returns :unset before there are any" do
      node = PeerNode.start!()
      port = &PeerNode.call(node, Native, :port, [&1])
      assert port.("app-4001") == :unset

      for {rule, base, expected} <- [
            {:name, 1, {4001, 3, :out_of_range}},
            {:fixed, 65_535, {65_535, 65_535, 65_535}},
            {:name, 65_535, {4001, :out_of_range, :out_of_range}},
            {:fixed, 4370, {4370, 4370, 4370}}
          ] do
        assert PeerNode.call(node, Native, :port_settings, [rule, base]) == :ok
        assert {port.("app-4001@host"), port.("app-2@host"), port.("app-70000")} == expected
        assert port.("rpc-1f2e-app") == :temporary
        assert port.("") == :empty_name
      end
    end

    test "keeps its settings when new ones are invalid" do
      node = PeerNode.start!()
      :ok = PeerNode.call(node, Native, :port_settings, [:name, 5001])

      for {rule, base} <- [{:name, 0}, {:name, 65_537}, {:digits, 1}, {:fixed, -1}, {:name, nil}],
          do: assert(catch_error(PeerNode.call(node, Native, :port_settings, [rule, base])))

      assert PeerNode.call(node, Native, :port, ["app"]) == 5001
      assert catch_error(PeerNode.call(node, Native, :port, [~c"app"])) == :badarg
    end
  end

  describe "load/0" do
    test "returns :ok each time it is called" do
      assert Native.load() == :ok
      assert Native.load() == :ok
      assert Native.port("app-4001", :name, 4370) == 4001
    end

    test "returns an error for the library of another version" do
      source =
        "lib/caravan/native.ex"
        |> File.read!()
        |> String.replace("def dns_flush,", "def new, do: first_call(:new, [])\ndef dns_flush,")

      node = PeerNode.start!()
      {:ok, _started} = PeerNode.call(node, :application, :ensure_all_started, [:elixir])
      PeerNode.call(node, Code, :put_compiler_option, [:ignore_module_conflict, true])
      PeerNode.call(node, Code, :compile_string, [source])

      for _ <- 1..2 do
        assert {:error, message} = PeerNode.call(node, Native, :load, [])

        assert IO.chardata_to_string(message) =~
                 "it is that of another version, and lacks [{new,0}]. Build it"

        assert {:caravan_nif, _message} = catch_error(PeerNode.call(node, Native, :new, []))
      end
    end

    @race """
    {:module, _} = Code.ensure_loaded(Caravan.Native)
    gate = spawn(fn -> receive do :open -> :ok end end)

    racers =
      for _ <- 1..50 do
        Task.async(fn ->
          ref = Process.monitor(gate)
          receive do {:DOWN, ^ref, _, _, _} -> :ok end
          apply(Caravan.Native, function, arguments)
        end)
      end

    send(gate, :open)
    racers |> Task.await_many(:infinity) |> Enum.uniq()
    """

    # A short stub and a long one: loading overwrites their machine code while all processes are in it.
    for {function, arguments, result} <- [
          {:port, ["app-4001", :name, 4370], 4001},
          {:dns_nameserver?, ["127.0.0.1:53"], true}
        ] do
      test "is run by fifty processes that make the first call of #{function} at the same time" do
        for _fresh_vm <- 1..4 do
          node = PeerNode.start!()
          call = [function: unquote(function), arguments: unquote(arguments)]
          assert PeerNode.eval(node, @race, call) == [unquote(Macro.escape(result))]
          PeerNode.stop!(node)
        end
      end
    end
  end

  describe "reloading the module while processes call it" do
    @reload """
    call = fn call, counts ->
      result = Caravan.Epmd.address_please(~c"app-4001", ~c"127.0.0.1", :inet)
      4001 = Caravan.Epmd.dist_port("app-4001")
      true = Caravan.Native.dns_nameserver?("127.0.0.1:53")
      counts = Map.update(counts, result, 1, & &1 + 1)
      receive do :stop -> counts after 0 -> call.(call, counts) end
    end

    callers = for _ <- 1..8, do: Task.async(fn -> call.(call, %{}) end)

    :ok = Caravan.Test.Reload.run(Caravan.Native, 50)
    for caller <- callers, do: send(caller.pid, :stop)
    callers |> Task.await_many(:infinity) |> Enum.flat_map(&Map.keys/1) |> Enum.uniq()
    """

    test "fails no call" do
      node = PeerNode.start!()
      assert PeerNode.eval(node, @reload) == [{:ok, {127, 0, 0, 1}, 4001, 6}]
    end

    @lookups ~S"""
    look_up = fn look_up, n, results ->
      name = "n#{n}.test"

      result =
        try do
          if rem(n, 2) == 0 do
            Caravan.Dns.lookup(name, :a, options)
          else
            with {:ok, ref} <- Caravan.Dns.lookup_async(name, :a, options) do
              receive do {^ref, result} -> result after 10_000 -> :no_message end
            end
          end
        rescue
          error -> {:raised, error}
        end

      results = if match?({:ok, _}, result) or match?({:error, _}, result),
        do: results, else: [result | results]

      receive do :stop -> results after 0 -> look_up.(look_up, n + 1, results) end
    end

    callers = for n <- 1..32, do: Task.async(fn -> look_up.(look_up, n * 1_000_000, []) end)

    :ok = Caravan.Test.Reload.run(Caravan.Native, 300)
    for caller <- callers, do: send(caller.pid, :stop)
    callers |> Task.await_many(:infinity) |> Enum.concat()
    """

    test "raises in no lookup" do
      server = start_supervised!(DnsServer)
      DnsServer.put_default(server, [{127, 0, 0, 1}])
      node = PeerNode.start!()
      options = [nameservers: [DnsServer.address(server)], timeout: 2_000]
      assert PeerNode.eval(node, @lookups, options: options) == []
    end

    test "is named in the error if it keeps a lookup from starting" do
      node = PeerNode.start!()

      {:ok, _} = PeerNode.call(node, :application, :ensure_all_started, [:elixir])

      # Behaves like a module that is reloaded after each start of a lookup.
      PeerNode.eval(node, """
      Code.compiler_options(ignore_module_conflict: true)

      defmodule Caravan.Native do
        def dns_lookup(_name, _type, _options, _wanted), do: make_ref()
        def dns_poll(_ref), do: raise(ArgumentError)
      end
      """)

      for function <- [:lookup, :lookup_async] do
        assert {:error, %Error{reason: :reloaded} = error} =
                 PeerNode.call(node, Caravan.Dns, function, ["app.test", :a, []])

        assert Exception.message(error) =~ "Caravan.Native was reloaded"
      end
    end

    test "ends no strategy" do
      server = start_supervised!(DnsServer)
      DnsServer.put_default(server, {[{0, 0, 4001, "node.test"}], ttl: 0})
      node = PeerNode.start!()
      {:ok, _} = PeerNode.call(node, :application, :ensure_all_started, [:logger])

      # With functions of its own, a strategy also looks up in a VM that is not alive.
      options = [
        query: for(n <- 1..8, do: "_app#{n}._tcp.test"),
        node_sname: "app",
        nameservers: [DnsServer.address(server)],
        connect: {:erlang, :is_atom, []},
        disconnect: {:erlang, :is_atom, []},
        list_nodes: {:erlang, :nodes, []},
        min_interval: 50,
        poll_interval: 100,
        log_level: :error
      ]

      start = ~S"""
      test = self()

      spawn(fn ->
        children = for n <- 1..128 do
          child = {Caravan.Cluster.DnsStrategy, options}
          Supervisor.child_spec(child, id: n, restart: :temporary)
        end

        {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
        send(test, {:supervisor, supervisor})
        Process.sleep(:infinity)
      end)

      receive do {:supervisor, pid} -> pid after 30_000 -> :none end
      """

      supervisor = PeerNode.eval(node, start, options: options)
      assert is_pid(supervisor)

      :ok = PeerNode.call(node, Reload, :run, [Native, 100, 20])
      assert %{active: 128} = PeerNode.call(node, Supervisor, :count_children, [supervisor])
      assert length(DnsServer.queries(server)) > 128
    end

    test "works with c:l/1, which purges the old code" do
      node = PeerNode.start!()

      for _round <- 1..5 do
        assert PeerNode.call(node, :c, :l, [Native]) == {:module, Native}
        assert PeerNode.call(node, Epmd, :dist_port, ["app-4001"]) == 4001
      end
    end
  end
end
