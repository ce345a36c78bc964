# Measures how long 60 nodes that start at the same time take to find each other through one SRV name: until each
# node is connected to the 59 others (1,770 links). Compares this with Node.connect/1 to given names.
#
#   mix run bench/mesh.exs
#
# The results are medians. OTP's `global` is on in both cases. It makes some of the connections itself.

Code.require_file("nodes.ex", __DIR__)

alias Bench.Nodes
alias Caravan.Test.Knot

size = 60
rounds = 5
numbers = Enum.to_list(1..size)
{:ok, knot} = Knot.start_link(zone: "bench.test", records: Nodes.zone(Nodes.records(numbers)))
nodes = Nodes.start(numbers)

measure = fn how ->
  results =
    case how do
      :discover -> Nodes.call_all(nodes, :discover, [Nodes.options(knot), size - 1])
      :connect -> Nodes.call_all(nodes, :connect, [Enum.map(numbers, &Nodes.name/1), size - 1])
    end

  Nodes.reset(nodes)
  (Enum.max(Enum.map(results, & &1.done)) - Enum.min(Enum.map(results, & &1.started))) / 1_000
end

for how <- [:connect, :discover], do: measure.(how)

{discovered, connected} =
  Enum.unzip(for _ <- 1..rounds, do: {measure.(:discover), measure.(:connect)})

{discovered, connected} = {Nodes.median(discovered), Nodes.median(connected)}

IO.puts(
  "#{size} nodes, #{div(size * (size - 1), 2)} links: #{round(discovered)} ms, Node.connect/1 to given names " <>
    "#{round(connected)} ms, ratio #{Float.round(discovered / connected, 2)}"
)

Nodes.stop(nodes)
GenServer.stop(knot)
