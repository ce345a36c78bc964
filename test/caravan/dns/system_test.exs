defmodule Caravan.Dns.SystemTest do
  # Not async: each test starts a VM.
  use ExUnit.Case

  # Lookups without :nameservers, which use /etc/resolv.conf and /etc/hosts (resolv.conf(5), hosts(5)).

  alias Caravan.Dns.Error
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements
  alias Caravan.Test.SystemFiles

  @moduletag Requirements.tag(:system_files)

  @one {10, 0, 0, 1}
  @two {10, 0, 0, 2}
  @three {10, 0, 0, 3}
  @localhost "nameserver 127.0.0.1\n"

  defp start(resolv_conf, hosts \\ "127.0.0.1 localhost\n") do
    system = SystemFiles.start!(resolv_conf: resolv_conf, hosts: hosts)
    SystemFiles.nameserver!(system, :first, ip: {127, 0, 0, 1})
    system
  end

  defp put(system, server \\ :first, name, reply),
    do: SystemFiles.server(system, server, :put, [name, :a, reply])

  defp a(system, name, options \\ []) do
    case SystemFiles.lookup(system, name, :a, options) do
      {:ok, answer} -> answer.records
      {:error, %Error{reason: reason}} -> reason
    end
  end

  defp asked(system, server \\ :first) do
    queries = SystemFiles.server(system, server, :queries)
    SystemFiles.server(system, server, :reset)
    for query <- queries, do: query.name
  end

  test "search: a relative name is queried in each domain, in order" do
    system = start("search a.test b.test\n" <> @localhost)
    put(system, "app.b.test", [@one])
    assert a(system, "app") == [@one]
    assert asked(system) == ["app.a.test", "app.b.test"]

    # ndots is 1: a name with a dot is queried first as it is. An absolute name is not searched.
    put(system, "app.x.b.test", [@two])
    assert a(system, "app.x") == [@two]
    assert asked(system) == ["app.x", "app.x.a.test", "app.x.b.test"]
    assert a(system, "app.x.") == :nxdomain
    assert asked(system) == ["app.x"]

    # The name itself is queried last.
    assert a(system, "none") == :nxdomain
    assert asked(system) == ["none.a.test", "none.b.test", "none"]
  end

  @shortage ~S"""
  limit = fn soft -> {_, 0} = System.cmd("prlimit", ["--pid", System.pid(), "--nofile=#{soft}:"]) end
  # The VM loads the modules while descriptors are free.
  explicit = [nameservers: ["127.0.0.1"]]
  _ = Caravan.Dns.lookup("warm.test", :a, explicit)
  limit.(64)
  held = Caravan.Test.OsResources.hold_descriptors()
  during = Caravan.Dns.lookup("hosted.test", :a)
  Enum.each(held, &:gen_udp.close/1)
  limit.(1024)
  {during, Caravan.Dns.lookup("hosted.test", :a)}
  """

  test "a file that cannot be opened fails the lookup, and the next lookup reads it again" do
    system = start(@localhost, "10.0.0.3 hosted.test\n")
    {during, afterwards} = PeerNode.eval(system.node, @shortage)
    assert {:error, %Error{reason: {:unreadable_file, text}}} = during
    assert text =~ ~r"^/etc/.*: Too many open files"
    assert {:ok, %{records: [@three]}} = afterwards
  end

  for file <- [:resolv_conf, :hosts] do
    test "#{file} that is a pipe fails the lookups that need it, and no others" do
      system = start(@localhost)
      put(system, "app.test", [@one])
      path = Path.join(system.etc, %{resolv_conf: "resolv.conf", hosts: "hosts"}[unquote(file)])
      File.rm!(path)
      {_, 0} = System.cmd("mkfifo", [path])
      started = System.monotonic_time(:millisecond)
      assert {:error, %Error{}} = SystemFiles.lookup(system, "app.test", :a, timeout: 500)
      assert System.monotonic_time(:millisecond) - started < 10_000
      explicit = [nameservers: ["127.0.0.1"], timeout: 20_000]
      assert {:ok, %{records: [@one]}} = SystemFiles.lookup(system, "app.test", :a, explicit)

      SystemFiles.replace!(
        system,
        unquote(file),
        if(unquote(file) == :hosts, do: "", else: @localhost)
      )

      assert {:ok, %{records: [@one]}} = SystemFiles.lookup(system, "app.test", :a)
    end
  end

  test "a hosts file that never returns from read fails the lookups that need it by their deadlines, and no others" do
    system = start(@localhost)
    put(system, "app.test", [@one])

    # The master side of a terminal without a slave blocks in read, as a file of a hung network mount does.
    path = Path.join(system.etc, "hosts")
    File.rm!(path)
    File.ln_s!("/dev/ptmx", path)

    lookups =
      for _ <- 1..20,
          do: Task.async(fn -> SystemFiles.lookup(system, "app.test", :a, timeout: 500) end)

    explicit = [nameservers: ["127.0.0.1"], timeout: 20_000]
    assert {:ok, %{records: [@one]}} = SystemFiles.lookup(system, "app.test", :a, explicit)

    for result <- Task.await_many(lookups, 30_000), do: assert(not_read_in_time?(result))

    # The lookups share one read. If each of them had started its own, no thread would be left.
    SystemFiles.replace!(system, :hosts, "10.0.0.3 hosted.test\n")
    assert {:ok, %{records: [@three]}} = SystemFiles.lookup(system, "hosted.test", :a)
  end

  test "a hosts file of over 16 MiB is an error that names the limit" do
    system = start(@localhost, String.duplicate("# comment\n", 1_700_000))
    assert {:error, %Error{} = error} = SystemFiles.lookup(system, "app.test", :a)
    assert error.reason == {:unreadable_file, "/etc/hosts: it is larger than 16 MiB"}
  end

  # A file system without a server: `cat` holds it open, and nothing responds to its requests.
  @hung ~S"""
  exec 3<>/dev/fuse
  mkdir /etc/hung
  mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 hung /etc/hung
  ln -sf hung/hosts /etc/hosts
  echo hung
  exec cat
  """

  @tag Requirements.tag(:fuse)
  test "a file system that does not respond fails the lookups that need it, and holds no scheduler" do
    system = start(@localhost)
    put(system, "app.test", [@one])

    code = ~S"""
    # These load all modules.
    explicit = [nameservers: ["127.0.0.1"], timeout: 2_000]
    {:ok, %{records: [_]}} = Caravan.Dns.lookup("app.test", :a)
    {:ok, %{records: [_]}} = Caravan.Dns.lookup("app.test", :a, explicit)
    port = Port.open({:spawn_executable, "/bin/sh"}, [:binary, args: ["-ec", hung]])
    receive do {^port, {:data, "hung\n"}} -> :ok after 10_000 -> raise "no file system" end

    # Together with /etc/hosts, more files than there are threads that look at files.
    other_files = for n <- 1..12, do: [nameservers: ["127.0.0.1"], ca_file: "/etc/hung/#{n}"]

    refs =
      for options <- List.duplicate([], 20) ++ other_files do
        {:ok, ref} = Caravan.Dns.lookup_async("app.test", :a, [timeout: 500] ++ options)
        ref
      end

    others = for _ <- 1..20, do: Caravan.Dns.lookup("app.test", :a, explicit)
    results = for ref <- refs, do: (receive do {^ref, result} -> result after 10_000 -> :none end)
    {others, results}
    """

    {others, results} = PeerNode.eval(system.node, code, hung: @hung)
    for other <- others, do: assert({:ok, %{records: [@one]}} = other)
    for result <- results, do: assert(not_read_in_time?(result))

    # The file system ends with the process that ran the code. Then the threads are free.
    SystemFiles.replace!(system, :hosts, "10.0.0.3 hosted.test\n")
    assert a(system, "hosted.test") == [@three]
  end

  # The error names the first file that the lookup waits for: /etc/resolv.conf if no thread was free to look at it.
  defp not_read_in_time?({:error, %Error{reason: {:unreadable_file, text}}}),
    do: text =~ ~r"^/etc/.*: it was not read before the deadline$"

  defp not_read_in_time?(_result), do: false

  test "a large hosts file delays no other lookup by more than 5 ms" do
    # Parsing this file takes some 20 ms. During a longer time, a busy machine would delay some lookup, whatever parses.
    lines = for n <- 1..40_000, do: "10.#{rem(n, 250)}.#{div(n, 1000)}.1 host#{n}.test\n"
    system = start(@localhost)

    # Over TCP, so that the runtime's thread has to receive the response.
    code = ~S"""
    explicit = [nameservers: ["tcp://127.0.0.1"]]
    _ = Caravan.Dns.lookup("warm.test", :a, explicit)
    {:ok, ref} = Caravan.Dns.lookup_async("hosted.test", :a, timeout: 30_000)

    repeat = fn repeat, times ->
      {time, _} = :timer.tc(fn -> Caravan.Dns.lookup("other.test", :a, explicit) end)

      receive do
        {^ref, result} -> {result, [time | times]}
      after
        0 -> repeat.(repeat, [time | times])
      end
    end

    repeat.(repeat, [])
    """

    attempt = fn n ->
      hosts = IO.iodata_to_binary(["10.0.0.#{n} hosted.test\n" | lines])
      SystemFiles.replace!(system, :hosts, hosts)
      {result, times} = PeerNode.eval(system.node, code)
      assert {:ok, %{records: [{10, 0, 0, ^n}]}} = result
      times
    end

    # In microseconds. A lookup that waits for the file takes longer at each attempt.
    attempts = Stream.map(1..250, attempt)
    assert Enum.any?(attempts, &(length(&1) > 10 and Enum.max(&1) <= 5_000))
  end

  test "search: after SERVFAIL the next name is queried; SERVFAIL is reported if none has an answer" do
    system = start("search a.test b.test\n" <> @localhost)
    put(system, "app.a.test", :servfail)
    put(system, "app.b.test", [@one])
    assert a(system, "app") == [@one]
    # As the C library does.
    put(system, "app.b.test", :nxdomain)
    assert a(system, "app") == :servfail
  end

  test "search: an error has the nameserver that returned it, and not the last one that was queried" do
    servers = "nameserver 127.0.0.1\nnameserver 127.0.0.2\n"
    system = start("search a.test b.test\n" <> servers)
    SystemFiles.nameserver!(system, :second, ip: {127, 0, 0, 2})
    put(system, "app.a.test", :empty)
    put(system, "app.b.test", :refused)
    put(system, :second, "app.b.test", :nxdomain)
    put(system, :second, "app", :nxdomain)

    assert {:error, %Error{reason: :no_records, nameserver: "127.0.0.1:53", transport: :udp}} =
             SystemFiles.lookup(system, "app", :a)
  end

  test "search: any other error ends the lookup" do
    system = start("search a.test b.test\n" <> @localhost)
    put(system, "app.a.test", :refused)
    put(system, "app.b.test", [@one])
    assert a(system, "app") == :refused
  end

  test "search: a silent nameserver delays a lookup once, not for each name" do
    # As in Kubernetes.
    domains = "ns.svc.cluster.local svc.cluster.local cluster.local"

    system =
      start("search #{domains}\noptions ndots:5\nnameserver 127.0.0.1\nnameserver 127.0.0.2\n")

    SystemFiles.nameserver!(system, :second, ip: {127, 0, 0, 2})
    SystemFiles.server(system, :first, :put_default, [:silent])
    put(system, :second, "app.other.svc.cluster.local", [@two])
    # An attempt can take a second, and there are four names.
    assert a(system, "app.other.svc.cluster.local", timeout: 4_000) == [@two]
  end

  test "hosts: only a line that is not UTF-8 is ignored" do
    system =
      start(@localhost, "127.0.0.1 localhost\n10.0.0.7 db.test\n# caf\xe9\n10.0.0.8 db2.test\n")

    assert a(system, "db.test") == [{10, 0, 0, 7}]
    assert a(system, "db2.test") == [{10, 0, 0, 8}]
  end

  test "search: the domain of this machine is used, and the root can be a domain" do
    system = start("domain a.test\n" <> @localhost)
    put(system, "app.a.test", [@one])
    assert a(system, "app") == [@one]
    # systemd-resolved writes this (erlang/otp#4838).
    SystemFiles.write!(system, :resolv_conf, "search .\n" <> @localhost)
    put(system, "app", [@two])
    assert a(system, "app") == [@two]
  end

  test "ndots: a name with at least this number of dots is queried first as it is" do
    # As in Kubernetes.
    system =
      start("search ns.svc.cluster.local svc.cluster.local\noptions ndots:5\n" <> @localhost)

    put(system, "app.ns.svc.cluster.local", [@one])
    assert a(system, "app.ns") == [@one]
    assert asked(system) == ["app.ns.ns.svc.cluster.local", "app.ns.svc.cluster.local"]
    assert a(system, "a.b.c.d.e.f") == :nxdomain
    assert hd(asked(system)) == "a.b.c.d.e.f"
  end

  test "timeout and attempts: they limit the attempts per nameserver, unless the options of the lookup do" do
    system = start("options timeout:1 attempts:3\n" <> @localhost)
    put(system, "app.test", :silent)
    # The lookup ends long before its deadline.
    assert a(system, "app.test", timeout: 60_000) in [:timeout]
    assert asked(system) == ["app.test", "app.test", "app.test"]
    # The options of the lookup override the file.
    assert a(system, "app.test", timeout: 2_000, attempts: 2) == :timeout
    assert asked(system) == ["app.test", "app.test"]
  end

  test "nameservers: they are queried in order, the next one if one fails or is silent" do
    system = start("nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\n")

    for {name, n} <- [second: 2, third: 3],
        do: SystemFiles.nameserver!(system, name, ip: {127, 0, 0, n})

    put(system, :first, "app.test", [@one])
    put(system, :second, "app.test", [@two])
    put(system, :third, "app.test", [@three])
    for _ <- 1..6, do: assert(a(system, "app.test") == [@one])
    put(system, :first, "app.test", :servfail)
    assert a(system, "app.test") == [@two]
    put(system, :second, "app.test", :silent)
    assert a(system, "app.test", timeout: 3_000) == [@three]
  end

  test "rotate: each lookup starts with another nameserver" do
    system = start("options rotate\nnameserver 127.0.0.1\nnameserver 127.0.0.2\n")
    SystemFiles.nameserver!(system, :second, ip: {127, 0, 0, 2})
    put(system, :first, "app.test", [@one])
    put(system, :second, "app.test", [@two])
    found = for _ <- 1..10, do: a(system, "app.test")
    assert Enum.frequencies(found) == %{[@one] => 5, [@two] => 5}
  end

  test "nameservers with an IPv6 address and a scope are used, and invalid ones ignored" do
    system = start("nameserver fe80::1%lo\nnameserver nonsense\nnameserver ::1\n")

    SystemFiles.nameserver!(system, :six,
      ip: {0, 0, 0, 0, 0, 0, 0, 1},
      answers: [{"app.test", :a, [@one]}]
    )

    assert a(system, "app.test", timeout: 10_000) == [@one]
  end

  test "without a resolv.conf, or without a nameserver in it, the one on this machine is used" do
    system = start(nil)
    put(system, "app.test", [@one])
    assert a(system, "app.test") == [@one]
    SystemFiles.write!(system, :resolv_conf, "search a.test\n")
    put(system, "app.a.test", [@two])
    assert a(system, "app") == [@two]
    SystemFiles.remove!(system, :resolv_conf)
    put(system, "app", [@three])
    assert a(system, "app") == [@three]
  end

  describe "hosts" do
    @hosts """
    # A comment
    127.0.0.1 localhost
    10.0.0.1\tnode1.test Node1 # and one more
    fd00::1   node1.test
    10.0.0.2  node1.test
    nonsense  node2.test
    """

    test "is used first, for names in any case, with all addresses of both families" do
      system = start("search test\n" <> @localhost, @hosts)

      for name <- ["node1.test", "NODE1.test.", "node1"] do
        assert {:ok, answer} = SystemFiles.lookup(system, name, :a)
        assert %{transport: :hosts, nameserver: nil} = answer
        assert @one in answer.records
      end

      assert a(system, "node1.test") == [@one, @two]

      assert {:ok, %{records: [{0xFD00, 0, 0, 0, 0, 0, 0, 1}]}} =
               SystemFiles.lookup(system, "node1.test", :aaaa)

      assert asked(system) == []
    end

    test "is not used for other names and record types" do
      system = start(@localhost, @hosts)
      put(system, "node2.test", [@three])
      assert a(system, "node2.test") == [@three]
      assert {:error, %Error{reason: :nxdomain}} = SystemFiles.lookup(system, "node1.test", :srv)
    end

    test "is used for the targets of SRV records" do
      system = start(@localhost, @hosts)

      SystemFiles.server(system, :first, :put, ["_app._tcp.test", :srv, [{0, 0, 1, "node1.test"}]])

      assert {:ok, %{records: [%{addresses: addresses}]}} =
               SystemFiles.lookup(system, "_app._tcp.test", :srv, addresses: true)

      assert @one in addresses
    end

    test "is not used if nameservers are given" do
      system = start(@localhost, @hosts)
      put(system, "node1.test", [@three])
      assert a(system, "node1.test", nameservers: ["127.0.0.1"]) == [@three]
    end

    test "may be missing" do
      system = start(@localhost, nil)
      put(system, "app.test", [@one])
      assert a(system, "app.test") == [@one]
    end
  end

  describe "the next lookup uses a change:" do
    setup do
      system = start("nameserver 127.0.0.1\n")
      SystemFiles.nameserver!(system, :second, ip: {127, 0, 0, 2})
      put(system, :first, "app.test", [@one])
      put(system, :second, "app.test", [@two])
      assert a(system, "app.test") == [@one]
      %{system: system}
    end

    # Both have the same length.
    defp other(_now = 1), do: "nameserver 127.0.0.2\n"
    defp other(_now = 2), do: "nameserver 127.0.0.1\n"

    test "resolv.conf was written", %{system: system} do
      SystemFiles.write!(system, :resolv_conf, other(1))
      assert a(system, "app.test") == [@two]
      SystemFiles.write!(system, :resolv_conf, other(2))
      assert a(system, "app.test") == [@one]
    end

    test "resolv.conf was replaced", %{system: system} do
      SystemFiles.replace!(system, :resolv_conf, other(1))
      assert a(system, "app.test") == [@two]
    end

    test "resolv.conf was replaced by a file with the same time and size", %{system: system} do
      SystemFiles.replace!(system, :resolv_conf, other(1), keep_time: true)
      assert a(system, "app.test") == [@two]
    end

    test "resolv.conf was replaced, removed and created", %{system: system} do
      SystemFiles.replace!(system, :resolv_conf, other(1))
      assert a(system, "app.test") == [@two]
      SystemFiles.remove!(system, :resolv_conf)
      assert a(system, "app.test") == [@one]
      SystemFiles.write!(system, :resolv_conf, other(1))
      assert a(system, "app.test") == [@two]
    end

    test "hosts was written, replaced and removed", %{system: system} do
      SystemFiles.write!(system, :hosts, "10.0.0.3 app.test\n")
      assert a(system, "app.test") == [@three]
      SystemFiles.replace!(system, :hosts, "10.0.0.2 app.test\n", keep_time: true)
      assert a(system, "app.test") == [@two]
      SystemFiles.remove!(system, :hosts)
      assert a(system, "app.test") == [@one]
    end
  end
end
