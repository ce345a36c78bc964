# Rows of bench/peers.exs: how soon nodes are connected that were not connected before.

defmodule Bench.Peers.Join do
  alias Bench.Lab
  alias Bench.Nodes
  alias Caravan.Test.FakeNodes
  alias Caravan.Test.Knot

  @rounds 5
  # From the moment at which a record is added, it takes between zero and the TTL until a strategy looks it up. Such times
  # differ much, so a median needs many of them: 8 records, each with 4 watchers.
  @records 8
  @watchers 4
  # Milliseconds between two polls. With an hour, a strategy looks up only once in a measurement.
  @once 3_600_000

  @doc "Prints how long a new node takes to connect to 10 and 50 others, without and with dead addresses, which drop packets."
  def join(knot) do
    _live = Lab.vms(ips(2, 1..50))
    # The nameserver sorts the records of a name. So the dead addresses come first.
    dead = ips(1, 1..20)
    Lab.drop(dead)

    Knot.put_records(
      knot,
      Lab.records("live10", ips(2, 1..10), 60) ++
        Lab.records("live50", ips(2, 1..50), 60) ++
        Lab.records("dead10", Enum.take(dead, 5) ++ ips(2, 1..10), 60) ++
        Lab.records("dead50", dead ++ ips(2, 1..50), 60)
    )

    ways = Lab.libraries() ++ [:bare]
    for way <- ways, do: join_once(way, "live50", 50)

    # libcluster dials one node after the other, and waits 7 s for each dead one. So it joins only once, while the other
    # strategies are measured.
    slow =
      for count <- [10, 50],
          into: %{},
          do: {count, Task.async(fn -> join_once(:libcluster, "dead#{count}", count) end)}

    live =
      for count <- [10, 50], into: %{} do
        results = interleave(ways, &join_once(&1, "live#{count}", count))
        Lab.print("join #{count} live nodes, ms", results, "0.95 × bare")
        {count, results}
      end

    for {count, dead} <- [{10, 5}, {50, 20}] do
      results = interleave([:caravan, :dns_cluster], &join_once(&1, "dead#{count}", count))
      others = [libcluster: [Task.await(slow[count], 300_000)], bare: live[count][:caravan]]
      Lab.print("the same #{count} after #{dead} dead ones, ms", results ++ others, "1.1 × bare")
    end

    Lab.pass(dead)
  end

  defp interleave(ways, fun) do
    times = for _ <- 1..@rounds, do: Enum.map(ways, fun)
    Enum.zip(ways, Enum.zip_with(times, & &1))
  end

  # The joiner has a new address each time, because the live nodes may not have noticed yet that the last one is gone.
  defp join_once(way, name, count) do
    joiner = Lab.vm(Lab.fresh_ip())

    {function, first} =
      if way == :bare,
        do: {:connect, for(ip <- ips(2, 1..count), do: :"app@#{Lab.ntoa(ip)}")},
        else: {:discover, Lab.strategy(way, name, @once)}

    %{started: started, done: done} = Nodes.call(joiner, function, [first, count], 300_000)
    Lab.stop(joiner)
    (done - started) / 1_000
  end

  @doc "Adds a record to those of a live node, and prints the time until the node of the new record is connected."
  def added(knot) do
    ttls = [5, 1]
    names = fn count -> Enum.flat_map(ttls, &Lab.records("ttl#{&1}", ips(3, 1..count), &1)) end
    Knot.put_records(knot, names.(1))
    [_first | nodes] = Lab.vms(ips(3, 1..(@records + 1)))
    cases = for ttl <- ttls, library <- Lab.libraries(), _ <- 1..@watchers, do: {ttl, library}
    watchers = Lab.vms(for _ <- cases, do: Lab.fresh_ip())

    for {vm, {ttl, library}} <- Enum.zip(watchers, cases) do
      Nodes.call(vm, :discover, [Lab.strategy(library, "ttl#{ttl}", 5_000), 1])
      # Makes the watchers poll at different times.
      Process.sleep(:rand.uniform(1_000))
    end

    times =
      for {node, count} <- Enum.with_index(nodes, 2) do
        Process.sleep(5_000 + :rand.uniform(5_000))
        Knot.put_records(knot, names.(count))
        since = Lab.now()
        times = Nodes.call_all(watchers, :await_node, [node.name])
        Enum.zip(cases, Enum.map(times, &((&1 - since) / 1_000)))
      end

    times = times |> Enum.concat() |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))

    for ttl <- ttls do
      results = for library <- Lab.libraries(), do: {library, times[{ttl, library}]}
      title = "a record is added, TTL #{ttl} s, polls of 5 s, ms"
      Lab.print(title, results, "#{ttl * 500 + 100}")
    end
  end

  @doc "Prints the times and the CPU time that a new node needs to connect to hundreds and thousands of fake nodes."
  def growth(knot) do
    fake = FakeNodes.start!("bench", 29_999)
    basename = "app-29999"
    caravan = [node_sname: basename, max_nodes: 16_384, min_interval: @once]
    more = [caravan: caravan, libcluster: [node_basename: basename], dns_cluster: []]
    # The fake nodes listen on the port of the basename, on all addresses.
    args = ~w(-caravan listen_port 30000 +sbwt none +sbwtdcpu none +sbwtdio none)

    for count <- [200, 1_000, 4_000] do
      Knot.put_records(knot, Lab.records("fake", Enum.map(1..count, &FakeNodes.address/1), 3_600))
      names = for n <- 1..count, do: Atom.to_string(FakeNodes.name(fake, n))

      results =
        interleave(Lab.libraries() ++ [:bare], fn way ->
          vm = Lab.vm(Lab.fresh_ip(), args, basename: basename)

          {function, arguments} =
            if way == :bare,
              do: {:connect_all, [names, :infinity]},
              else: {:grow, [Lab.strategy(way, "fake", @once, more[way]), count]}

          result = Nodes.call(vm, function, arguments)
          Lab.stop(vm)
          result
        end)

      values = fn field -> for {way, list} <- results, do: {way, Enum.map(list, & &1[field])} end
      Lab.print("join #{count} fake nodes, ms", values.(:links), "1.05 × bare")
      Lab.print("the same: from the last link to rest, ms", values.(:rest), "100")
      Lab.print("the same: CPU, ms", values.(:cpu), "1.2 × bare")
    end
  end

  defp ips(third, range), do: for(n <- range, do: {127, 2, third, n})
end
