# Measures a full mesh of N nodes, with OTP's setting connect_all true and false.
#
#   mix run bench/mesh.exs            # 60 nodes, 5 rounds
#   mix run bench/mesh.exs 150 1      # 150 nodes, 1 round
#
# It prints
#
#   * how long nodes that start at the same time take to find each other through one SRV name: until each node is
#     connected to all others. Compares this with Node.connect/1 to given names, all in parallel. Times are medians.
#   * how much memory the first links take, as Linux counts it, for each of the two ends of a link.
#   * the CPU time of all VMs in 10 s at rest, and in the 10 s after a kill -9 of one of them.
#   * how many links between living nodes were lost in these 10 s.
#   * how many messages global_name_server received on all nodes, in the 10 s after a kill -9 of another node.
#
# Each VM has one scheduler, and takes about 50 MiB.

Code.require_file("nodes.ex", __DIR__)

alias Bench.Nodes
alias Caravan.Test.Knot

{size, rounds} =
  case Enum.map(System.argv(), &String.to_integer/1) do
    [] -> {60, 5}
    [size] -> {size, 5}
    [size, rounds] -> {size, rounds}
  end

numbers = Enum.to_list(1..size)
{:ok, knot} = Knot.start_link(zone: "bench.test", records: Nodes.zone(Nodes.records(numbers)))

connect = fn
  :strategy, nodes ->
    Nodes.call_all(nodes, :discover, [Nodes.options(knot), size - 1])

  :plain, nodes ->
    Nodes.call_all(nodes, :connect, [Enum.map(numbers, &Nodes.name/1), size - 1])
end

round = fn how, nodes ->
  results = connect.(how, nodes)
  Nodes.reset(nodes)
  (Enum.max(Enum.map(results, & &1.done)) - Enum.min(Enum.map(results, & &1.started))) / 1_000
end

cpu_of_10_s = fn pids ->
  before = Nodes.cpu(pids)
  Process.sleep(10_000)
  Nodes.cpu(pids) - before
end

for connect_all <- [true, false] do
  nodes = Nodes.start(numbers, ~w(+S 1:1 -connect_all #{connect_all}))

  pids = Enum.map(nodes, &Nodes.os_pid/1)
  before = Nodes.memory(pids)
  connect.(:plain, nodes)
  Process.sleep(2_000)
  memory_per_end = div(Nodes.memory(pids) - before, size * (size - 1))
  Nodes.reset(nodes)
  round.(:strategy, nodes)

  {strategy, plain} =
    Enum.unzip(for _ <- 1..rounds, do: {round.(:strategy, nodes), round.(:plain, nodes)})

  {strategy, plain} = {Nodes.median(strategy), Nodes.median(plain)}

  IO.puts(
    "connect_all #{connect_all}: #{size} nodes, #{div(size * (size - 1), 2)} links: #{round(strategy)} ms, " <>
      "Node.connect/1 to given names #{round(plain)} ms, ratio #{Float.round(strategy / plain, 2)}, " <>
      "#{memory_per_end} KiB for each end of a link"
  )

  connect.(:strategy, nodes)
  Process.sleep(5_000)
  at_rest = cpu_of_10_s.(pids)

  [first, second | living] = nodes
  [_first, _second | pids] = pids
  Nodes.call_all(living, :watch, [])
  Nodes.kill(first)
  after_kill = cpu_of_10_s.(pids)

  # Each of the two ends of a link reports that it is lost.
  lost = living |> Nodes.call_all(:downs, []) |> Enum.concat() |> Enum.count(&(&1 != first.name))

  Nodes.call_all(living, :count_global, [])
  Nodes.kill(second)
  Process.sleep(10_000)
  received = living |> Nodes.call_all(:counted, []) |> Enum.sum()

  IO.puts(
    "connect_all #{connect_all}: kill -9 of one: CPU of all other VMs in 10 s #{Float.round(after_kill, 2)} s " <>
      "(at rest #{Float.round(at_rest, 2)} s), #{div(lost + 1, 2)} links lost by living nodes, " <>
      "#{received} messages to global_name_server"
  )

  Nodes.stop(living)
end

GenServer.stop(knot)
