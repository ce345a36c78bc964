# Measures how long a new node takes to connect to N other nodes through DNS: from the start of the strategy to
# the last connection. Compares this with Node.connect/1 to the same names in parallel. Then measures the same
# with N dead addresses before the live ones. A dead address neither accepts nor refuses a connection.
#
#   mix run bench/join.exs
#
# The results are medians. The N nodes do not connect to each other (`-connect_all false`), so only the new node
# is measured.

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

rounds = 7
{:ok, knot} = Knot.start_link(zone: "bench.test", records: [])
alone = ~w(-connect_all false)
live = Nodes.start(1..50, alone)

measure = fn numbers, how ->
  [joiner] = Nodes.start([0], alone)

  %{started: started, done: done} =
    case how do
      :discover ->
        Nodes.call(joiner, :discover, [Nodes.options(knot), length(numbers)])

      :connect ->
        Nodes.call(joiner, :connect, [Enum.map(numbers, &Nodes.name/1), length(numbers)])
    end

  Nodes.stop([joiner])
  Nodes.reset(live)
  (done - started) / 1_000
end

compare = fn count, dead ->
  numbers = Enum.to_list(1..count)
  # The dead addresses have the better priority.
  Knot.put_records(knot, Nodes.zone(Nodes.records(dead) ++ Nodes.records(numbers, 9)))

  times = for _ <- 1..rounds, do: {measure.(numbers, :discover), measure.(numbers, :connect)}
  {discovered, connected} = Enum.unzip(times)
  {discovered, connected} = {Nodes.median(discovered), Nodes.median(connected)}

  title =
    String.pad_trailing(
      "#{count} live" <> if(dead == [], do: "", else: ", #{length(dead)} dead"),
      18
    )

  IO.puts(
    "#{title} #{Float.round(discovered, 1)} ms, Node.connect/1 to the live ones #{Float.round(connected, 1)} ms, " <>
      "ratio #{Float.round(discovered / connected, 2)}"
  )
end

# Warms up: the first connects of a VM load code.
all = Enum.to_list(1..50)
Knot.put_records(knot, Nodes.zone(Nodes.records(all)))
for how <- [:connect, :discover], do: measure.(all, how)

for count <- [10, 50], do: compare.(count, [])
dead = Enum.to_list(101..150)
_listeners = Bench.Dead.occupy(dead)
for count <- [10, 50], do: compare.(count, Enum.take(dead, count))

Nodes.stop(live)
GenServer.stop(knot)
