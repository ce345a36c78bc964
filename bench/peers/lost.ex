# Rows of bench/peers.exs: how soon lost nodes are connected again.

defmodule Bench.Peers.Lost do
  alias Bench.Lab
  alias Bench.Nodes
  alias Caravan.Test.Knot

  # Milliseconds. A connection that ends sooner counts as a flap.
  @steady 6_000
  # The number of rounds, by the seconds for which a node is gone.
  @rounds %{2 => 5, 10 => 4}

  @doc """
  Kills a node, and starts it again. Prints the time from when the node listens until other nodes have connected it. The
  node itself dials no other node.
  """
  def back(knot) do
    targets = for {gone, n} <- Enum.with_index([2, 2, 10, 10], 1), do: {gone, n, {127, 2, 5, n}}
    records = for {_gone, n, ip} <- targets, do: Lab.records("back#{n}", [ip], 60)
    Knot.put_records(knot, Enum.concat(records))
    times = in_parallel(targets, &back_of/1)

    for gone <- [2, 10] do
      rounds = for {^gone, rounds} <- times, round <- rounds, do: round
      title = "a killed node is back after #{gone} s, polls of 5 s, ms"
      Lab.print(title, by_library(rounds), "250, at most 400")
    end
  end

  defp back_of({gone, n, ip}) do
    watchers = for _ <- Lab.libraries(), do: Lab.vm(Lab.fresh_ip())

    for {vm, library} <- Enum.zip(watchers, Lab.libraries()),
        do: start(vm, Lab.strategy(library, "back#{n}", 5_000))

    {_node, times} =
      for _ <- 1..@rounds[gone], reduce: {Lab.vm(ip), []} do
        {node, times} ->
          Nodes.call_all(watchers, :await_node, [node.name])
          Process.sleep(@steady + :rand.uniform(5_000))
          Lab.kill(node)
          Nodes.call_all(watchers, :await_node, [node.name, false])
          Process.sleep(gone * 1_000)
          listener = Task.async(fn -> Bench.Node.await_listener(ip, 4_370) end)
          waiting = Task.async(fn -> Nodes.call_all(watchers, :await_node, [node.name]) end)
          again = Lab.vm(ip)
          listens = Task.await(listener)
          {again, [since(Task.await(waiting, 60_000), listens) | times]}
      end

    {gone, times}
  end

  @doc """
  Drops all packets between pairs of nodes for 15 to 30 s. Prints the time from the end of the cut until the pairs are
  connected again.
  """
  def cut(knot) do
    groups =
      for group <- 1..3 do
        for library <- Lab.libraries(),
            do: {"cut#{group}#{library}", library, [Lab.fresh_ip(), Lab.fresh_ip()]}
      end

    records = for {name, _library, ips} <- Enum.concat(groups), do: Lab.records(name, ips, 60)
    Knot.put_records(knot, Enum.concat(records))
    rounds = in_parallel(groups, &cut_group/1)
    title = "a cut of 15 to 30 s, both dial, polls of 1 s, ms"
    Lab.print(title, by_library(Enum.concat(rounds)), "300, at most 500")
  end

  defp cut_group(group) do
    pairs =
      for {name, library, ips} <- group do
        vms = Lab.vms(ips, ~w(-kernel net_ticktime 4))
        for vm <- vms, do: start(vm, Lab.strategy(library, name, 1_000))
        vms
      end

    ips = Enum.flat_map(group, fn {_name, _library, ips} -> ips end)

    for _ <- 1..3 do
      await_pairs(pairs, true)
      Process.sleep(@steady)
      Lab.drop(ips)
      Process.sleep(15_000 + :rand.uniform(15_000))
      await_pairs(pairs, false)
      waiting = Task.async(fn -> await_pairs(pairs, true) end)
      healed = Lab.pass(ips)
      since(Task.await(waiting, 60_000), healed)
    end
  end

  defp await_pairs(pairs, connected?) do
    in_parallel(pairs, fn [vm, other] ->
      Nodes.call(vm, :await_node, [other.name, connected?])
    end)
  end

  @doc "Silences the nameserver for 15 s. Prints how many of 10 connected nodes a strategy disconnects."
  def silent(knot) do
    ips = for n <- 1..10, do: {127, 2, 2, n}
    Knot.put_records(knot, Lab.records("silent", ips, 1))
    _live = Lab.vms(ips)
    vms = Lab.vms(for _ <- Lab.libraries(), do: Lab.fresh_ip())

    for {vm, library} <- Enum.zip(vms, Lab.libraries()) do
      Nodes.call(vm, :discover, [Lab.strategy(library, "silent", 1_000), 10])
      Nodes.call(vm, :watch, [])
    end

    Process.sleep(3_000)
    Lab.drop([Lab.dns()])
    Process.sleep(15_000)
    Lab.pass([Lab.dns()])
    Process.sleep(5_000)
    downs = for nodes <- Nodes.call_all(vms, :downs, []), do: length(Enum.uniq(nodes))
    Lab.print("DNS silent for 15 s, polls of 1 s: nodes dropped of 10", by_library([downs]), "0")
  end

  # Does not wait for nodes.
  defp start(vm, strategy), do: Nodes.call(vm, :discover, [strategy, 0])

  defp in_parallel(items, fun) do
    items
    |> Enum.map(fn item -> Task.async(fn -> fun.(item) end) end)
    |> Task.await_many(:infinity)
  end

  # Times are in microseconds. Returns milliseconds.
  defp since(times, start), do: Enum.map(times, &((&1 - start) / 1_000))

  defp by_library(rounds), do: Enum.zip(Lab.libraries(), Enum.zip_with(rounds, & &1))
end
