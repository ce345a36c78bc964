# How much CPU a topology of N nodes takes: the membership alone, and the whole strategy. Each event
# comes alone, as in a cluster: one nodeup, one nodedown, one result of a connect.
#
#   ELIXIR_ERL_OPTIONS="+sbwt none +sbwtdcpu none +sbwtdio none" mix run bench/membership.exs
#
# The options stop schedulers from waiting busily, which counts as CPU time. No node is started: connects
# return `true` and send the nodeup that net_kernel would send. Wanted: a node costs at most twice as much
# among 16,000 as among 250; 4,000 nodes join within 0.5 s of CPU; a nodeup or nodedown of one of 4,000 takes
# less than 50 µs.

defmodule Bench.Phases do
  # Runs the phases one after the other and measures the CPU time of the VM. `sizes` has the size of each topology. The
  # result is the mean of all topologies. The clock counts whole milliseconds, which is too coarse for one small topology.
  # So the caller starts many of them. If a group has several phases, one topology runs them all without a pause, and then
  # the next topology does.
  def run(module, groups, sizes) do
    topologies = Enum.map(sizes, &module.start/1)
    times = for group <- groups, time <- run_group(module, group, topologies), do: time
    Enum.each(topologies, &module.stop/1)

    Enum.reduce(times, %{}, fn {title, time}, sum ->
      Map.update(sum, title, time, &(&1 + time))
    end)
  end

  defp run_group(module, [{_title, phase}] = group, topologies) do
    module.prepare(topologies, phase)
    measure(module, group, topologies, length(topologies))
  end

  defp run_group(module, [{_title, phase} | _] = group, topologies) do
    module.prepare(topologies, phase)
    Enum.flat_map(topologies, &measure(module, group, [&1], length(topologies)))
  end

  defp measure(module, group, topologies, count) do
    for {title, phase} <- group do
      {before, _} = :erlang.statistics(:runtime)
      module.run(topologies, phase)
      {now, _} = :erlang.statistics(:runtime)
      {title, (now - before) / count}
    end
  end

  def print(title, groups, sizes, results) do
    IO.puts("\n#{title}: ms of CPU, and µs per node\n")
    header = Enum.map_join(sizes, &pad("#{&1}", 18))
    IO.puts("#{String.pad_trailing("nodes", 18)}#{header}   per node, last : first")

    for {phase, _} <- List.flatten(groups) do
      per_node = for size <- sizes, do: results[size][phase] * 1_000 / size

      cells =
        for {size, each} <- Enum.zip(sizes, per_node),
            do: pad("#{round(results[size][phase], 1)}", 10) <> pad("#{round(each, 2)}", 8)

      ratio = List.last(per_node) / max(hd(per_node), 0.001)
      IO.puts("#{String.pad_trailing(phase, 18)}#{cells}   #{round(ratio, 2)}")
    end
  end

  defp pad(text, width), do: String.pad_leading(text, width)
  defp round(number, digits), do: :erlang.float_to_binary(number / 1, decimals: digits)
end

defmodule Bench.Core do
  # One `Membership` in one process. Its simulated clock moves only between the phases.
  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Membership

  @source {"app.test", :srv}

  def start(size) do
    names = for n <- 1..size, do: "app-#{n}@node#{n}.test"
    spawn_link(fn -> loop(new(size), {names, answer(names)}) end)
  end

  def stop(worker) do
    Process.unlink(worker)
    Process.exit(worker, :kill)
  end

  def prepare(_workers, _phase), do: :ok

  def run(workers, phase) do
    for worker <- workers do
      send(worker, {phase, self()})

      receive do
        {^worker, :done} -> :ok
      end
    end
  end

  defp loop(state, data) do
    receive do
      {phase, from} ->
        state = phase(phase, state, data)
        send(from, {self(), :done})
        loop(state, data)
    end
  end

  defp new(size) do
    config =
      Config.new!(
        query: "app.test",
        node_sname: "app",
        max_nodes: size,
        max_new_names: 1_000_000
      )

    %{membership: Membership.new(config, 1, 0), now: 0, dialled: []}
  end

  defp answer(names) do
    endpoint = %Endpoint{ports: [], addresses: [{10, 0, 0, 1}]}
    {:answer, @source, %{endpoints: Map.new(names, &{&1, endpoint}), ttl: 5_000, complete: true}}
  end

  defp phase(:answer, state, {_names, answer}), do: handle(state, answer)

  defp phase(:join, state, _names), do: results(state, :ok)

  # Loses all nodes after ten seconds. A node that was connected for that long is dialled again at once.
  defp phase(:lose, state, {names, _answer}),
    do: Enum.reduce(names, later(state, 10_000), &handle(&2, {:nodedown, &1}))

  # Dials each node once: after its failure, it is not due again before the simulated clock moves.
  defp phase(:redial, state, _data),
    do: state |> later(1_000) |> handle(:tick) |> results({:error, :unreachable})

  defp phase(:back, state, {names, _answer}),
    do: Enum.reduce(names, state, &handle(&2, {:nodeup, &1}))

  defp later(state, time), do: %{state | now: state.now + time}

  defp results(%{dialled: []} = state, _result), do: state

  defp results(%{dialled: names} = state, result) do
    names
    |> Enum.reduce(%{state | dialled: []}, fn name, state ->
      state = if result == :ok, do: handle(state, {:nodeup, name}), else: state
      handle(state, {:connect_result, name, result})
    end)
    |> results(result)
  end

  # Calls the membership in the same way as the strategy does.
  defp handle(%{membership: membership, now: now, dialled: dialled}, event) do
    env = %{
      now: now,
      self: "me@host",
      existing_atom?: fn _name -> false end,
      atoms_available: true
    }

    {actions, membership} = Membership.handle(membership, event, env)
    _ = Membership.wake(membership, now)
    dialled = for({:connect, name, _probe} <- actions, do: name) ++ dialled
    %{membership: membership, now: now, dialled: dialled}
  end
end

defmodule Bench.Process do
  # One strategy with a faked DNS client and a faked connect function, and with the nodeups and nodedowns that
  # net_kernel would send. Its CPU time includes the jobs that it starts.
  @behaviour Caravan.DnsClient
  alias Caravan.Cluster.DnsStrategy

  @host "node.test"

  def start(size) do
    topology = :"bench#{System.unique_integer([:positive])}"
    server = :"Caravan.Cluster.DnsStrategy:#{topology}"

    options = [
      query: "#{size}.test",
      node_sname: "app",
      topology: topology,
      dns_client: __MODULE__,
      connect: {__MODULE__, :connect, [server]},
      # With an hour between polls, the strategy reads the list of the connected nodes only at its start. No node of the
      # benchmark is in this list.
      poll_interval: 3_600_000,
      min_interval: 3_600_000,
      max_nodes: size,
      max_new_names: 1_000_000,
      log_level: :none
    ]

    %{
      topology: topology,
      server: server,
      options: options,
      nodes: for(n <- 1..size, do: :"app-#{n}@#{@host}")
    }
  end

  def stop(%{server: server}), do: GenServer.stop(server)

  @impl true
  def get_nodes(query) do
    {size, ".test"} = Integer.parse(query)
    for n <- 1..size, do: {n, @host}
  end

  def connect(server, node) do
    up? = not :persistent_term.get({__MODULE__, :unreachable}, false)
    if up?, do: send(server, {:nodeup, node, []})
    up?
  end

  def run(strategies, :join) do
    for %{options: options} <- strategies, do: {:ok, _} = DnsStrategy.start_link(options)

    for %{topology: topology, nodes: nodes} <- strategies,
        do: :ok = Caravan.Cluster.await(topology, nodes: length(nodes), timeout: 600_000)

    wait_until_idle(strategies)
  end

  def run(strategies, :answer) do
    for %{server: server} <- strategies, do: send(server, :tick)
    wait_until_idle(strategies)
  end

  def run(strategies, event) do
    for %{topology: topology, server: server, nodes: nodes} <- strategies do
      for node <- nodes, do: send(server, {event, node, []})
      :ok = Caravan.Cluster.await(topology, nodes: 0, timeout: 600_000)
    end
  end

  # Prepares a phase. The CPU time of this does not count.
  def prepare(strategies, :answer) do
    for %{server: server} <- strategies do
      :sys.replace_state(server, fn state ->
        sources =
          for {source, poll} <- state.membership.sources,
              do: {source, %{poll | next_lookup_at: System.monotonic_time(:millisecond)}}

        put_in(state.membership.sources, sources)
      end)
    end
  end

  # Waits, because a node that was connected for less than five seconds counts as one that flaps. The strategy dials such a
  # node later.
  def prepare(_strategies, :nodedown) do
    Process.sleep(5_500)
    :persistent_term.put({__MODULE__, :unreachable}, true)
  end

  def prepare(_strategies, _phase), do: :persistent_term.put({__MODULE__, :unreachable}, false)

  defp wait_until_idle(strategies, before \\ nil) do
    Process.sleep(20)
    pids = for %{server: server} <- strategies, do: Process.whereis(server)
    now = for pid <- pids, do: Process.info(pid, [:reductions, :message_queue_len])
    if now != before, do: wait_until_idle(strategies, now)
  end
end

rounds = 5
sizes = [250, 1_000, 4_000, 16_000]

# Takes the least time of several runs, because other work of the machine can only make a run longer.
least = fn run ->
  Enum.reduce(for(_ <- 1..rounds, do: run.()), &Map.merge(&1, &2, fn _, a, b -> min(a, b) end))
end

core = [
  [{"first answer", :answer}],
  [{"join", :join}],
  [{"same answer", :answer}],
  [{"lose all", :lose}],
  [{"dial all in vain", :redial}],
  [{"all back", :back}]
]

results =
  for size <- sizes, into: %{} do
    {size,
     least.(fn -> Bench.Phases.run(Bench.Core, core, for(_ <- 1..div(32_000, size), do: size)) end)}
  end

Bench.Phases.print("Membership", core, sizes, results)

process = [
  [{"answer and join", :join}],
  [{"same answer", :answer}],
  # The second phase follows at once. Otherwise the strategies would dial the lost nodes again and again in the meantime.
  [{"lose all", :nodedown}, {"all back", :nodeup}]
]

# All topologies of a run together have 16,000 nodes, because the peer table (Caravan.Epmd.Peers) has room for 16,384.
results =
  for size <- sizes, into: %{} do
    {size,
     least.(fn ->
       Bench.Phases.run(Bench.Process, process, for(_ <- 1..div(16_000, size), do: size))
     end)}
  end

Bench.Phases.print("Strategy", process, sizes, results)
