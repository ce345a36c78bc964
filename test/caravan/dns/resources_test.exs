defmodule Caravan.Dns.ResourcesTest do
  use ExUnit.Case, async: true

  # Lookups while the operating system gives the VM no thread or no file descriptor.

  alias Caravan.Dns
  alias Caravan.Dns.Error
  alias Caravan.Test.DnsServer
  alias Caravan.Test.PeerNode

  setup do
    server = start_supervised!(DnsServer)
    DnsServer.put_default(server, [{127, 0, 0, 1}])
    %{options: [nameservers: [DnsServer.address(server)]]}
  end

  test "an error names descriptors when none is free, and the next lookup after that succeeds",
       %{options: options} do
    node = PeerNode.start!(wrapper: ["sh", "-c", ~S(ulimit -n 64; exec "$@"), "sh"])

    code = """
    first = Caravan.Dns.lookup("warm.test", :a, options)
    Caravan.Dns.flush()
    held = Caravan.Test.OsResources.hold_descriptors()
    during = Caravan.Dns.lookup("app.test", :a, options)
    Enum.each(held, &:gen_udp.close/1)
    {first, during, Caravan.Dns.lookup("app.test", :a, options)}
    """

    {first, during, afterwards} = PeerNode.eval(node, code, options: options)
    assert {:ok, %{records: [{127, 0, 0, 1}]}} = first
    assert {:ok, %{records: [{127, 0, 0, 1}]}} = afterwards
    assert {:error, %Error{} = error} = during
    assert {:no_descriptors, "Too many open files" <> _} = error.reason
    assert Exception.message(error) =~ ~r/descriptor/i
  end

  # The kernel does not limit the threads of root.
  test "an error names threads when none can be started", %{options: options} do
    user = ~w(setpriv --reuid=65534 --regid=65534 --clear-groups)
    node = PeerNode.start!(wrapper: user)
    # Run by the node, because only its user may change its limits.
    limit = fn soft ->
      args = ["--pid", node.os_pid, "--nproc=#{soft}:"]
      assert {_, 0} = PeerNode.call(node, System, :cmd, ["prlimit", args])
    end

    limit.(1)
    lookup = fn -> PeerNode.call(node, Dns, :lookup, ["app.test", :a, options]) end
    assert {:error, %Error{} = error} = lookup.()
    assert {:no_threads, _} = error.reason
    assert Exception.message(error) =~ ~r/thread/i
    limit.(10_000)
    assert {:ok, %{records: [{127, 0, 0, 1}]}} = lookup.()
  end
end
