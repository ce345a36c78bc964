# Measures what a strategy costs at rest: the CPU time of its VM in each of the first two minutes, with polls of one
# second. All VMs run at the same time, next to one without a strategy. The dead nodes refuse connections.
#
#   mix run bench/rest.exs [CASE…]
#
# A case is LIVE/RECORDS, by default 10/10, 10/100 and 10/1000.
#
# Two more VMs look up 100 SRV records of 100 targets and connect to none of them (`links: 0`). In one of them, the answer
# has the addresses of the targets. In the other one, they have to be looked up, and the queries are counted.

Code.require_file("nodes.ex", __DIR__)

for file <- ~w(dns_server/wire dns_server/message dns_server),
    do: Code.require_file("../test/support/servers/#{file}.ex", __DIR__)

alias Bench.Nodes
alias Caravan.Test.DnsServer
alias Caravan.Test.Knot

minutes = 2
# CPU seconds in the first minute and in the second one.
limits = %{{10, 10} => {0.10, 0.10}, {10, 100} => {0.30, 0.30}, {10, 1_000} => {1.0, 0.2}}

cases =
  case System.argv() do
    [] ->
      [{10, 10}, {10, 100}, {10, 1_000}]

    args ->
      for arg <- args,
          do: arg |> String.split("/") |> Enum.map(&String.to_integer/1) |> List.to_tuple()
  end

query = fn {live, all} -> "_n#{live}-#{all}._tcp" end

# Nothing listens on the ports of the dead nodes.
records = fn {live, all} ->
  for number <- 1..all do
    port = if number <= live, do: Nodes.port(number), else: Nodes.port(1_000 + number)
    "#{query.({live, all})} 60 SRV 0 0 #{port} host"
  end
end

targets = for n <- 1..100, do: {"target#{n}", {127, 0, 1, n}}
targets_limits = %{cpu: 0.40, queries: 300}

target_records =
  for {{target, ip}, n} <- Enum.with_index(targets, 1),
      record <- [
        "_targets._tcp 60 SRV 0 0 #{Nodes.port(n)} #{target}",
        "#{target} 60 A #{:inet.ntoa(ip)}"
      ],
      do: record

{:ok, knot} =
  Knot.start_link(
    zone: "bench.test",
    records: Nodes.zone(Enum.flat_map(cases, records) ++ target_records)
  )

# This nameserver does not send the addresses of targets with the SRV records.
{:ok, bare} = DnsServer.start_link(port: Nodes.port(9_999))

for {target, ip} <- targets,
    do: DnsServer.put(bare, "#{target}.bench.test", :a, {[ip], ttl: 60})

services =
  for {{target, _ip}, n} <- Enum.with_index(targets, 1),
      do: {0, 0, Nodes.port(n), "#{target}.bench.test"}

DnsServer.put(bare, "_targets._tcp.bench.test", :srv, {services, ttl: 60})

alone = ~w(-connect_all false)
live = Nodes.start(1..(cases |> Enum.map(&elem(&1, 0)) |> Enum.max()), alone)
vms = Nodes.start(Enum.map(0..(length(cases) + 2), &(900 + &1)), alone)
[_idle, with_addresses, without_addresses | case_vms] = vms

for {vm, config} <- Enum.zip(case_vms, cases) do
  options =
    Keyword.merge(Nodes.options(knot),
      poll_interval: 1_000,
      query: query.(config) <> ".bench.test"
    )

  Nodes.call(vm, :discover, [options, elem(config, 0)])
end

for {vm, nameserver} <- [
      {with_addresses, Knot.address(knot)},
      {without_addresses, DnsServer.address(bare)}
    ] do
  options = [
    query: "_targets._tcp.bench.test",
    node_sname: "app",
    nameservers: [nameserver],
    poll_interval: 1_000,
    links: 0,
    log_level: :none
  ]

  Nodes.call(vm, :discover, [options, 0])
end

cpu = fn vm ->
  pid = :peer.call(vm.peer, :os, :getpid, [])
  [_, rest] = "/proc/#{pid}/stat" |> File.read!() |> String.split(") ")
  fields = String.split(rest)
  # In hundredths of a second, proc(5).
  (String.to_integer(Enum.at(fields, 11)) + String.to_integer(Enum.at(fields, 12))) / 100
end

print = fn title, spent, limit ->
  IO.puts(
    String.pad_trailing(title, 28) <>
      Enum.map_join(spent, " ", &"#{Float.round(&1, 2)} s") <> limit
  )
end

{times, queries} =
  for _minute <- 1..minutes, reduce: {[Enum.map(vms, cpu)], []} do
    {times, queries} ->
      Process.sleep(60_000)
      asked = length(DnsServer.queries(bare))
      :ok = DnsServer.reset(bare)
      {[Enum.map(vms, cpu) | times], [asked | queries]}
  end

[idle, with_addresses, without_addresses | spent] =
  for times <- Enum.zip_with(Enum.reverse(times), & &1),
      do: Enum.zip_with(tl(times), times, &(&1 - &2))

print.("CPU seconds per minute", [], "")
print.("without a strategy", idle, "")

for {{nodes, all} = config, spent} <- Enum.zip(cases, spent) do
  {first, later} = Map.get(limits, config, {"-", "-"})
  print.("#{nodes} live, #{all - nodes} refuse", spent, " (wanted: #{first}, then #{later})")
end

print.("100 targets with addresses", with_addresses, " (wanted: #{targets_limits.cpu})")
print.("100 targets without them", without_addresses, "")

IO.puts(
  "their queries               #{queries |> Enum.reverse() |> Enum.join(" ")} (wanted: #{targets_limits.queries})"
)

Nodes.stop(live ++ vms)
GenServer.stop(knot)
GenServer.stop(bare)
