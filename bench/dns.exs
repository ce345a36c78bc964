# Compares the speed of Caravan.Dns with alternatives, in one run, with knot on loopback:
#
#   mix run bench/dns.exs
#
# The figures are medians. A ratio is Caravan's figure divided by the other one. For "name to port", it is the other
# figure divided by Caravan's.

Code.require_file("../test/support/servers/daemon.ex", __DIR__)
Code.require_file("../test/support/servers/knot.ex", __DIR__)
Code.require_file("../test/support/servers/unbound.ex", __DIR__)

defmodule Bench do
  @zone "bench.test"

  def zone, do: @zone

  def records do
    few = for n <- 1..3, do: "few 60 SRV 0 0 #{4000 + n} node#{n}"
    many = for size <- [200, 1_000], n <- 1..size, do: "r#{size} 60 SRV 0 0 #{4000 + n} node#{n}"
    distinct = for i <- 1..2_000, n <- 1..3, do: "d#{i} 60 SRV 0 0 #{4000 + n} node#{n}"
    few ++ many ++ distinct
  end

  @doc """
  Returns the median duration of one call of each function, in nanoseconds. The functions take turns, with a hundred
  calls each, so that other load on the machine affects both.
  """
  def medians(count, ours, other) do
    turns = for _ <- 1..div(count, 100), do: {times(ours), times(other)}
    {ours, other} = Enum.unzip(turns)
    {median(ours), median(other)}
  end

  defp times(fun), do: for(_ <- 1..100, do: time(fun))

  defp time(fun) do
    start = System.monotonic_time(:nanosecond)
    fun.()
    System.monotonic_time(:nanosecond) - start
  end

  defp median(times) do
    times = times |> List.flatten() |> Enum.sort()
    Enum.at(times, div(length(times), 2))
  end

  @doc "Returns the mean duration of one call in nanoseconds, for calls that are too short to be measured singly."
  def mean(count, fun) do
    {time, :ok} = :timer.tc(fn -> repeat(count, fun) end)
    time * 1_000 / count
  end

  defp repeat(0, _fun), do: :ok

  defp repeat(count, fun) do
    fun.()
    repeat(count - 1, fun)
  end

  @doc "Returns the calls per second of `callers` processes."
  def throughput(callers, total, fun) do
    share = div(total, callers)

    {time, _} =
      :timer.tc(fn ->
        1..callers
        |> Enum.map(fn caller ->
          Task.async(fn ->
            # The callers start at different names.
            first = div(2_000 * caller, callers)
            Enum.each(1..share, fn i -> fun.(rem(first + i, 2_000) + 1) end)
          end)
        end)
        |> Task.await_many(:infinity)
      end)

    callers * share * 1_000_000 / time
  end

  @doc "Returns the CPU time per call of each function, over all threads of this VM, in microseconds."
  def cpu(count, ours, other) do
    turns = 20
    share = div(count, turns)

    {ours, other} = Enum.unzip(for _ <- 1..turns, do: {cpu_of(share, ours), cpu_of(share, other)})

    {Enum.sum(ours) / turns, Enum.sum(other) / turns}
  end

  defp cpu_of(count, fun) do
    before = cpu_time()
    repeat(count, fun)
    (cpu_time() - before) / count
  end

  # Fields 14 and 15 of /proc/self/stat (proc(5)): user and system time, in ticks of 10 ms.
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

  @doc "Returns the longest run of a process on a scheduler in milliseconds, or 0 if none is longer than 1 ms."
  def longest_run(count, fun) do
    :erlang.system_monitor(self(), [{:long_schedule, 1}])
    repeat(count, fun)
    :erlang.system_monitor(:undefined)
    longest(0)
  end

  defp longest(longest) do
    receive do
      {:monitor, _pid, :long_schedule, info} -> longest(max(longest, info[:timeout]))
    after
      0 -> longest
    end
  end

  defp format({:us, ns}), do: :erlang.float_to_binary(ns / 1_000, decimals: 1) <> " µs"
  defp format({:ns, ns}), do: "#{round(ns)} ns"
  defp format({:per_s, n}), do: "#{round(n)}/s"
end

# Caravan.Epmd.dist_port/1 of Caravan 1.0.
regexes = fn name ->
  node_name = Regex.replace(~r/@.*$/, name, "")

  case Regex.run(~r/[0-9]+$/, node_name) do
    nil -> 4370
    [offset] -> String.to_integer(offset)
  end
end

{:ok, unbound} =
  Caravan.Test.Unbound.start_link(
    records:
      for(n <- 1..1_000, do: "r1000.bench.test. 60 IN SRV 0 0 #{4000 + n} node#{n}.bench.test.")
  )

{:ok, knot} = Caravan.Test.Knot.start_link(zone: Bench.zone(), records: Bench.records())
address = Caravan.Test.Knot.address(knot)

ours_at = fn address ->
  fn name ->
    {:ok, _} = Caravan.Dns.lookup("#{name}.bench.test", :srv, nameservers: [address])
  end
end

inet_at = fn address ->
  [ip, port] = String.split(address, ":")
  {:ok, ip} = ip |> String.to_charlist() |> :inet.parse_address()
  options = [nameservers: [{ip, String.to_integer(port)}], timeout: 5_000, edns: 0]
  fn name -> {:ok, _} = :inet_res.resolve(~c"#{name}.bench.test", :in, :srv, options) end
end

ours = ours_at.(address)
inet = inet_at.(address)

round_trips =
  ~w(run --quiet --release --locked -p caravan_core --example udp_round_trip --target-dir) ++
    [Path.expand("_build/cargo"), "--", address, "few.bench.test", "10000", "16"]

floor = fn ->
  {text, 0} = System.cmd("cargo", round_trips, cd: "native")
  text |> String.split() |> Enum.map(&String.to_integer/1)
end

for _ <- 1..500, do: {ours.("few"), inet.("few")}

# On two cores a round trip takes 5 or 50 µs, depending on the cores of client and server. So this takes the median of
# several runs.
floors = for _ <- 1..9, do: floor.()
[floor_one, floor_many] = floors |> Enum.zip_with(&Enum.at(Enum.sort(&1), 4))

IO.puts(
  "#{System.schedulers_online()} schedulers, OTP #{System.otp_release()}, Elixir #{System.version()}\n"
)

IO.puts("| work | Caravan | other | ratio | wanted |\n|---|---|---|---|---|")

{a, b} = Bench.medians(5_000, fn -> ours.("few") end, fn -> inet.("few") end)
Bench.row("SRV, 3 records, one at a time", {:us, a}, {:us, b}, ":inet_res", "≤ 1.0", a / b)
Bench.row("the same", {:us, a}, {:us, floor_one}, "bare UDP", "≤ 2.0", a / floor_one)

for size <- [200, 1_000] do
  {a, b} = Bench.medians(1_000, fn -> ours.("r#{size}") end, fn -> inet.("r#{size}") end)
  Bench.row("SRV, #{size} records", {:us, a}, {:us, b}, ":inet_res", "≤ 0.5", a / b)
end

# knotd needs more than a millisecond for an answer of 1,000 records. unbound is faster.
at = Caravan.Test.Unbound.address(unbound)
{a, b} = Bench.medians(1_000, fn -> ours_at.(at).("r1000") end, fn -> inet_at.(at).("r1000") end)
Bench.row("the same, of unbound", {:us, a}, {:us, b}, ":inet_res", "", a / b)

for callers <- [16, 128] do
  a = Bench.throughput(callers, 40_000, fn i -> ours.("d#{i}") end)
  b = Bench.throughput(callers, 20_000, fn i -> inet.("d#{i}") end)
  title = "lookups per second, #{callers} callers"
  Bench.row(title, {:per_s, a}, {:per_s, b}, ":inet_res", "≥ 4", a / b)

  if callers == 16,
    do: Bench.row("the same", {:per_s, a}, {:per_s, floor_many}, "bare UDP", "", a / floor_many)
end

# Reads the settings, as OTP does when distribution starts. There is no process to start, so it returns :ignore.
:ignore = Caravan.Epmd.start_link()
a = Bench.mean(1_000_000, fn -> Caravan.Epmd.dist_port("app-4001@node1.example.com") end)
b = Bench.mean(50_000, fn -> regexes.("app-4001@node1.example.com") end)
Bench.row("name to port", {:ns, a}, {:ns, b}, "Caravan 1.0's regexes", "≥ 40", b / a)

{a, b} = Bench.cpu(20_000, fn -> ours.("few") end, fn -> inet.("few") end)
title = "CPU per lookup, all threads"
Bench.row(title, {:us, a * 1_000}, {:us, b * 1_000}, ":inet_res", "≤ 1.0", a / b)

run = Bench.longest_run(10_000, fn -> ours.("r1000") end)

IO.puts(
  "| longest run of a scheduler, 10,000 lookups of 1,000 records | #{run} ms (0 if at most 1 ms) | | | none |"
)

# A nameserver that does not respond, compared with a sleep of the same duration.
{:ok, silent} = :gen_udp.open(0, ip: {127, 0, 0, 1}, active: false)
{:ok, port} = :inet.port(silent)

waits = fn wait ->
  for(_ <- 1..200, do: elem(:timer.tc(wait), 0)) |> Enum.max() |> Kernel.*(1_000)
end

a =
  waits.(fn ->
    options = [nameservers: ["127.0.0.1:#{port}"], timeout: 20]
    {:error, %{reason: :timeout}} = Caravan.Dns.lookup("few.bench.test", :srv, options)
  end)

b = waits.(fn -> Process.sleep(20) end)

Bench.row(
  "no answer in 20 ms, the longest of 200 waits",
  {:us, a},
  {:us, b},
  "a sleep",
  "30 ms",
  a / b
)
