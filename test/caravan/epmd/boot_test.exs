defmodule Caravan.Epmd.BootTest do
  use ExUnit.Case, async: true

  import Caravan.Test.Command, only: [assert_refused: 1]
  import Caravan.Test.Host, only: [forbid_epmd: 1]

  alias Caravan.Test.Command
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  # All boot-safe modules. The nodes of these tests have nothing else but kernel and stdlib.
  @boot_safe [
    Caravan.Epmd,
    Caravan.Epmd.Boot,
    Caravan.Epmd.Names,
    Caravan.Epmd.PortRule,
    Caravan.Epmd.Quarantine,
    Caravan.Epmd.Settings,
    Caravan.Native
  ]

  @host "127.0.0.1"

  setup :forbid_epmd

  setup_all do
    dir = Path.join(System.tmp_dir!(), "boot-" <> Base.encode16(:rand.bytes(6), case: :lower))
    on_exit(fn -> File.rm_rf!(dir) end)
    {:ok, dir: dir, ebin: install(Path.join(dir, "whole"))}
  end

  # Makes `root/caravan/ebin` with the boot-safe modules only, and `root/caravan/priv`.
  defp install(root, library \\ :real) do
    lib = Path.join(root, "caravan")
    ebin = Path.join(lib, "ebin")
    File.mkdir_p!(ebin)
    for module <- @boot_safe, do: File.cp!(:code.which(module), "#{ebin}/#{module}.beam")

    native = Path.join([lib, "priv", "native"])
    file = Path.join(native, "caravan_nif.so")
    unless library == :missing, do: File.mkdir_p!(native)

    case library do
      :missing -> :ok
      :real -> File.cp!(Application.app_dir(:caravan, "priv/native/caravan_nif.so"), file)
      text -> File.write!(file, text)
    end

    ebin
  end

  # Makes a boot script like that of a release, which loads the boot-safe modules.
  defp boot_script(dir, ebin) do
    script = Path.join(dir, "bare")

    spec =
      "{application, caravan, [{description, []}, {vsn, \"0\"}, {registered, []}, " <>
        "{applications, [kernel, stdlib]}, {modules, [#{Enum.map_join(@boot_safe, ", ", &"'#{&1}'")}]}]}."

    File.write!(Path.join(ebin, "caravan.app"), spec)

    make = """
    [application:load(A) || A <- [kernel, stdlib]],
    Vsn = fun(A) -> {ok, V} = application:get_key(A, vsn), V end,
    Rel = {release, {"bare", "0"}, {erts, erlang:system_info(version)},
           [{kernel, Vsn(kernel)}, {stdlib, Vsn(stdlib)}, {caravan, "0", none}]},
    ok = file:write_file("#{script}.rel", io_lib:format("~p.", [Rel])),
    ok = systools:make_script("#{script}", [{path, ["#{ebin}"]}, no_warn_sasl, local]),
    halt().
    """

    assert %{status: 0} = Command.run(["erl", "-noshell", "-eval", make])
    script
  end

  defp boot(ebin, name, args \\ [], env \\ []) do
    erl = ["erl", "-noshell", "-pa", ebin | PeerNode.epmd_args()]
    Command.run(erl ++ ["-name", name | args] ++ ["-eval", "halt()."], env: env)
  end

  describe "with only kernel, stdlib and Caravan's beams on the code path" do
    test "a node boots, listens on the port of its name and has a random creation", %{ebin: ebin} do
      node = PeerNode.start!(name: PeerNode.name("app", @host), path: [ebin])

      assert PeerNode.call(node, :code, :which, [Kernel]) == :non_existing
      assert PeerNode.call(node, :net_kernel, :epmd_module, []) == Caravan.Epmd
      assert Host.listening_ports(node.os_pid) == [PeerNode.port(node)]

      # OTP replaces a creation from 0 to 4 by 4. Only with -1 does each start have another creation.
      assert PeerNode.call(node, :erlang, :system_info, [:creation]) > 4
    end

    test "a node boots in embedded mode from a boot script", %{dir: dir, ebin: ebin} do
      script = boot_script(dir, ebin)

      node =
        PeerNode.start!(
          name: PeerNode.name("app", @host),
          path: [],
          args: ["-mode", "embedded", "-boot", script]
        )

      assert PeerNode.call(node, :code, :get_mode, []) == :embedded
      assert PeerNode.call(node, :code, :which, [Kernel]) == :non_existing
      assert Host.listening_ports(node.os_pid) == [PeerNode.port(node)]
      assert PeerNode.call(node, :erlang, :system_info, [:creation]) > 4
    end

    test "two such nodes connect", %{ebin: ebin} do
      [a, b] = for x <- ["a", "b"], do: PeerNode.start!(name: PeerNode.name(x), path: [ebin])
      assert PeerNode.call(a, :net_kernel, :connect_node, [b.name])
      sees_a = fn -> PeerNode.call(b, :erlang, :nodes, []) == [a.name] end
      Host.await(sees_a, "#{b.name} to see #{a.name}")
    end

    test "a temporary node boots and listens on any free port", %{ebin: ebin} do
      port = Host.free_port()
      main = PeerNode.start!(name: "app-#{port}@#{@host}", path: [ebin])
      helper = PeerNode.start!(name: "rpc-1f2e-app-#{port}@#{@host}", path: [ebin])

      assert [helper_port] = Host.listening_ports(helper.os_pid)
      assert helper_port != port
      assert PeerNode.call(helper, :net_kernel, :connect_node, [main.name])
    end

    test "a node that does not listen boots without a port", %{ebin: ebin} do
      args = ~w(-dist_listen false)
      # No port follows from this name, but a node that does not listen needs none.
      node = PeerNode.start!(name: "app-70000@#{@host}", path: [ebin], args: args)
      assert Host.listening_ports(node.os_pid) == []
    end

    test "a VM with the flags but without a name boots and is not alive", %{ebin: ebin} do
      node = PeerNode.start!(path: [ebin])
      refute PeerNode.call(node, :erlang, :is_alive, [])
      assert Host.listening_ports(node.os_pid) == []
    end

    test "a node listens on the address in kernel's inet_dist_use_interface", %{ebin: ebin} do
      port = Host.free_port()
      use = &["-kernel", "inet_dist_use_interface", &1]

      # Two nodes can have the same port on one machine if each has another address.
      nodes =
        for {ip, interface} <- [{"127.0.0.1", "{127,0,0,1}"}, {"127.0.0.2", "{127,0,0,2}"}],
            do: PeerNode.start!(name: "app-#{port}@#{ip}", path: [ebin], args: use.(interface))

      for node <- nodes, do: assert(Host.listening_ports(node.os_pid) == [port])
    end
  end

  describe "a boot ends with status 1 and one line on stderr" do
    test "when the port is in use", %{ebin: ebin} do
      {:ok, socket} = :gen_tcp.listen(0, [])
      {:ok, port} = :inet.port(socket)

      line = ebin |> boot("app-#{port}@#{@host}") |> assert_refused()
      assert line =~ "app-#{port}"
      assert line =~ "cannot listen on port #{port}: the port is in use"
      assert line =~ "another node"
      :gen_tcp.close(socket)
    end

    test "when -proto_dist has two protocols, because this node has taken the port itself",
         %{ebin: ebin} do
      port = Host.free_port()
      args = ~w(-proto_dist inet_tcp inet6_tcp)
      line = ebin |> boot("app-#{port}@#{@host}", args) |> assert_refused()

      assert line =~
               "cannot listen on port #{port}: the port is in use. The VM argument -proto_dist has several protocols"

      assert line =~ "Leave one protocol in it"
      refute line =~ "another node"
    end

    test "when the port is in use, over IPv6 and in embedded mode", %{dir: dir, ebin: ebin} do
      {:ok, socket} = :gen_tcp.listen(0, [:inet6, ip: {0, 0, 0, 0, 0, 0, 0, 1}])
      {:ok, port} = :inet.port(socket)
      args = ~w(-proto_dist inet6_tcp -mode embedded -boot #{boot_script(dir, ebin)})

      line = ebin |> boot("app-#{port}@::1", args) |> assert_refused()
      assert line =~ "cannot listen on port #{port}: the port is in use"
      :gen_tcp.close(socket)
    end

    test "when the listen_port is in use", %{ebin: ebin} do
      {:ok, socket} = :gen_tcp.listen(0, [])
      {:ok, port} = :inet.port(socket)
      args = ~w(-caravan listen_port #{port})

      line = ebin |> boot("app-4001@#{@host}", args) |> assert_refused()
      assert line =~ "app-4001"
      assert line =~ "cannot listen on port #{port}"
      :gen_tcp.close(socket)
    end

    test "when the address is not one of this machine", %{ebin: ebin} do
      args = ["-kernel", "inet_dist_use_interface", "{192,0,2,77}"]
      line = ebin |> boot("app-#{port = Host.free_port()}@192.0.2.77", args) |> assert_refused()
      assert line =~ "cannot listen on port #{port}: can't assign requested address"
    end

    test "when the name has no port", %{ebin: ebin} do
      for name <- ["app-70000", "app-65536", "app-004001", "app-123456789012345678901"] do
        line = ebin |> boot("#{name}@#{@host}") |> assert_refused()
        assert line =~ name
        assert line =~ "over 65535"
        assert line =~ "1024 to 65535 (that port)"
      end
    end

    test "when a short name has no port", %{ebin: ebin} do
      erl = ["erl", "-noshell", "-pa", ebin | PeerNode.epmd_args()]
      line = Command.run(erl ++ ~w(-sname app-70000)) |> assert_refused()
      assert line =~ "app-70000"
    end

    test "when an environment variable is not a port", %{ebin: ebin} do
      env = [{"CARAVAN_BASE_PORT", "abc"}]
      line = ebin |> boot("app@#{@host}", [], env) |> assert_refused()
      assert line =~ "CARAVAN_BASE_PORT"
      assert line =~ "expected a port from 1 to 65535"
      assert line =~ "abc"
    end

    test "when a VM argument is not a port", %{ebin: ebin} do
      line = ebin |> boot("app@#{@host}", ~w(-caravan base_port 70000)) |> assert_refused()
      assert line =~ "-caravan base_port"
      assert line =~ "expected a port from 1 to 65535"
      assert line =~ "70000"
    end

    test "when the port rule is unknown", %{ebin: ebin} do
      line = ebin |> boot("app@#{@host}", ~w(-caravan port_rule digits)) |> assert_refused()
      assert line =~ "-caravan port_rule"
      assert line =~ "expected name or fixed"
      assert line =~ "digits"
    end

    test "when a -caravan argument is unknown or has no value", %{ebin: ebin} do
      line = ebin |> boot("app@#{@host}", ~w(-caravan base_prot 4000)) |> assert_refused()
      assert line =~ "base_prot"
      assert line =~ "base_port PORT, port_rule name|fixed or listen_port PORT"

      line = ebin |> boot("app@#{@host}", ~w(-caravan base_port)) |> assert_refused()
      assert line =~ "base_port has no value"
    end

    test "when a setting is not ASCII", %{ebin: ebin} do
      for value <- ["žluť", "４３７０"] do
        line =
          ebin |> boot("app@#{@host}", [], [{"CARAVAN_BASE_PORT", value}]) |> assert_refused()

        assert line =~ "CARAVAN_BASE_PORT"
        assert line =~ value
      end

      line = ebin |> boot("app@#{@host}", ~w(-caravan žluť 4000)) |> assert_refused()
      assert line =~ "žluť"
    end

    test "when a setting contains a line break", %{ebin: ebin} do
      line =
        ebin |> boot("app@#{@host}", [], [{"CARAVAN_BASE_PORT", "4370\n"}]) |> assert_refused()

      assert line =~ "CARAVAN_BASE_PORT"
    end

    test "when the library is missing", %{dir: dir} do
      ebin = install(Path.join(dir, "missing"), :missing)
      line = ebin |> boot("app@#{@host}") |> assert_refused()
      assert line =~ Path.join(Path.dirname(ebin), "priv/native/caravan_nif.so")
      assert line =~ "cannot be loaded"
      assert line =~ "No such file"
      assert line =~ "Build it for this machine"
    end

    test "when the directory of the beams has another name than caravan/ebin", %{dir: dir} do
      # code:priv_dir(caravan) finds only a directory "…/caravan/ebin".
      ebin = install(Path.join(dir, "renamed"))
      other = Path.join(dir, "beams")
      File.rename!(ebin, other)
      line = other |> boot("app@#{@host}") |> assert_refused()
      assert line =~ "caravan_nif.so"
      assert line =~ "code path as caravan/ebin"
    end

    test "when the library is missing and its path is not ASCII", %{dir: dir} do
      ebin = install(Path.join(dir, "žluť"), :missing)
      line = ebin |> boot("app@#{@host}") |> assert_refused()
      assert line =~ "žluť/caravan/priv/native/caravan_nif.so"
    end

    test "when the file of the library is not a library", %{dir: dir} do
      ebin = install(Path.join(dir, "text"), "not a library\n")
      line = ebin |> boot("app@#{@host}") |> assert_refused()
      assert line =~ Path.join(Path.dirname(ebin), "priv/native/caravan_nif.so")
      assert line =~ "cannot be loaded"
      assert line =~ "Build it for this machine"
    end

    test "and with status 1 if stderr is closed", %{ebin: ebin} do
      erl = Enum.join(["erl", "-noshell", "-pa", ebin | PeerNode.epmd_args()], " ")
      script = "#{erl} -name app-70000@#{@host} 0<&- 2>&-"
      assert %{status: 1, stdout: "", crash_dump?: false} = Command.run(["sh", "-c", script])
    end
  end

  describe "the library" do
    test "loads in less than 10 ms and starts no thread", %{ebin: ebin} do
      # The fastest of five calls counts, because a busy machine makes calls slower but never faster.
      fastest =
        Enum.reduce_while(1..5, :infinity, fn _try, fastest ->
          time = first_call(ebin)
          if time < 10_000, do: {:halt, time}, else: {:cont, min(time, fastest)}
        end)

      assert fastest < 10_000, "the fastest first call took #{fastest} µs"
    end

    defp first_call(ebin) do
      node = PeerNode.start!(path: [ebin])
      # The call should measure only the library, so the modules are loaded before.
      for module <- [:timer | @boot_safe],
          do: {:module, ^module} = PeerNode.call(node, :code, :ensure_loaded, [module])

      before = threads(node)
      {time, port} = PeerNode.call(node, :timer, :tc, [Caravan.Epmd, :dist_port, [:app]])
      assert port == 4370
      assert threads(node) == before
      PeerNode.stop!(node)
      time
    end

    defp threads(node), do: length(File.ls!("/proc/#{node.os_pid}/task"))
  end

  describe "without the library, in a running VM" do
    setup %{dir: dir} do
      {:ok, node: PeerNode.start!(path: [install(Path.join(dir, "without"), :missing)])}
    end

    test "connects fail, but do not raise in net_kernel", %{node: node} do
      arguments = [~c"app-4001", ~c"127.0.0.1", :inet]
      assert {:error, _reason} = PeerNode.call(node, Caravan.Epmd, :address_please, arguments)

      assert PeerNode.call(node, Caravan.Epmd, :port_please, [~c"app-4001", {127, 0, 0, 1}]) ==
               :noport
    end

    test "other calls raise an error with the file and what to do", %{node: node} do
      error = catch_error(PeerNode.call(node, Caravan.Epmd, :dist_port, ["app-4001"]))
      assert {:caravan_nif, message} = error
      assert message =~ "without/caravan/priv/native/caravan_nif.so cannot be loaded"
      assert message =~ "Build it for this machine"
    end
  end
end
