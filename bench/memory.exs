# Measures how much a million lookups by 16 callers increase the memory of this VM, with knot on loopback:
#
#   mix run bench/memory.exs
#   mix run bench/memory.exs 100000
#
# Ends with status 1 if the memory grows by 5 MiB or more.

for file <- ["eventually", "servers/daemon", "servers/knot", "os/os_resources"],
    do: Code.require_file("../test/support/#{file}.ex", __DIR__)

alias Caravan.Test.Knot
alias Caravan.Test.OsResources

lookups = String.to_integer(List.first(System.argv()) || "1000000")
warm_up = 50_000
callers = 16
names = 2_000
limit = 5 * 1_048_576

records = for i <- 1..names, n <- 1..3, do: "d#{i} 60 SRV 0 0 #{4_000 + n} node#{n}"
{:ok, knot} = Knot.start_link(zone: "memory.test", records: records)
options = [nameservers: [Knot.address(knot)]]

ask = fn number ->
  {:ok, %{records: [_, _, _]}} =
    Caravan.Dns.lookup("d#{rem(number, names) + 1}.memory.test", :srv, options)
end

run = fn total ->
  1..callers
  |> Enum.map(fn caller ->
    Task.async(fn -> Enum.each(1..div(total, callers), &ask.(caller * 131 + &1)) end)
  end)
  |> Task.await_many(:infinity)
end

megabytes = fn bytes -> :erlang.float_to_binary(bytes / 1_048_576, decimals: 2) <> " MiB" end
{time, _} = :timer.tc(fn -> run.(warm_up) end)
before = OsResources.rss()

IO.puts(
  "warm-up: #{warm_up} lookups in #{div(time, 1_000)} ms, then #{megabytes.(before)} in RAM"
)

{time, samples} =
  :timer.tc(fn ->
    for part <- 1..10 do
      run.(div(lookups, 10))
      rss = OsResources.rss()
      IO.puts("#{div(lookups * part, 10)} lookups: #{megabytes.(rss)}")
      rss
    end
  end)

IO.puts("#{lookups} lookups in #{div(time, 1_000)} ms, #{callers} callers")
# The VM also returns memory, so the growth is measured from the lowest sample.
growth = List.last(samples) - Enum.min([before | samples])
IO.puts("grown by #{megabytes.(growth)} (wanted: less than 5 MiB)")
if growth >= limit, do: exit({:shutdown, 1})
