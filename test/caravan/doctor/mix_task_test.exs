defmodule Caravan.Doctor.MixTaskTest do
  # Changes the directory and the application environment of this VM.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  alias Caravan.Test.DnsServer
  alias Mix.Tasks.Caravan.Doctor

  @flags "-epmd_module Elixir.Caravan.Epmd\n-start_epmd false\n"

  setup do
    dir = Path.join(System.tmp_dir!(), "project-" <> Base.encode16(:rand.bytes(6), case: :lower))
    File.mkdir_p!(Path.join(dir, "rel"))
    back = File.cwd!()

    on_exit(fn ->
      File.cd!(back)
      File.rm_rf!(dir)
      Application.delete_env(:libcluster, :topologies)
    end)

    File.cd!(dir)
  end

  defp doctor(args) do
    {result, printed} =
      with_io(fn ->
        try do
          Doctor.run(args)
        catch
          :exit, reason -> reason
        end
      end)

    {result, printed}
  end

  test "the files in rel are checked, and the status is 1 until they are right" do
    assert {{:shutdown, 1}, printed} = doctor([])
    assert printed =~ "failed   release.rel_missing  the project has no file rel/vm.args.eex\n"
    assert printed =~ ~r/^no node: /m

    File.write!("rel/vm.args.eex", @flags)
    File.write!("rel/remote.vm.args.eex", "")
    assert {{:shutdown, 1}, printed} = doctor([])
    assert printed =~ "failed   release.remote_vm_args  rel/remote.vm.args.eex: "

    File.write!("rel/remote.vm.args.eex", @flags)
    assert {:ok, printed} = doctor(["--verbose"])
    assert printed =~ "ok       release.vm_args  rel/vm.args.eex: both flags are set, in the"
    assert printed =~ "ok       node.nif  Caravan's library is loaded, with TLS, with DNSSEC\n"
  end

  test "the lookups of libcluster's topologies are checked" do
    for file <- ["rel/vm.args.eex", "rel/remote.vm.args.eex"], do: File.write!(file, @flags)
    server = start_supervised!({DnsServer, answers: [{"app.test", :a, :nxdomain}]})
    config = [query: "app.test", type: :a, nameservers: [DnsServer.address(server)]]
    topologies = [app: [strategy: Caravan.Cluster.DnsStrategy, config: config]]
    Application.put_env(:libcluster, :topologies, topologies)
    assert_lookup_checked(server)
  end

  test "the lookups of a topology without libcluster are checked, unless its query is :ignore" do
    for file <- ["rel/vm.args.eex", "rel/remote.vm.args.eex"], do: File.write!(file, @flags)
    server = start_supervised!({DnsServer, answers: [{"app.test", :a, :nxdomain}]})
    config = [topology: :app, type: :a, nameservers: [DnsServer.address(server)]]
    on_exit(fn -> Application.delete_env(:caravan, Caravan.Cluster.DnsStrategy) end)

    Application.put_env(:caravan, Caravan.Cluster.DnsStrategy, [query: :ignore] ++ config)
    assert {:ok, printed} = doctor(["--verbose"])
    assert printed =~ "skipped  cluster.topology  the topology :app looks up nothing"

    Application.put_env(:caravan, Caravan.Cluster.DnsStrategy, [query: "app.test"] ++ config)
    assert_lookup_checked(server)
  end

  defp assert_lookup_checked(server) do
    assert {{:shutdown, 1}, printed} = doctor(["--topology", "app"])
    assert printed =~ "failed   dns.empty  app app.test A: "

    DnsServer.put(server, "app.test", :a, [{10, 0, 0, 1}])
    assert {:ok, _printed} = doctor([])
  end

  test "wrong arguments end with status 2" do
    assert {{:shutdown, 2}, _} = doctor(["--timeout", "1"])
    assert {{:shutdown, 2}, printed} = doctor(["--topology", "nope"])
    assert printed =~ "expected :topology to be a topology that this VM knows"
    Mix.shell(Mix.Shell.Process)
    assert {{:shutdown, 2}, _} = doctor(["--unknown"])
    assert_received {:mix_shell, :error, ["expected the options of mix help caravan.doctor" <> _]}
  after
    Mix.shell(Mix.Shell.IO)
  end
end
