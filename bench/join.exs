# Measures how long a new node takes to connect to 10 and to 50 other nodes through DNS: from the start of the strategy
# to the last connection. Compares this with Node.connect/1 to the same names in parallel. Then measures the same with
# 5 and 20 dead addresses before the live ones. A dead address neither accepts nor refuses a connection.
#
#   mix run bench/join.exs [ROUNDS]
#
# The results are medians, and each round measures all three. The other nodes do not connect to each other
# (`-connect_all false`), so only the new node is measured.

Code.require_file("nodes.ex", __DIR__)

alias Bench.Nodes
alias Caravan.Test.Knot

defmodule Bench.Dead do
  # Ports of listeners whose accept queue is full. Linux drops further connection attempts, as a firewall does.
  def occupy(numbers) do
    for number <- numbers do
      port = Nodes.port(number)
      {:ok, listener} = :gen_tcp.listen(port, ip: {127, 0, 0, 1}, backlog: 0, reuseaddr: true)
      fill(port)
      listener
    end
  end

  defp fill(port) do
    case :gen_tcp.connect({127, 0, 0, 1}, port, [], 200) do
      {:ok, _socket} -> fill(port)
      {:error, :timeout} -> :ok
    end
  end
end

rounds = String.to_integer(List.first(System.argv()) || "7")
{:ok, knot} = Knot.start_link(zone: "bench.test", records: [])
alone = ~w(-connect_all false)
live = Nodes.start(1..50, alone)
dead = Enum.to_list(101..120)
_listeners = Bench.Dead.occupy(dead)

# The dead addresses have the better priority.
put_records = fn count, dead ->
  mixed = for record <- Nodes.records(dead) ++ Nodes.records(1..count, 9), do: "_dead" <> record
  Knot.put_records(knot, Nodes.zone(Nodes.records(1..count) ++ mixed))
end

measure = fn numbers, how ->
  [joiner] = Nodes.start([0], alone)
  count = length(numbers)

  %{started: started, done: done} =
    case how do
      :connect -> Nodes.call(joiner, :connect, [Enum.map(numbers, &Nodes.name/1), count])
      query -> Nodes.call(joiner, :discover, [Nodes.options(knot, query: query), count])
    end

  Nodes.stop([joiner])
  Nodes.reset(live)
  (done - started) / 1_000
end

queries = ["_app._tcp.bench.test", "_dead_app._tcp.bench.test"]

# Warms up: the first connects of a VM load code.
put_records.(50, [])
for how <- [:connect, hd(queries)], do: measure.(Enum.to_list(1..50), how)

for {count, dead} <- [{10, Enum.take(dead, 5)}, {50, dead}] do
  put_records.(count, dead)
  numbers = Enum.to_list(1..count)
  times = for _ <- 1..rounds, do: for(how <- queries ++ [:connect], do: measure.(numbers, how))
  [found, with_dead, connected] = times |> Enum.zip_with(& &1) |> Enum.map(&Nodes.median/1)
  ms = &"#{Float.round(&1, 1)} ms"
  ratio = &Float.round(&1 / &2, 2)

  IO.puts(
    "#{count} live: #{ms.(found)}, Node.connect/1 #{ms.(connected)}, ratio #{ratio.(found, connected)} (wanted 0.95)\n" <>
      "with #{length(dead)} dead: #{ms.(with_dead)}, ratio to the same without #{ratio.(with_dead, found)} (wanted 1.1)"
  )
end

Nodes.stop(live)
GenServer.stop(knot)
