# Measures how a node connects to 200, 1,000 and 4,000 others: through the strategy, and by Node.connect/1 to the same
# names in parallel, all at once or 128 at a time, as the strategy does. The others are fake nodes of this VM
# (Caravan.Test.FakeNodes), which answer handshakes and cost little. For each way, prints
#
#   * links: from the start to the last connection;
#   * rest: from the last connection until the strategy has nothing to do any more;
#   * CPU of the dialling VM, until half a second after that;
#   * memory: how much larger the VM is afterwards, as Linux counts it (RSS), and as the BEAM does.
#
#   mix run bench/growth.exs [ROUNDS]
#
# The figures are medians. A new VM dials each time, with `-connect_all false`, and without busy waiting of its
# schedulers, which would count as CPU.

Code.require_file("nodes.ex", __DIR__)
Code.require_file("../test/support/nodes/fake_nodes.ex", __DIR__)

alias Bench.Nodes
alias Caravan.Test.FakeNodes
alias Caravan.Test.Knot

rounds = String.to_integer(List.first(System.argv()) || "5")
{:ok, knot} = Knot.start_link(zone: "bench.test", records: [])
fake = FakeNodes.start!("bench", Nodes.port(9_999))
args = ~w(-connect_all false +sbwt none +sbwtdcpu none +sbwtdio none)
fields = [:links, :rest, :cpu, :rss, :beam]

# Only the first answer counts.
strategy =
  Nodes.fake_options(knot, fake,
    max_nodes: 16_384,
    poll_interval: 3_600_000,
    min_interval: 3_600_000
  )

measure = fn names, how ->
  [dialler] = Nodes.start([0], args)
  arguments = if how == :discover, do: [strategy, length(names)], else: [names, how]
  function = if how == :discover, do: :grow, else: :connect_all
  result = Nodes.call(dialler, function, arguments)
  Nodes.stop([dialler])
  result
end

row = fn title, result ->
  cells = for field <- fields, do: String.pad_leading("#{Float.round(result[field] / 1, 2)}", 10)
  IO.puts(String.pad_trailing(title, 26) <> Enum.join(cells))
end

median = fn results ->
  Map.new(fields, fn field -> {field, Nodes.median(Enum.map(results, & &1[field]))} end)
end

header = ["links ms", "rest ms", "CPU ms", "RSS MiB", "BEAM MiB"]
IO.puts(String.pad_trailing("", 26) <> Enum.map_join(header, &String.pad_leading(&1, 10)))

for count <- [200, 1_000, 4_000] do
  numbers = 1..count
  names = for n <- numbers, do: Atom.to_string(FakeNodes.name(fake, n))

  Knot.put_records(knot, Nodes.fake_records(Enum.map(numbers, &FakeNodes.address/1)))

  results =
    for _ <- 1..rounds, do: for(how <- [:discover, :infinity, 128], do: measure.(names, how))

  [caravan, all, some] = results |> Enum.zip_with(& &1) |> Enum.map(median)
  row.("#{count}: the strategy", caravan)
  row.("#{count}: all at once", all)
  row.("#{count}: 128 at a time", some)

  ratio = fn field, other -> Float.round(caravan[field] / other[field], 2) end

  IO.puts(
    "#{count}: the strategy takes #{ratio.(:links, all)} and #{ratio.(:links, some)} of the time, " <>
      "#{ratio.(:cpu, all)} and #{ratio.(:cpu, some)} of the CPU\n"
  )
end

GenServer.stop(knot)
