defmodule Caravan.Test.Netns do
  @moduledoc """
  Several hosts on this machine: network namespaces whose links can be cut.

      net = start_supervised!({Netns, hosts: %{a: ["10.77.0.1/24"], b: ["10.77.0.2/24", "fd77::2/64"]}})
      node = PeerNode.start!(name: "app@10.77.0.1", wrapper: Netns.wrapper(net, :a))

      Netns.set(net, [{:cut, [:a], [:b]}])
      Netns.set(net, [])

  Each host has one interface, on a common bridge. There is no other way in or out. The namespaces have no
  names. Each is held by a process that waits for the end of its stdin. The kernel removes a namespace with its
  last process, however the tests end.
  """

  use GenServer, restart: :temporary

  @deadline 60_000

  @typedoc "The name of a host, which the test chooses."
  @type host :: atom

  @typedoc """
  A fault of the network:

    * `{:cut, hosts, others}`: no packet passes between the two groups of hosts
    * `{:lose, percent}`: this share of all packets is lost
    * `{:silent, addresses}`: TCP packets to these addresses are lost. The addresses still answer neighbour
      discovery, so the kernel does not report them as unreachable.
  """
  @type fault :: {:cut, [host], [host]} | {:lose, 1..99} | {:silent, [:inet.ip_address()]}

  @doc """
  Returns why this user cannot make such namespaces, or `nil`.

  Root can make them. Those of an ordinary user do not help: other processes cannot enter them.
  """
  @spec obstacle() :: String.t() | nil
  def obstacle do
    case System.cmd("unshare", ~w(--net -- nft list ruleset), stderr_to_stdout: true) do
      {_, 0} -> nil
      {output, _} -> "this user cannot make network namespaces: #{String.trim(output)}"
    end
  end

  @spec start_link(hosts: %{host => [address :: String.t()]}) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, Keyword.fetch!(opts, :hosts))

  @doc "Returns words that run a command on a host, if they are put before the command."
  @spec wrapper(pid, host) :: [String.t()]
  def wrapper(net, host), do: GenServer.call(net, {:wrapper, host}, @deadline)

  @doc "Sets the faults of the network. They replace the earlier faults."
  @spec set(pid, [fault]) :: :ok
  def set(net, faults), do: GenServer.call(net, {:set, faults}, @deadline)

  @impl true
  def init(hosts) do
    switch = hold()
    held = Map.new(hosts, fn {name, _addresses} -> {name, hold()} end)
    # Linux limits the name of an interface to 15 bytes, so it cannot be the name of the host.
    ports = hosts |> Map.keys() |> Enum.with_index(&{&1, "p#{&2}"}) |> Map.new()

    links =
      for {name, port} <- ports do
        "link add name #{port} type veth peer name eth0 netns #{held[name]}\n" <>
          "link set dev #{port} master bridge up\n"
      end

    ip(switch, ["link add name bridge type bridge\nlink set dev bridge up\n" | links])

    for {name, addresses} <- hosts do
      # Without nodad, an IPv6 address cannot be used for its first one or two seconds.
      adds = for address <- addresses, do: "address add #{address} dev eth0 #{nodad(address)}\n"
      ip(held[name], ["link set dev lo up\nlink set dev eth0 up\n" | adds])
    end

    {:ok, %{switch: switch, hosts: held, ports: ports}}
  end

  @impl true
  def handle_call({:wrapper, host}, _from, state),
    do: {:reply, enter(Map.fetch!(state.hosts, host)), state}

  def handle_call({:set, faults}, _from, state) do
    rules = Enum.map_join(faults, "\n", &rule(&1, state.ports))

    # The first line creates the table for the first call, which has no table to delete. nft applies all lines at once.
    run(state.switch, ["nft", "-f", "-"], """
    table bridge faults
    delete table bridge faults
    table bridge faults {
      chain forward {
        type filter hook forward priority 0;
        #{rules}
      }
    }
    """)

    {:reply, :ok, state}
  end

  defp rule({:cut, hosts, others}, ports) do
    [these, those] = for names <- [hosts, others], do: set_of(for name <- names, do: ports[name])
    "iifname #{these} oifname #{those} drop\niifname #{those} oifname #{these} drop"
  end

  defp rule({:lose, percent}, _ports), do: "numgen random mod 100 < #{percent} drop"

  defp rule({:silent, ips}, _ports) do
    {v6, v4} = Enum.split_with(ips, &(tuple_size(&1) == 8))

    for {family, protocol, ips} <- [{"ip", "ip", v4}, {"ip6", "ip6", v6}],
        ips != [],
        do:
          "ether type #{protocol} meta l4proto tcp #{family} daddr #{set_of(Enum.map(ips, &:inet.ntoa/1))} drop\n"
  end

  defp set_of(items), do: "{ #{Enum.join(items, ", ")} }"

  defp nodad(address), do: if(address =~ ":", do: "nodad", else: "")

  # Returns the id of a process in a new namespace. The calling process owns the port, which ends with it.
  defp hold do
    args = ["--net", "--", "/bin/sh", "-c", "echo held; exec cat"]

    port =
      Port.open({:spawn_executable, System.find_executable("unshare")}, [:binary, args: args])

    receive do
      {^port, {:data, "held\n"}} -> port |> Port.info(:os_pid) |> elem(1)
    after
      @deadline -> raise "no network namespace after #{@deadline} ms"
    end
  end

  defp ip(namespace, lines), do: run(namespace, ["ip", "-batch", "-"], Enum.join(lines))

  # A shell pipes the input to the command, because System.cmd/3 cannot write to the stdin of a command.
  defp run(namespace, command, input) do
    args = ["-c", ~S(printf %s "$0" | "$@"), input | enter(namespace) ++ command]

    case System.cmd("/bin/sh", args, stderr_to_stdout: true) do
      {_, 0} -> :ok
      {output, status} -> raise "#{inspect(command)} ended with #{status}:\n#{output}\n#{input}"
    end
  end

  defp enter(namespace), do: ["nsenter", "--net=/proc/#{namespace}/ns/net", "--"]
end
