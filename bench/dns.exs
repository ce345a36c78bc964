# How fast Caravan.Dns is, each figure against its alternative in the same run, on knot on loopback:
#
#   mix run bench/dns.exs
#
# Medians. A ratio is Caravan's figure over the other one's; for name to port, the other way round.

Code.require_file("../test/support/daemon.ex", __DIR__)
Code.require_file("../test/support/knot.ex", __DIR__)

defmodule Bench do
  @zone "bench.test"

  def zone, do: @zone

  def records do
    few = for n <- 1..3, do: "few 60 SRV 0 0 #{4000 + n} node#{n}"
    many = for size <- [200, 1_000], n <- 1..size, do: "r#{size} 60 SRV 0 0 #{4000 + n} node#{n}"
    distinct = for i <- 1..2_000, n <- 1..3, do: "d#{i} 60 SRV 0 0 #{4000 + n} node#{n}"
    few ++ many ++ distinct
  end

  @doc "Median time of one call, in nanoseconds."
  def median(count, fun) do
    times = for _ <- 1..count, do: time(fun)
    times |> Enum.sort() |> Enum.at(div(count, 2))
  end

  defp time(fun) do
    start = System.monotonic_time(:nanosecond)
    fun.()
    System.monotonic_time(:nanosecond) - start
  end

  @doc "Mean time of one call, for calls too short to be timed one by one."
  def mean(count, fun) do
    {time, :ok} = :timer.tc(fn -> repeat(count, fun) end)
    time * 1_000 / count
  end

  defp repeat(0, _fun), do: :ok

  defp repeat(count, fun) do
    fun.()
    repeat(count - 1, fun)
  end

  @doc "Calls per second of `callers` processes, each asking for names of its own."
  def throughput(callers, total, fun) do
    share = div(total, callers)

    {time, _} =
      :timer.tc(fn ->
        1..callers
        |> Enum.map(fn caller ->
          Task.async(fn -> for i <- 1..share, do: fun.(rem(caller * share + i, 2_000) + 1) end)
        end)
        |> Task.await_many(:infinity)
      end)

    callers * share * 1_000_000 / time
  end

  @doc "CPU microseconds per call, of all threads of this VM."
  def cpu(count, fun) do
    before = cpu_time()
    repeat(count, fun)
    (cpu_time() - before) / count
  end

  # /proc/self/stat, fields 14 and 15 (proc(5)): user and system time in ticks of 10 ms.
  defp cpu_time do
    [_, rest] = "/proc/self/stat" |> File.read!() |> String.split(") ")
    [user, system] = rest |> String.split() |> Enum.slice(11, 2) |> Enum.map(&String.to_integer/1)
    (user + system) * 10_000
  end

  def row(title, ours, other, name, wanted, ratio) do
    IO.puts(
      "| #{title} | #{format(ours)} | #{format(other)} (#{name}) | " <>
        "#{:erlang.float_to_binary(ratio * 1.0, decimals: 2)} | #{wanted} |"
    )
  end

  defp format({:us, ns}), do: :erlang.float_to_binary(ns / 1_000, decimals: 1) <> " µs"
  defp format({:ns, ns}), do: "#{round(ns)} ns"
  defp format({:per_s, n}), do: "#{round(n)}/s"
end

# Caravan 1.0's Caravan.Epmd.dist_port/1 did this.
regexes = fn name ->
  node_name = Regex.replace(~r/@.*$/, name, "")

  case Regex.run(~r/[0-9]+$/, node_name) do
    nil -> 4370
    [offset] -> String.to_integer(offset)
  end
end

{:ok, knot} = Caravan.Test.Knot.start_link(zone: Bench.zone(), records: Bench.records())
address = Caravan.Test.Knot.address(knot)
[ip, port] = String.split(address, ":")
{:ok, ip} = ip |> String.to_charlist() |> :inet.parse_address()
inet_options = [nameservers: [{ip, String.to_integer(port)}], timeout: 5_000, edns: 0]

ours = fn name ->
  {:ok, _} = Caravan.Dns.lookup("#{name}.bench.test", :srv, nameservers: [address], cache: false)
end

inet = fn name ->
  {:ok, _} = :inet_res.resolve(~c"#{name}.bench.test", :in, :srv, inet_options)
end

{floor, 0} =
  System.cmd(
    "cargo",
    ~w(run --quiet --release --locked -p caravan_core --example udp_round_trip --target-dir) ++
      [Path.expand("_build/cargo"), "--", address, "few.bench.test", "5000"],
    cd: "native"
  )

floor = floor |> String.trim() |> String.to_integer()

for _ <- 1..200, do: {ours.("few"), inet.("few")}

IO.puts(
  "#{System.schedulers_online()} schedulers, OTP #{System.otp_release()}, Elixir #{System.version()}\n"
)

IO.puts("| work | Caravan | other | ratio | wanted |\n|---|---|---|---|---|")

ours_few = Bench.median(3_000, fn -> ours.("few") end)
inet_few = Bench.median(3_000, fn -> inet.("few") end)

Bench.row(
  "SRV, 3 records, one at a time",
  {:us, ours_few},
  {:us, inet_few},
  ":inet_res",
  "≤ 1.0",
  ours_few / inet_few
)

Bench.row(
  "the same",
  {:us, ours_few},
  {:us, floor},
  "bare UDP round trip",
  "≤ 2.0",
  ours_few / floor
)

for size <- [200, 1_000] do
  a = Bench.median(500, fn -> ours.("r#{size}") end)
  b = Bench.median(500, fn -> inet.("r#{size}") end)
  Bench.row("SRV, #{size} records", {:us, a}, {:us, b}, ":inet_res", "≤ 0.5", a / b)
end

for callers <- [16, 128] do
  a = Bench.throughput(callers, 40_000, fn i -> ours.("d#{i}") end)
  b = Bench.throughput(callers, 20_000, fn i -> inet.("d#{i}") end)

  Bench.row(
    "lookups per second, #{callers} callers",
    {:per_s, a},
    {:per_s, b},
    ":inet_res",
    "≥ 4",
    a / b
  )
end

# Reads the settings once, as the start of distribution does.
:ignore = Caravan.Epmd.start_link()
a = Bench.mean(1_000_000, fn -> Caravan.Epmd.dist_port("app-4001@node1.example.com") end)
b = Bench.mean(50_000, fn -> regexes.("app-4001@node1.example.com") end)
Bench.row("name to port", {:ns, a}, {:ns, b}, "Caravan 1.0's regexes", "≥ 40", b / a)

a = Bench.cpu(10_000, fn -> ours.("few") end)
b = Bench.cpu(10_000, fn -> inet.("few") end)

Bench.row(
  "CPU per lookup, all threads",
  {:us, a * 1_000},
  {:us, b * 1_000},
  ":inet_res",
  "≤ 1.0",
  a / b
)
