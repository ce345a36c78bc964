defmodule Caravan.Doctor.LookupTest do
  # Not async: tests of the resolver count the lookups of this VM.
  use ExUnit.Case

  import ExUnit.CaptureIO

  alias Caravan.Doctor
  alias Caravan.Test.DnsServer
  alias Mix.Tasks.Caravan.Lookup

  @query "_app._tcp.test."

  setup do
    server = start_supervised!(DnsServer)
    {:ok, server: server, address: DnsServer.address(server)}
  end

  defp lookup(context, options) do
    me = self()

    output =
      capture_io(fn ->
        send(me, Doctor.lookup(@query, [nameservers: [context.address]] ++ options))
      end)

    assert_received result
    {result, output}
  end

  test "shows each record, and the node, the port and the address that follow", context do
    DnsServer.put(context.server, @query, :srv, [{1, 2, 4001, "n1.test"}, {0, 0, 4002, "n2.test"}])

    DnsServer.put(context.server, "n1.test", :a, [{10, 0, 0, 1}])
    {:ok, output} = lookup(context, node_sname: "app")

    assert output =~
             ~r/^SRV _app._tcp.test.: 2 records from #{context.address} \(udp\) in \d+ µs, TTL \d+ s$/m

    assert output =~ """
             1 2 4001 n1.test (10.0.0.1)
               app-4001@n1.test: port 4001 by the port rule, address 10.0.0.1
           """

    assert output =~ """
             0 0 4002 n2.test (no address)
               app-4002@n2.test: port 4002 by the port rule, the resolver of the host finds the address
           """
  end

  test "shows ports from the records, names without a port, and why a record is left out",
       context do
    DnsServer.put(context.server, @query, :srv, [{0, 0, 25_017, "n1.test"}])
    {:ok, output} = lookup(context, node_sname: "app", ports: :srv)
    assert output =~ "app@n1.test: port 25017 from the record"

    {:ok, output} = lookup(context, node_sname: "app", node_name: "{name}-70000@{host}")
    assert output =~ "app-70000@n1.test: no distribution port for \"app-70000@n1.test\""

    {:ok, output} = lookup(context, node_sname: "app", allow: ["10.0.0.0/8"])
    assert output =~ "left out: app-25017@n1.test has no address that :allow accepts"
  end

  test "shows the error of each record type, and returns whether one has an answer", context do
    DnsServer.put(context.server, @query, :a, [{10, 0, 0, 1}])
    {result, output} = lookup(context, type: [:a, :aaaa], node_sname: "app-4001")
    assert result == :ok
    assert output =~ "app-4001@10.0.0.1: port 4001 by the port rule, address 10.0.0.1"

    assert output =~
             ~r/^AAAA _app._tcp.test.: DNS lookup of .* failed at #{context.address}: .*\n  after \d+ µs over UDP$/m

    assert {{:error, :no_answer}, _output} = lookup(context, [])
    assert_raise ArgumentError, ~r/unknown option :retries/, fn -> lookup(context, retries: 1) end
  end

  describe "mix caravan.lookup" do
    defp task(args) do
      me = self()

      output =
        capture_io(:stderr, fn ->
          send(me, {:output, capture_io(fn -> send(me, {:status, status(args)}) end)})
        end)

      assert_received {:status, status}
      assert_received {:output, stdout}
      {status, stdout <> output}
    end

    defp status(args) do
      Lookup.run(args)
      0
    catch
      :exit, {:shutdown, status} -> status
    end

    test "takes its options from the command line", context do
      DnsServer.put(context.server, @query, :srv, [{0, 0, 4001, "n1.test"}])
      DnsServer.put(context.server, @query, :a, [{10, 0, 0, 1}])
      nameserver = ["--nameserver", context.address]

      assert {0, output} = task([@query | nameserver])
      assert output =~ "caravan-4001@n1.test: port 4001 by the port rule"
      assert {0, output} = task([@query, "--sname", "app", "--ports", "srv" | nameserver])
      assert output =~ "app@n1.test: port 4001 from the record"
      assert {0, output} = task([@query, "--type", "a,aaaa" | nameserver])
      assert output =~ "caravan@10.0.0.1: port 4370"
    end

    test "ends with status 1 without an answer, and with status 2 for wrong arguments", context do
      assert {1, output} = task(["none.test.", "--nameserver", context.address])
      assert output =~ "(:nxdomain)"

      for {args, message} <- [
            {[], "expected one DNS name, got: []"},
            {["a", "b"], ~s(expected one DNS name, got: ["a", "b"])},
            {["a", "--bad"], "--bad : Unknown option"},
            {["a", "--type", "mx"], "expected :type to be :srv, :a or :aaaa"},
            {["a", "--nameserver", "ns"], "expected :nameservers"}
          ] do
        assert {2, output} = task(args)
        assert output =~ message
      end
    end
  end
end
