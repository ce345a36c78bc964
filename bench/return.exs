# Measures how soon a lost node is connected again.
#
#   mix run bench/return.exs [SECONDS…]
#
# First, nodes are killed and start again after 2 and 10 seconds, or after the given numbers. They run no strategy, so
# only their peers dial. The time is counted from the moment at which the node listens. Then the link of two nodes is
# cut for 15 to 20 seconds, with net_ticktime 4: no TCP packet passes, or no packet at all. The time is counted from the
# end of the cut. These rounds need root.
#
# The bare loop is another node. It connects by TCP once a millisecond until this succeeds, and then calls Node.connect/1.
# Its time is that of the handshake, and for a node that was killed, also that of the rest of its boot.

for file <- ["nodes.ex", "../test/support/os/netns.ex"], do: Code.require_file(file, __DIR__)

alias Bench.Nodes
alias Caravan.Test.Netns

# Rounds in parallel, and rounds after each other.
pairs = 2
rounds = 4
alone = ~w(-connect_all false)
options = [query: "bench.test", node_sname: "app", log_level: :none]
# Milliseconds. A connection that ends sooner counts as a flap.
steady = 6_000

seconds =
  case Enum.map(System.argv(), &String.to_integer/1) do
    [] -> [2, 10]
    seconds -> seconds
  end

print = fn title, times, limit ->
  {caravan, bare} = Enum.unzip(times)

  [caravan, bare] =
    for times <- [caravan, bare] do
      [median, least, worst] =
        for time <- [Nodes.median(times), Enum.min(times), Enum.max(times)],
            do: round(time / 1_000)

      "#{median} ms (#{least} to #{worst})"
    end

  IO.puts("#{String.pad_trailing(title, 26)} #{caravan}, bare loop #{bare}; wanted: #{limit}")
end

discover = fn node, port, host ->
  options = [node_name: "{name}-{port}@{host}"] ++ options
  :ok = Nodes.call(node, :discover_static, [options, [{port, host}]])
end

# Starts to wait for the connection, with Caravan and with the bare loop.
await = fn watcher, bare, name, ip, port ->
  for {node, function, args} <- [
        {watcher, :await_node, [name]},
        {bare, :connect_listener, [name, ip, port]}
      ],
      do: Task.async(fn -> Nodes.call(node, function, args) end)
end

repeat = fn fun ->
  1..pairs
  |> Task.async_stream(fn pair -> for _ <- 1..rounds, do: fun.(pair) end, timeout: :infinity)
  |> Enum.flat_map(fn {:ok, times} -> times end)
end

for gone <- seconds do
  times =
    repeat.(fn pair ->
      number = 3 * pair
      [watcher, bare, node] = Nodes.start([number - 2, number - 1, number], alone)
      discover.(watcher, Nodes.port(number), "127.0.0.1")
      Nodes.call(watcher, :await_node, [node.name])
      Process.sleep(steady)
      :ok = Nodes.kill(node)
      Nodes.call(watcher, :await_node, [node.name, false])
      Process.sleep(gone * 1_000)
      tasks = await.(watcher, bare, node.name, {127, 0, 0, 1}, Nodes.port(number))
      [again] = Nodes.start([number], alone)
      [up, [listens, bare_up]] = Task.await_many(tasks, 60_000)
      Nodes.stop([watcher, bare, again])
      {up - listens, bare_up - listens}
    end)

  print.("killed, back after #{gone} s", times, "250 ms, 400 ms at most")
end

if reason = Netns.obstacle() do
  IO.puts("no cuts: #{reason}")
else
  ticks = alone ++ ~w(-kernel net_ticktime 4)
  ips = for n <- 1..3, do: {10, 78, 0, n}

  for {title, cut} <- [
        {"cut of all TCP packets", {:silent, ips}},
        {"cut of all packets", {:cut, [:a, :c], [:b]}}
      ] do
    times =
      repeat.(fn _pair ->
        hosts = for {host, n} <- [a: 1, b: 2, c: 3], do: {host, ["10.78.0.#{n}/24"]}
        {:ok, net} = Netns.start_link(hosts: Map.new(hosts))

        [watcher, node, bare] =
          for {host, n} <- [a: 1, b: 2, c: 3],
              do: Nodes.start_named(:"app-400#{n}@10.78.0.#{n}", ticks, Netns.wrapper(net, host))

        discover.(node, 4_001, "10.78.0.1")
        discover.(watcher, 4_002, "10.78.0.2")
        Nodes.call(watcher, :await_node, [node.name])
        Process.sleep(steady)
        :ok = Netns.set(net, [cut])
        Process.sleep(15_000 + :rand.uniform(5_000))
        Nodes.call(watcher, :await_node, [node.name, false])
        tasks = await.(watcher, bare, node.name, {10, 78, 0, 2}, 4_002)
        :ok = Netns.set(net, [])
        healed = System.os_time(:microsecond)
        [up, [_listens, bare_up]] = Task.await_many(tasks, 60_000)
        Nodes.stop([watcher, node, bare])
        :ok = GenServer.stop(net)
        {up - healed, bare_up - healed}
      end)

    print.(title, times, "300 ms, 500 ms at most")
  end
end
