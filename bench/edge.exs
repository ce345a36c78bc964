# Measures how much more memory an edge node needs if it knows 100 core nodes and not 3. In both cases, it has three links
# to core nodes. The core nodes are fake nodes of this VM.
#
#   mix run bench/edge.exs [ROUNDS]
#
# First, all processes of the edge node collect their garbage. Then two sizes are read: the memory that the BEAM has
# allocated, and the memory that Linux counts for the VM, without pages of files. The benchmark prints the median of each.

Code.require_file("nodes.ex", __DIR__)
Code.require_file("../test/support/nodes/fake_nodes.ex", __DIR__)

alias Bench.Nodes
alias Caravan.Test.FakeNodes
alias Caravan.Test.Knot

rounds = String.to_integer(List.first(System.argv()) || "5")
{:ok, knot} = Knot.start_link(zone: "bench.test", records: [])
fake = FakeNodes.start!("bench", Nodes.port(9_999))

options = Nodes.fake_options(knot, fake, links: 3)

measure = fn members ->
  Knot.put_records(knot, Nodes.fake_records(Enum.map(1..members, &FakeNodes.address/1)))
  [edge] = Nodes.start([0], ~w(-connect_all false +S 1:1))
  call = fn module, function, args -> :peer.call(edge.peer, module, function, args) end
  Nodes.call(edge, :discover, [options, 3])
  # A few polls.
  Process.sleep(12_000)
  for pid <- call.(:erlang, :processes, []), do: call.(:erlang, :garbage_collect, [pid])
  sizes = {div(call.(:erlang, :memory, [:total]), 1_024), Nodes.memory([Nodes.os_pid(edge)])}
  Nodes.stop([edge])
  sizes
end

{few, many} = Enum.unzip(for _ <- 1..rounds, do: {measure.(3), measure.(100)})

for {title, index} <- [{"BEAM", 0}, {"Linux", 1}] do
  [few, many] =
    for sizes <- [few, many], do: sizes |> Enum.map(&elem(&1, index)) |> Nodes.median()

  IO.puts(
    "#{title}: #{few} KiB with 3 members, #{many} KiB with 100: #{many - few} KiB more (wanted: at most 1,024)"
  )
end

GenServer.stop(knot)
