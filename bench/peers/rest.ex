# Rows of bench/peers.exs: what a strategy costs at rest, and what the start of a VM takes.

defmodule Bench.Peers.Rest do
  alias Bench.Lab
  alias Bench.Nodes
  alias Caravan.Test.DnsServer
  alias Caravan.Test.Knot

  @poll 1_000

  @doc "Prints the CPU time and the memory of each library that polls every second. Dead nodes refuse connections."
  def rest(knot) do
    cases = [
      {"rest10", 0, "10 live nodes", [0.1, 0.1]},
      {"rest100", 90, "10 live nodes, 90 refuse", [0.3, 0.3]},
      {"rest1000", 990, "10 live nodes, 990 refuse", [1.0, 0.2]}
    ]

    live = for n <- 1..10, do: {127, 2, 2, n}
    dead = for n <- 1..990, do: {127, 3, div(n, 250), rem(n, 250)}
    _live = Lab.vms(live)

    records =
      for {name, count, _, _} <- cases, do: Lab.records(name, live ++ Enum.take(dead, count), 60)

    Knot.put_records(knot, Enum.concat(records))
    [idle | vms] = Lab.vms(for _ <- 0..9, do: Lab.fresh_ip())
    strategies = for {name, _, _, _} <- cases, do: all_strategies(name)

    for {vm, strategy} <- Enum.zip(vms, Enum.concat(strategies)),
        do: Nodes.call(vm, :discover, [strategy, 10])

    minutes = for _ <- 1..2, do: minute([idle | vms])
    memory = memories([idle | vms])

    for {{_, _, title, limits}, index} <- Enum.with_index(cases),
        {[idle | spent], limit, minute} <- Enum.zip([minutes, limits, 1..2]) do
      title = "#{title}: CPU in minute #{minute}, s"
      Lab.print(title, by_library(spent, index) ++ [bare: [idle]], "#{limit}")
    end

    [idle | used] = memory
    over = by_library(Enum.map(used, &(&1 - idle)), 2)
    Lab.print("the same: memory above a VM without a strategy, MiB", over, "6")
  end

  defp all_strategies(name), do: for(l <- Lab.libraries(), do: Lab.strategy(l, name, @poll))

  # The values of one case of several. Each case has one value for each library.
  defp by_library(values, index) do
    values = values |> Enum.chunk_every(3) |> Enum.at(index) |> Enum.map(&[&1])
    Enum.zip(Lab.libraries(), values)
  end

  # The CPU time of each VM in a minute, in seconds.
  defp minute(vms) do
    pids = Enum.map(vms, &Nodes.os_pid/1)
    before = for pid <- pids, do: Nodes.cpu([pid])
    Process.sleep(60_000)
    for {pid, before} <- Enum.zip(pids, before), do: Nodes.cpu([pid]) - before
  end

  # The memory of each VM, as the median of half a minute. It goes up and down by some MiB with each garbage collection.
  defp memories(vms) do
    samples =
      for _ <- 1..7 do
        Process.sleep(5_000)
        Enum.map(vms, &memory/1)
      end

    Enum.zip_with(samples, &Nodes.median/1)
  end

  defp memory(vm) do
    status = File.read!("/proc/#{Nodes.os_pid(vm)}/status")
    [kilobytes] = Regex.run(~r/VmRSS:\s+(\d+)/, status, capture: :all_but_first)
    String.to_integer(kilobytes) / 1_024
  end

  @doc """
  Prints the CPU time and the number of DNS questions of each library in a minute. There are 100 SRV records, and 90 of
  their nodes refuse connections. The strategy of libcluster is Kubernetes.DNSSRV.
  """
  def srv(_knot) do
    names = for n <- 1..100, do: "n#{n}.app.bench.#{Lab.zone()}"
    dead = for n <- 1..90, do: {127, 3, 0, n}
    # Kubernetes.DNSSRV needs the host in the name of a node, dns_cluster the address.
    by_host = for n <- 1..10, do: {127, 2, 3, n}
    by_ip = for n <- 1..10, do: {127, 2, 2, n}
    for {ip, name} <- Enum.zip(by_host, names), do: Lab.vm(ip, [], host: name)
    _live = Lab.vms(by_ip)

    {vms, servers} =
      for additional? <- [true, false], library <- Lab.libraries() do
        targets = Enum.zip(names, if(library == :dns_cluster, do: by_ip, else: by_host) ++ dead)
        dns = Lab.fresh_ip()
        server = server(dns, targets, additional?)
        vm = Lab.vm(Lab.fresh_ip(), ~w(-env CLUSTER_DOMAIN test.), dns: dns)
        Nodes.call(vm, :discover, [srv_strategy(library, dns), 10])
        {vm, server}
      end
      |> Enum.unzip()

    Enum.each(servers, &DnsServer.reset/1)
    spent = minute(vms)
    questions = for server <- servers, do: length(DnsServer.queries(server))
    cases = [{"with addresses in the answer", "0.4", ""}, {"without addresses", "", "300"}]

    for {{title, cpu, asked}, index} <- Enum.with_index(cases) do
      Lab.print("100 SRV records #{title}: CPU in 60 s, s", by_library(spent, index), cpu)
      Lab.print("the same: questions", by_library(questions, index), asked)
    end
  end

  # Each strategy has a nameserver of its own, which counts its questions.
  defp server(dns, targets, additional?) do
    srv = for {name, _ip} <- targets, do: {0, 0, 4_370, name}
    reply = {srv, ttl: 60, additional: if(additional?, do: targets, else: [])}
    addresses = for {name, ip} <- targets, do: {name, :a, {[ip], ttl: 60}}
    answers = [{"app.bench.#{Lab.zone()}", :srv, reply} | addresses]
    {:ok, server} = DnsServer.start_link(ip: dns, port: 53, answers: answers)
    :ok = DnsServer.put_default(server, :empty)
    server
  end

  defp srv_strategy(:caravan, dns) do
    options = [type: :srv, node_name: "{name}@{host}", nameservers: [Lab.ntoa(dns)]]
    Lab.strategy(:caravan, "app.bench", @poll, options)
  end

  defp srv_strategy(:libcluster, _dns) do
    config = [
      service: "app",
      namespace: "bench",
      application_name: "app",
      polling_interval: @poll
    ]

    {Cluster.Strategy.Kubernetes.DNSSRV, [Lab.libcluster_state(config)]}
  end

  defp srv_strategy(:dns_cluster, _dns),
    do: Lab.strategy(:dns_cluster, "app.bench", @poll, resource_types: [:srv])

  @doc """
  Prints how long a VM takes to start until it listens, and how long its first lookup takes. Compares Caravan with OTP,
  whose resolver the other libraries use.
  """
  def boot(knot) do
    Knot.put_records(knot, Lab.records("boot", [{127, 0, 0, 1}], 60))

    caravan = [
      "-epmd_module",
      "Elixir.Caravan.Epmd",
      "-pa",
      Application.app_dir(:caravan, "ebin")
    ]

    boots = interleave([caravan: caravan, bare: ~w(-erl_epmd_port 4370)], &boot_time/1)
    Lab.print("boot until the node listens (bare: -erl_epmd_port), ms", boots, "within noise")

    name = "boot.#{Lab.zone()}"
    caravan = [Caravan.Dns, :lookup, [name, :a, [nameservers: [Lab.ntoa(Lab.dns())]]]]
    otp = [:inet_res, :lookup, [String.to_charlist(name), :in, :a]]
    lookups = interleave([caravan: caravan, bare: otp], &first_lookup/1)
    Lab.print("first lookup of a VM (bare: :inet_res), µs", lookups, "1.0 × bare")
  end

  defp interleave(ways, fun) do
    times = for _ <- 1..9, do: for({_way, argument} <- ways, do: fun.(argument))
    Enum.zip(Keyword.keys(ways), Enum.zip_with(times, & &1))
  end

  defp boot_time(args) do
    ip = Lab.fresh_ip()
    name = "app@#{Lab.ntoa(ip)}"
    args = ["-noinput", "-name", name, "-setcookie", "bench", "-start_epmd", "false"] ++ args
    erl = {:spawn_executable, System.find_executable("erl")}
    started = Lab.now()
    vm = Port.open(erl, [:binary, :exit_status, args: args])
    listens = Bench.Node.await_listener(ip, 4_370)
    {:os_pid, pid} = Port.info(vm, :os_pid)
    {_, 0} = System.cmd("kill", ["-9", "#{pid}"])
    receive do: ({^vm, {:exit_status, _}} -> (listens - started) / 1_000)
  end

  defp first_lookup(call) do
    vm = Lab.vm(Lab.fresh_ip())
    {time, _result} = :peer.call(vm.peer, :timer, :tc, call)
    Lab.stop(vm)
    time
  end
end
