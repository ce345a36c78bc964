defmodule Caravan.Dns.LimitsTest do
  # Not async: it counts the resources of this VM.
  use ExUnit.Case

  alias Caravan.Dns
  alias Caravan.Dns.Error
  alias Caravan.Native
  alias Caravan.Test.DnsServer
  alias Caravan.Test.Eventually
  alias Caravan.Test.Host
  alias Caravan.Test.OsResources

  @ip {127, 0, 0, 1}

  setup do
    OsResources.warm_up()
    server = start_supervised!(DnsServer)
    DnsServer.put_default(server, [@ip])
    %{server: server, options: [nameservers: [DnsServer.address(server)]]}
  end

  test "1,024 lookups can be in flight; one more is busy until one has ended", %{
    server: server,
    options: options
  } do
    DnsServer.put_default(server, :silent)
    options = [timeout: 6_000] ++ options
    started = for n <- 1..1_024, do: Dns.lookup_async("app#{rem(n, 512)}.test", :a, options)
    assert Enum.all?(started, &match?({:ok, _}, &1))
    assert %{lookups: 1_024} = OsResources.held()
    assert {:error, %Error{reason: :busy}} = Dns.lookup_async("app.test", :a, options)
    assert {:error, %Error{reason: :busy}} = Dns.lookup("app.test", :a, options)

    [{:ok, first} | others] = started
    assert Dns.cancel(first)
    Host.await(fn -> OsResources.held().lookups < 1_024 end, "the cancelled lookup to end")
    assert {:ok, last} = Dns.lookup_async("app.test", :a, options)

    for {:ok, ref} <- [{:ok, last} | others],
        do: assert_receive({^ref, {:error, %Error{reason: :timeout}}}, 30_000)

    DnsServer.put_default(server, [@ip])
    assert {:ok, _} = Dns.lookup("app.test", :a, options)
  end

  test "a lookup ends when it is cancelled, or when its process dies", %{
    server: server,
    options: options
  } do
    before = OsResources.now()
    DnsServer.put_default(server, :silent)
    options = [timeout: 60_000] ++ options

    {pid, monitor} =
      spawn_monitor(fn ->
        for n <- 1..512, do: {:ok, _} = Dns.lookup_async("app#{n}.test", :a, options)
        Process.sleep(:infinity)
      end)

    mine = for n <- 1..512, do: Dns.lookup_async("app#{n}.test", :a, options)
    Host.await(fn -> OsResources.held().lookups == 1_024 end, "all lookups to be in flight")
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, _, _, :killed}

    Host.await(
      fn -> match?(%{lookups: 512}, OsResources.held()) end,
      "the lookups of the dead process to end"
    )

    for {:ok, ref} <- mine, do: assert(Dns.cancel(ref))
    OsResources.await_no_more(Map.delete(before, :atoms))
  end

  test "a lookup ends when its process dies before it has polled for the answer", %{
    server: server
  } do
    test = self()
    DnsServer.put_default(server, :silent)

    options = %{
      nameservers: [DnsServer.address(server)],
      timeout: 60_000,
      attempts: nil,
      addresses: false,
      known_targets: [],
      allow: [],
      dnssec: false,
      trust_anchors: nil,
      ca_file: nil,
      randomize_case: false
    }

    # The first lookup loads the configuration on the runtime, the others wait for the second poll.
    for n <- 1..3 do
      pid =
        spawn(fn ->
          ref = Native.dns_lookup("app#{n}.test", :a, options, :answer)
          send(test, {:started, self()})
          receive do: (:poll -> Native.dns_poll(ref))
        end)

      assert_receive {:started, ^pid}
      assert %{lookups: 1} = OsResources.held()
      Process.exit(pid, :kill)

      Host.await(
        fn -> OsResources.held().lookups == 0 end,
        "the lookup of the dead process to end"
      )
    end
  end

  test "sockets and connections of 32 configurations are kept", %{server: server} do
    address = DnsServer.address(server)
    before = OsResources.now()

    for scheme <- ["", "tcp://"] do
      for n <- 1..100,
          do: Dns.lookup!("app.test", :a, nameservers: [scheme <> address, "127.0.0.2:#{n}"])

      # The server runs in this VM too, and has the other end of each connection.
      kept = if scheme == "", do: 32, else: 64
      no_more = fn -> OsResources.held().sockets - before.sockets <= kept end
      assert Eventually.true?(no_more), inspect({before, OsResources.held()})
      Dns.flush()
    end

    OsResources.await_no_more(Map.delete(before, :atoms))
  end

  test "128 idle UDP sockets are kept", %{server: server, options: options} do
    before = OsResources.now()
    DnsServer.subscribe(server)
    DnsServer.put_default(server, {:delay, 500, [@ip]})
    refs = for n <- 1..600, do: Dns.lookup_async("app#{n}.test", :a, [timeout: 30_000] ++ options)
    for {:ok, ref} <- refs, do: assert_receive({^ref, {:ok, _}}, 30_000)

    assert Eventually.true?(fn -> OsResources.held().sockets - before.sockets <= 128 end),
           inspect(OsResources.held())

    OsResources.await_no_more(Map.delete(before, :atoms))
  end
end
