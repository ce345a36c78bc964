# Starts VMs with Caravan.Epmd, and has the code that runs in them.

for file <- ["daemon", "knot"],
    do: Code.require_file("../test/support/servers/#{file}.ex", __DIR__)

defmodule Bench.Nodes do
  # The port of the node with number 0. The ports that Linux uses for outgoing connections are higher.
  @first_port 20_000

  @doc "Starts a VM for each number. The number determines its port and name."
  def start(numbers, args \\ []) do
    numbers
    |> Task.async_stream(&start_named(name(&1), args), max_concurrency: 2, timeout: 60_000)
    |> Enum.map(fn {:ok, node} -> node end)
  end

  def stop(nodes), do: Enum.each(nodes, &:peer.stop(&1.peer))

  def port(number), do: @first_port + number
  def name(number), do: :"app-#{port(number)}@127.0.0.1"

  @doc "Returns an SRV record for each number."
  def records(numbers, priority \\ 0),
    do: for(n <- numbers, do: "_app._tcp 60 SRV #{priority} 0 #{port(n)} host")

  @doc "Returns the records of a zone whose nodes are on one host."
  def zone(records), do: ["host 60 A 127.0.0.1" | records]

  def options(knot, more \\ []) do
    Keyword.merge(
      [
        query: "_app._tcp.bench.test",
        node_sname: "app",
        node_name: "{name}-{port}@127.0.0.1",
        nameservers: [Caravan.Test.Knot.address(knot)],
        log_level: :none
      ],
      more
    )
  end

  @doc "Returns the options for fake nodes, whose addresses are the A records of `nodes.bench.test`."
  def fake_options(knot, fake, more) do
    name = "{name}-#{fake.port}@{ip}"
    options(knot, [query: "nodes.bench.test", type: :a, node_name: name] ++ more)
  end

  @doc "Returns a record for each address of a fake node."
  def fake_records(addresses),
    do: for(address <- addresses, do: "nodes 3600 A #{:inet.ntoa(address)}")

  @doc "Calls a function of `Bench.Node` on the VM."
  def call(node, function, args, timeout \\ 120_000),
    do: :peer.call(node.peer, Bench.Node, function, args, timeout)

  def call_all(nodes, function, args) do
    nodes
    |> Enum.map(&Task.async(fn -> call(&1, function, args) end))
    |> Task.await_many(:infinity)
  end

  @doc "Polls until the condition holds."
  def await(condition), do: condition.() || (Process.sleep(10) && await(condition))

  @doc "Ends the strategies, and disconnects all nodes from each other."
  def reset(nodes) do
    call_all(nodes, :stop, [])
    leave(nodes)
  end

  defp leave(nodes) do
    if nodes |> call_all(:leave, []) |> Enum.sum() > 0 do
      Process.sleep(200)
      leave(nodes)
    end
  end

  @doc "Kills the VM, as a crash does."
  def kill(node) do
    {_, 0} = System.cmd("kill", ["-9", os_pid(node)])
    :ok
  end

  @doc "Returns the id of the VM's process."
  def os_pid(node), do: node.peer |> :peer.call(:os, :getpid, []) |> to_string()

  @doc "Returns the CPU time that these processes have used, in seconds."
  def cpu(pids) do
    # Linux counts in ticks of 10 ms. The name of the program, in parentheses, may contain spaces.
    Enum.sum(
      for pid <- pids do
        [_, after_name] = String.split(File.read!("/proc/#{pid}/stat"), ") ")
        [user, system] = after_name |> String.split() |> Enum.slice(11, 2)
        (String.to_integer(user) + String.to_integer(system)) / 100
      end
    )
  end

  @doc "Returns the memory of these processes without pages of files, in KiB."
  def memory(pids) do
    Enum.sum(
      for pid <- pids do
        rollup = File.read!("/proc/#{pid}/smaps_rollup")
        [kib] = Regex.run(~r/^Anonymous:\s+(\d+) kB$/m, rollup, capture: :all_but_first)
        String.to_integer(kib)
      end
    )
  end

  @doc "Returns the middle value."
  def median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))

  @doc "Starts a VM of this name. `wrapper` is a command that gets the command of the VM as its last arguments."
  def start_named(name, args, wrapper \\ []) do
    paths = for app <- [:elixir, :logger, :caravan], do: ["-pa", Application.app_dir(app, "ebin")]
    epmd = ~w(-epmd_module Elixir.Caravan.Epmd -start_epmd false)
    quiet = ~w(-setcookie bench -kernel logger_level critical)
    arguments = ["-name", Atom.to_string(name)] ++ List.flatten(paths) ++ epmd ++ quiet

    {:ok, peer, name} =
      :peer.start(%{
        connection: :standard_io,
        exec: {~c"/usr/bin/env", Enum.map(wrapper ++ ["erl"], &String.to_charlist/1)},
        args: Enum.map(arguments ++ args, &String.to_charlist/1),
        wait_boot: 60_000
      })

    # This file is not on the code path of the VM, so its compiled code is sent.
    {module, binary, file} = :persistent_term.get(Bench.Node)
    {:module, _} = :peer.call(peer, :code, :load_binary, [module, file, binary])
    {:ok, _} = :peer.call(peer, :application, :ensure_all_started, [:logger])
    # Loads all modules, as a release does at boot.
    for app <- [:kernel, :stdlib, :elixir, :logger, :caravan] do
      {:ok, modules} = :application.get_key(app, :modules)
      :ok = :peer.call(peer, :code, :ensure_modules_loaded, [modules], 60_000)
    end

    %{peer: peer, name: name}
  end
end

{:module, module, binary, _} =
  defmodule Bench.Node do
    @doc "Connects through the strategy. Returns when the strategy started and when `count` nodes were connected, in µs."
    def discover(options, count), do: run(fn -> {:ok, _} = start(options) end, count)

    @doc """
    Connects to given names, without discovery. Returns the same times as `discover/2`.

    An attempt that fails is repeated: on a busy machine, OTP gives up some of thousands.
    """
    def connect(names, count) do
      connect = fn -> for name <- names, do: spawn(fn -> connect_until_true(name) end) end
      run(connect, count)
    end

    @doc "Waits until `count` nodes are connected to this one. Returns the time in µs."
    def await(count) do
      if length(Node.list()) < count do
        Process.sleep(1)
        await(count)
      else
        System.os_time(:microsecond)
      end
    end

    @doc "Waits until `count` of these nodes are connected to this one. Returns the time in µs."
    def await_nodes(nodes, count) do
      if Enum.count(Node.list(), &(&1 in nodes)) < count do
        Process.sleep(1)
        await_nodes(nodes, count)
      else
        System.os_time(:microsecond)
      end
    end

    @behaviour Caravan.DnsClient

    @doc "Starts the strategy. Its answers are `nodes`, a list of ports and hosts, and DNS is not asked."
    def discover_static(options, nodes) do
      :persistent_term.put(__MODULE__, nodes)
      {:ok, _} = start([dns_client: __MODULE__] ++ options)
      :ok
    end

    @impl true
    def get_nodes(_query), do: :persistent_term.get(__MODULE__)

    @doc "Waits until this node is connected to a node, or with `false` not connected. Returns the time in µs."
    def await_node(node, connected? \\ true) do
      if node in Node.list() == connected? do
        System.os_time(:microsecond)
      else
        Process.sleep(1)
        await_node(node, connected?)
      end
    end

    @doc "Connects a node as soon as it listens. Returns when it listened and when it was connected, in µs."
    def connect_listener(node, ip, port) do
      listens = await_listener(ip, port)
      true = connect_until_true(node)
      [listens, System.os_time(:microsecond)]
    end

    defp connect_until_true(node), do: Node.connect(node) == true or connect_until_true(node)

    @doc "Connects by TCP until it succeeds, each time for 20 ms at most. Returns the time in µs."
    def await_listener(ip, port) do
      case :gen_tcp.connect(ip, port, [], 20) do
        {:ok, socket} ->
          :ok = :gen_tcp.close(socket)
          System.os_time(:microsecond)

        {:error, _reason} ->
          Process.sleep(1)
          await_listener(ip, port)
      end
    end

    @doc "Ends the strategy, so that it dials no more nodes."
    def stop do
      if pid = Process.whereis(:bench_strategy), do: Process.exit(pid, :kill)
      :ok
    end

    @doc "Disconnects all nodes. Returns their number."
    def leave do
      nodes = Node.list()
      _ = :global.disconnect()
      for node <- Node.list(), do: Node.disconnect(node)
      length(nodes)
    end

    @doc "Collects the nodedowns from now on, for `downs/0`."
    def watch do
      collect(:bench_watch, fn -> :net_kernel.monitor_nodes(true) end, fn
        {:nodedown, node} -> [node]
        _other -> []
      end)
    end

    @doc "Returns the nodes of all nodedowns since `watch/0`."
    def downs, do: collected(:bench_watch)

    @doc "Counts the messages that global_name_server receives from now on, for `counted/0`."
    def count_global do
      start = fn -> :erlang.trace(Process.whereis(:global_name_server), true, [:receive]) end

      collect(:bench_count, start, fn
        {:trace, _pid, :receive, _message} -> [:received]
        _other -> []
      end)
    end

    @doc "Returns how many messages global_name_server received since `count_global/0`."
    def counted, do: length(collected(:bench_count))

    defp collect(name, start, select) do
      caller = self()

      spawn(fn ->
        Process.register(self(), name)
        start.()
        send(caller, name)
        collect_loop([], select)
      end)

      receive do
        ^name -> :ok
      end
    end

    defp collect_loop(collected, select) do
      receive do
        {:collected, caller} -> send(caller, {:collected, collected})
        message -> collect_loop(select.(message) ++ collected, select)
      end
    end

    defp collected(name) do
      send(name, {:collected, self()})

      receive do
        {:collected, collected} -> collected
      end
    end

    @doc """
    Connects to `count` nodes through the strategy. Returns

      * `:links`: the time until all nodes are connected, in ms;
      * `:rest`: the time from then until the strategy is at rest, in ms;
      * `:cpu`: the CPU time up to half a second after that, in ms;
      * `:rss`, `:beam`: by how much the memory of the VM has grown, in MiB.
    """
    def grow(options, count) do
      measure(count, fn ->
        {:ok, pid} = start(options)
        fn -> {pid, Process.info(pid, [:reductions, :message_queue_len])} end
      end)
    end

    @doc "Connects to given names, `most` of them at a time. Returns the same as `grow/2`."
    def connect_all(names, most) do
      measure(length(names), fn ->
        spawn(fn ->
          {first, later} = if most == :infinity, do: {names, []}, else: Enum.split(names, most)
          Enum.each(first, &connect_one/1)
          connect_later(later)
        end)

        fn -> :idle end
      end)
    end

    defp connect_one(name), do: spawn_monitor(fn -> Node.connect(String.to_atom(name)) end)

    defp connect_later([]), do: :ok

    defp connect_later([name | names]) do
      receive do
        {:DOWN, _ref, :process, _pid, _reason} -> connect_one(name)
      end

      connect_later(names)
    end

    # `fun` returns a function whose value no longer changes when the work is done.
    defp measure(count, fun) do
      :ok = :net_kernel.monitor_nodes(true)
      :erlang.garbage_collect()
      {rss, beam} = {rss(), :erlang.memory(:total)}
      {cpu, _} = :erlang.statistics(:runtime)
      started = now()
      activity = fun.()
      await_nodeups(count)
      linked = now()
      rested = await_rest(activity, activity.(), linked, linked)
      {cpu_after, _} = :erlang.statistics(:runtime)

      %{
        links: (linked - started) / 1_000,
        rest: (rested - linked) / 1_000,
        cpu: cpu_after - cpu,
        rss: (rss() - rss) / 1_048_576,
        beam: (:erlang.memory(:total) - beam) / 1_048_576
      }
    end

    defp await_nodeups(0), do: :ok

    defp await_nodeups(count) do
      receive do
        {:nodeup, _node} -> await_nodeups(count - 1)
      end
    end

    # Returns when the last change was, once nothing has changed for half a second.
    defp await_rest(activity, last, since, checked) do
      Process.sleep(2)

      case activity.() do
        ^last when checked - since > 500_000 -> since
        ^last -> await_rest(activity, last, since, now())
        other -> await_rest(activity, other, now(), now())
      end
    end

    defp rss do
      [kilobytes] =
        Regex.run(~r/VmRSS:\s+(\d+)/, File.read!("/proc/self/status"), capture: :all_but_first)

      String.to_integer(kilobytes) * 1_024
    end

    defp now, do: System.os_time(:microsecond)

    defp run(fun, count) do
      started = System.os_time(:microsecond)
      fun.()
      %{started: started, done: await(count)}
    end

    # Another library's strategy is {module, argument}.
    defp start({module, argument}) do
      test = self()

      spawn(fn ->
        Process.register(self(), :bench_strategy)
        {:ok, _} = started = module.start_link(argument)
        send(test, started)
        Process.sleep(:infinity)
      end)

      receive do
        {:ok, _} = started -> started
      end
    end

    defp start(options), do: start({Caravan.Cluster.DnsStrategy, options})
  end

:persistent_term.put(Bench.Node, {module, binary, ~c"bench/nodes.ex"})
