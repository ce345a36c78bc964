# Measures how soon a node connects to another one whose record is added to DNS: with a TTL of 5 seconds and polls of 5
# seconds, and with a TTL of one second. The record is added at a random time. The limit is half of the TTL, which is the
# mean time until the next lookup, and 100 ms.
#
#   mix run bench/added.exs [ROUNDS]
#
# Four nodes wait for each record. The result is the median of all of them and of all rounds, with the least and the worst.

Code.require_file("nodes.ex", __DIR__)

alias Bench.Nodes
alias Caravan.Test.Knot

rounds = String.to_integer(List.first(System.argv()) || "12")
watchers = 4
alone = ~w(-connect_all false)
{:ok, knot} = Knot.start_link(zone: "bench.test", records: [])
live = Nodes.start(1..(rounds + 1), alone)

records = fn ttl, count ->
  for n <- 1..count, do: "_app._tcp #{ttl} SRV 0 0 #{Nodes.port(n)} host"
end

for ttl <- [5, 1] do
  put = &Knot.put_records(knot, Nodes.zone(records.(ttl, &1)))
  put.(1)
  waiting = Nodes.start(901..(900 + watchers), alone)
  options = Nodes.options(knot, poll_interval: 5_000)
  for vm <- waiting, do: Nodes.call(vm, :discover, [options, 1])
  # The wait after the first answer is shorter than the later ones.
  Process.sleep(ttl * 1_000)

  times =
    for n <- 2..(rounds + 1) do
      # About two waits, so that the records are added at any time between two lookups.
      Process.sleep(:rand.uniform(ttl * 2_000))
      put.(n)
      added = System.os_time(:microsecond)

      waiting
      |> Enum.map(&Task.async(fn -> Nodes.call(&1, :await_node, [Nodes.name(n)]) - added end))
      |> Task.await_many(60_000)
    end

  times = times |> List.flatten() |> Enum.map(&div(&1, 1_000))

  IO.puts(
    "TTL #{ttl} s: #{Nodes.median(times)} ms (#{Enum.min(times)} to #{Enum.max(times)}), " <>
      "wanted: #{ttl * 500 + 100} ms in the median"
  )

  Nodes.stop(waiting)
  Nodes.reset(live)
end

Nodes.stop(live)
GenServer.stop(knot)
