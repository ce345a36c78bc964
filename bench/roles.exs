# Starts 10 core nodes, which are all linked, and edge nodes with a few links each to the cores. Prints
#
#   * the time until each node has its links, and the time until only the preferred links are left. An edge node keeps a
#     stand-in for a minute, so the second time may be longer than that;
#   * for each core node, the number of edge nodes that are linked to it;
#   * after a kill -9 of three core nodes, how long it takes until each edge node has its links again, and the number of
#     nodedowns on the edge nodes that had no link to these core nodes;
#   * after these core nodes have started again, how long it takes until each edge node has only its preferred links;
#   * while three core nodes do not answer (SIGSTOP), how long it takes until edge nodes that start have their links.
#
# If a file is named, draws the links, as the nodes see them, to this SVG file.
#
#   mix run bench/roles.exs                                  # 30 edge nodes with three links each
#   mix run bench/roles.exs 90 2                             # 90 edge nodes with two links each
#   mix run bench/roles.exs 30 3 guides/images/roles.svg     # draws the links too

Code.require_file("nodes.ex", __DIR__)

alias Bench.Nodes
alias Caravan.Test.Knot

cores = 10

{edges, links, file} =
  case System.argv() do
    [] -> {30, 3, nil}
    [edges, links] -> {String.to_integer(edges), String.to_integer(links), nil}
    [edges, links, file] -> {String.to_integer(edges), String.to_integer(links), file}
  end

wanted = div(cores * (cores - 1), 2) + edges * links

{:ok, knot} = Knot.start_link(zone: "bench.test", records: Nodes.zone(Nodes.records(1..cores)))

args = ~w(+S 1:1 -connect_all false)
nodes = Nodes.start(Enum.to_list(1..(cores + edges)), args)
{core_nodes, edge_nodes} = Enum.split(nodes, cores)
options = Nodes.options(knot)

started = System.monotonic_time(:millisecond)
elapsed = fn -> System.monotonic_time(:millisecond) - started end

[
  Task.async(fn -> Nodes.call_all(core_nodes, :discover, [options, cores - 1]) end),
  Task.async(fn -> Nodes.call_all(edge_nodes, :discover, [[links: links] ++ options, links]) end)
]
|> Task.await_many(:infinity)

# A core node is also connected to edge nodes, so the number of its connections does not show its links to core nodes.
core_names = for node <- core_nodes, do: node.name
Nodes.call_all(core_nodes, :await_nodes, [core_names, cores - 1])
linked = elapsed.()

# Returns the links that both of their nodes see.
collect = fn ->
  peers =
    Map.new(nodes, fn node ->
      {node.name, :peer.call(node.peer, :erlang, :nodes, [:connected])}
    end)

  for {name, others} <- peers,
      other <- others,
      name < other,
      name in peers[other],
      do: {name, other}
end

Nodes.await(fn -> length(collect.()) == wanted end)
seen = collect.()
exact = elapsed.()
number = nodes |> Enum.with_index(1) |> Map.new(fn {node, n} -> {node.name, n} end)
pairs = for {a, b} <- seen, do: Enum.min_max([number[a], number[b]])
of_core = for n <- 1..cores, do: Enum.count(pairs, fn {a, b} -> a == n and b > cores end)

IO.puts(
  "#{cores} cores and #{edges} edges with #{links} links each. All nodes have their links after #{linked} ms. Only the " <>
    "#{length(pairs)} preferred links are left after #{exact} ms. Edge nodes linked to each core: #{inspect(of_core)}"
)

if file do
  point = fn n ->
    {index, count, radius} =
      if n <= cores, do: {n - 1, cores, 110}, else: {n - cores - 1, edges, 250}

    angle = 2 * :math.pi() * index / count
    {round(280 + radius * :math.sin(angle)), round(280 - radius * :math.cos(angle))}
  end

  lines =
    for {a, b} <- pairs do
      {{x1, y1}, {x2, y2}} = {point.(a), point.(b)}
      class = if b <= cores, do: "core", else: "edge"
      ~s(<line class="#{class}" x1="#{x1}" y1="#{y1}" x2="#{x2}" y2="#{y2}"/>\n)
    end

  dots =
    for n <- 1..(cores + edges) do
      {x, y} = point.(n)
      {class, radius} = if n <= cores, do: {"core", 9}, else: {"edge", 6}
      ~s(<circle class="#{class}" cx="#{x}" cy="#{y}" r="#{radius}"/>\n)
    end

  label = "#{length(pairs)} links of #{cores} core nodes and #{edges} edge nodes"

  File.write!(file, [
    ~s(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 560" width="560" height="560" role="img" aria-label="#{label}">\n),
    "<style>svg{--bg:#fff;--core:#2da44e;--edge:#8c959f}\n",
    "@media(prefers-color-scheme:dark){svg{--bg:#0d1117;--core:#3fb950;--edge:#8c959f}}\n",
    ".bg,circle{fill:var(--bg)}circle{stroke-width:3}\n",
    ".core{stroke:var(--core)}.edge{stroke:var(--edge)}</style>\n",
    ~s(<rect class="bg" width="560" height="560"/>\n),
    Enum.sort(lines, :desc),
    dots,
    "</svg>\n"
  ])
end

{dead, living} = Enum.split(core_nodes, 3)
names = &for node <- &1, do: node.name

# The milliseconds from `since` until each edge node is connected to `links` of these core nodes.
until_linked = fn nodes, since ->
  times = Nodes.call_all(edge_nodes, :await_nodes, [names.(nodes), links])
  div(Enum.max(times) - since, 1_000)
end

Nodes.call_all(edge_nodes, :watch, [])
killed = System.os_time(:microsecond)
Enum.each(dead, &Nodes.kill/1)
stood_in = until_linked.(living, killed)

# Each edge prefers the first cores by rank.
preferred = fn edge ->
  core_nodes
  |> names.()
  |> Enum.sort_by(&:erlang.phash2({"#{edge.name}", "#{&1}"}, 4_294_967_296))
  |> Enum.take(links)
end

downs =
  for {edge, downs} <- Enum.zip(edge_nodes, Nodes.call_all(edge_nodes, :downs, [])),
      preferred.(edge) -- names.(dead) == preferred.(edge),
      down <- downs,
      do: down

IO.puts(
  "kill -9 of three cores: each edge has #{links} links after #{stood_in} ms, " <>
    "and edges without a link to these cores saw #{length(downs)} nodedowns"
)

again = Nodes.start([1, 2, 3], args)
Nodes.call_all(again, :discover, [options, cores - 1])
back = System.monotonic_time(:millisecond)

Nodes.await(fn ->
  Enum.all?(edge_nodes, fn edge ->
    Enum.sort(:peer.call(edge.peer, :erlang, :nodes, [])) == Enum.sort(preferred.(edge))
  end)
end)

IO.puts(
  "the cores are back: each edge has only its preferred links after #{System.monotonic_time(:millisecond) - back} ms"
)

Nodes.reset(edge_nodes)
pids = Enum.map(again, &Nodes.os_pid/1)
{_, 0} = System.cmd("kill", ["-STOP" | pids])

times =
  Nodes.call_all(edge_nodes, :discover, [[links: links] ++ options, links])
  |> Enum.map(&div(&1.done - &1.started, 1_000))

IO.puts(
  "three cores do not answer: each edge has #{links} links after #{Nodes.median(times)} ms (median), #{Enum.max(times)} ms (worst)"
)

{_, 0} = System.cmd("kill", ["-CONT" | pids])
Nodes.stop(again ++ living ++ edge_nodes)
GenServer.stop(knot)
