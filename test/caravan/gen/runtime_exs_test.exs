defmodule Caravan.Gen.RuntimeExsTest do
  use ExUnit.Case, async: true

  alias Caravan.Dns
  alias Caravan.Gen.Options
  alias Caravan.Gen.RuntimeExs
  alias Caravan.Test.DnsServer

  # Consul's setting enable_truncate is off by default: an answer over UDP has the records that fit, and not the flag TC.
  test "on Nomad, the lookup has all records of an agent of Consul that cuts its answers over UDP" do
    all = for n <- 1..100, do: {1, 1, 25_000 + n, "#{n}.addr.dc1.consul"}
    reply = {:fun, fn query -> if query.transport == :udp, do: Enum.take(all, 10), else: all end}
    server = start_supervised!({DnsServer, answers: [{"app-dist.service.consul", :srv, reply}]})

    project = %{app: :app, releases: [], umbrella?: false}
    {:ok, options} = Options.parse(["--platform", "nomad"], project)
    config = RuntimeExs.config(options)
    assert [_, nameserver] = Regex.run(~r/nameservers: \["(.*)"\]/, config)
    nameserver = String.replace(nameserver, "127.0.0.1:8600", DnsServer.address(server))

    options = [nameservers: [nameserver], addresses: false]
    assert {:ok, answer} = Dns.lookup("app-dist.service.consul", :srv, options)
    assert length(answer.records) == 100
  end
end
