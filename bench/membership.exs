# How much CPU a topology of N nodes takes: the membership alone, and the whole strategy. Each event is taken in
# by itself, as in a cluster: one nodeup, one nodedown, one result of a connect.
#
#   ELIXIR_ERL_OPTIONS="+sbwt none +sbwtdcpu none +sbwtdio none" mix run bench/membership.exs
#
# The options stop schedulers from waiting busily, which counts as CPU time. No node is started: connects
# return `true` and send the nodeup that net_kernel would send. Wanted: a node costs at most twice as much
# among 16,000 as among 250; 4,000 nodes join within 0.5 s of CPU; a nodeup or nodedown of one of 4,000 takes
# less than 50 µs.

defmodule Bench.Phases do
  # Runs the phases one after the other, each of them in all workers in turn, and measures the CPU time of the
  # VM. Small topologies are many, so that each phase takes long enough for a clock of milliseconds.
  def run(phases, workers) do
    for {title, fun} <- phases, into: %{} do
      :erlang.garbage_collect()
      {before, _} = :erlang.statistics(:runtime)
      Enum.each(workers, fun)
      {now, _} = :erlang.statistics(:runtime)
      {title, (now - before) / length(workers)}
    end
  end

  def print(title, phases, sizes, results) do
    IO.puts("\n#{title}: ms of CPU, and µs per node\n")
    header = Enum.map_join(sizes, &pad("#{&1}", 18))
    IO.puts("#{String.pad_trailing("nodes", 18)}#{header}   per node, last : first")

    for phase <- phases do
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
  # One `Membership` in one process. The clock goes on between the phases only.
  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Membership

  @source {"app.test", :srv}

  def start(size) do
    names = for n <- 1..size, do: "app-#{n}@node#{n}.test"
    spawn_link(fn -> loop(new(size), {names, answer(names)}) end)
  end

  def run(worker, phase) do
    send(worker, {phase, self()})

    receive do
      {^worker, :done} -> :ok
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

  # Ten seconds later, as a node that lasted is dialled at once.
  defp phase(:lose, state, {names, _answer}),
    do: Enum.reduce(names, later(state, 10_000), &handle(&2, {:nodedown, &1}))

  # Each of them once: after a failure it is not due at this time.
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

  # As the strategy does it.
  defp handle(%{membership: membership, now: now, dialled: dialled}, event) do
    env = %{
      now: now,
      self: "me@host",
      existing_atom?: fn _name -> false end,
      atoms_available: true
    }

    {actions, membership} = Membership.handle(membership, event, env)
    _ = Membership.wake(membership, now)
    dialled = for({:connect, name} <- actions, do: name) ++ dialled
    %{membership: membership, now: now, dialled: dialled}
  end
end

rounds = 5
sizes = [250, 1_000, 4_000, 16_000]

phases = [
  "first answer": :answer,
  join: :join,
  "same answer": :answer,
  "lose all": :lose,
  "dial all in vain": :redial,
  "all back": :back
]

run = fn size ->
  workers = for _ <- 1..div(32_000, size), do: Bench.Core.start(size)
  steps = for {title, phase} <- phases, do: {"#{title}", &Bench.Core.run(&1, phase)}
  result = Bench.Phases.run(steps, workers)

  for worker <- workers do
    Process.unlink(worker)
    Process.exit(worker, :kill)
  end

  result
end

# The least of several runs: what else the machine does only adds to it.
least = fn size ->
  for(_ <- 1..rounds, do: run.(size))
  |> Enum.reduce(&Map.merge(&1, &2, fn _, a, b -> min(a, b) end))
end

results = for size <- sizes, into: %{}, do: {size, least.(size)}

Bench.Phases.print(
  "Membership",
  Enum.map(phases, fn {title, _} -> "#{title}" end),
  sizes,
  results
)
