# Compares Caravan with libcluster (DNSPoll, Kubernetes.DNSSRV) and dns_cluster, on the same nodes in the same run:
#
#   PEERS=DIRECTORY unshare --net mix run bench/peers.exs [ROW…]
#
# DIRECTORY has the compiled applications libcluster, dns_cluster and telemetry, such as `_build/dev/lib` of a project
# that has them as dependencies. Without ROW, all rows run. bench/README.md says what each row measures.
#
# It needs root, because nft drops packets. The network namespace vanishes when this program ends.

Code.require_file("peers/lab.ex", __DIR__)
for rows <- ["join", "lost", "rest"], do: Code.require_file("peers/#{rows}.ex", __DIR__)

rows = [
  {"join", &Bench.Peers.Join.join/1, 420},
  {"added", &Bench.Peers.Join.added/1, 300},
  {"growth", &Bench.Peers.Join.growth/1, 420},
  {"back", &Bench.Peers.Lost.back/1, 240},
  {"cut", &Bench.Peers.Lost.cut/1, 240},
  {"silent", &Bench.Peers.Lost.silent/1, 120},
  {"rest", &Bench.Peers.Rest.rest/1, 300},
  {"srv", &Bench.Peers.Rest.srv/1, 180},
  {"boot", &Bench.Peers.Rest.boot/1, 120}
]

selected = System.argv()
names = for {name, _, _} <- rows, do: name

if (unknown = selected -- names) != [],
  do: raise("no such row: #{inspect(unknown)}; there are: #{inspect(names)}")

peers =
  System.get_env("PEERS") || raise("PEERS is not set, see the first lines of bench/peers.exs")

knot = Bench.Lab.open(peers)
Bench.Lab.header()

for {name, row, seconds} <- rows, selected == [] or name in selected do
  {pid, ref} = spawn_monitor(fn -> row.(knot) end)

  receive do
    {:DOWN, ^ref, :process, _pid, :normal} ->
      :ok

    {:DOWN, ^ref, :process, _pid, reason} ->
      IO.puts("#{name} failed: #{Exception.format_exit(reason)}")
  after
    seconds * 1_000 ->
      Process.exit(pid, :kill)
      IO.puts("#{name} did not end within #{seconds} s")
  end

  Bench.Lab.clear()
end

GenServer.stop(knot)
