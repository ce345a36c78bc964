# How long 60 nodes take to find each other, all at the same moment, through one SRV name: until each is
# connected to the 59 others (1,770 links). Against the same 60 connecting to given names.
#
#   mix run bench/mesh.exs
#
# Medians. Both leave OTP's `global` on, which connects whom the nodes do not connect themselves.

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
