defmodule Caravan.Test.Cluster do
  @moduledoc "Nodes under test that find each other with the strategy, through one SRV name of a `Knot`."

  alias Caravan.Test.Host
  alias Caravan.Test.Knot
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Witness

  @query "_app._tcp.caravan.test"

  @doc "Returns the zone that the `Knot` must have."
  @spec zone() :: String.t()
  def zone, do: "caravan.test"

  @doc "Starts a node that runs the strategy. Options: those of `PeerNode.start!/1`, and `:strategy`, options of the strategy."
  @spec start_node(pid, keyword) :: PeerNode.t()
  def start_node(knot, options \\ []) do
    {strategy, options} = Keyword.pop(options, :strategy, [])
    node = start_alone(options)
    start_strategy(node, knot, strategy)
    node
  end

  @doc "Starts a node with a `Witness` and without a strategy. Options are those of `PeerNode.start!/1`."
  @spec start_alone(keyword) :: PeerNode.t()
  def start_alone(options \\ []) do
    node = PeerNode.start!(Keyword.put_new_lazy(options, :name, fn -> PeerNode.name("app") end))
    {:ok, _} = PeerNode.call(node, :application, :ensure_all_started, [:logger])
    # The log of the nodes would mix with the results of the tests.
    :ok = PeerNode.call(node, :logger, :set_primary_config, [:level, :none])
    :ok = PeerNode.call(node, Witness, :start, [])
    :ok = PeerNode.call(node, Witness, :join, [])
    node
  end

  @spec start_strategy(PeerNode.t(), pid, keyword) :: :ok
  def start_strategy(node, knot, strategy \\ []),
    do: PeerNode.call(node, __MODULE__, :run_strategy, [options(knot, strategy)])

  @doc false
  # Runs on the node. The supervisor outlives this call.
  @spec run_strategy(keyword) :: :ok
  def run_strategy(options) do
    test = self()

    {_pid, ref} =
      spawn_monitor(fn ->
        children = [{Caravan.Cluster.DnsStrategy, options}]
        {:ok, _} = Supervisor.start_link(children, strategy: :one_for_one, max_restarts: 100)
        send(test, :started)
        Process.sleep(:infinity)
      end)

    receive do
      :started ->
        true = Process.demonitor(ref, [:flush])
        :ok

      {:DOWN, ^ref, :process, _pid, reason} ->
        raise "the strategy has not started: #{inspect(reason)}"
    after
      20_000 -> raise "the strategy has not started within 20 s"
    end
  end

  @spec options(pid, keyword) :: keyword
  def options(knot, strategy) do
    Keyword.merge(
      [
        query: @query,
        node_sname: "app",
        # An SRV target cannot be an address, so the template sets the host.
        node_name: "{name}-{port}@127.0.0.1",
        nameservers: [Knot.address(knot)],
        lookup_timeout: 500,
        poll_interval: 200
      ],
      strategy
    )
  end

  @doc "Lets a node log the lines of this level and above to a file. Returns its path."
  @spec log_to_file(PeerNode.t(), Logger.level()) :: Path.t()
  def log_to_file(node, level \\ :info) do
    file = Path.join(System.tmp_dir!(), "caravan-#{System.pid()}-#{node.os_pid}.log")
    ExUnit.Callbacks.on_exit(fn -> File.rm(file) end)
    handler = %{config: %{file: String.to_charlist(file)}, formatter: {:logger_formatter, %{}}}
    # The level comes first. Otherwise the file could get lines below it.
    :ok = PeerNode.call(node, :logger, :set_primary_config, [:level, level])
    :ok = PeerNode.call(node, :logger, :add_handler, [:file, :logger_std_h, handler])
    # The default handler of OTP, and that of Logger before Elixir 1.15.
    for other <- [:default, Logger], do: PeerNode.call(node, :logger, :remove_handler, [other])
    file
  end

  @doc "As `log_to_file/2`. Returns a function that returns what the node has logged since then."
  @spec log_of(PeerNode.t(), Logger.level()) :: (() -> String.t())
  def log_of(node, level) do
    file = log_to_file(node, level)

    fn ->
      :ok = PeerNode.call(node, :logger_std_h, :filesync, [:file])
      File.read!(file)
    end
  end

  @spec put_records(pid, [PeerNode.t()]) :: :ok
  def put_records(knot, nodes) do
    Knot.put_records(
      knot,
      for(node <- nodes, do: "_app._tcp 1 SRV 0 0 #{PeerNode.port(node)} host")
    )
  end

  @spec peers(PeerNode.t()) :: [node]
  def peers(node), do: node |> PeerNode.call(:erlang, :nodes, []) |> Enum.sort()

  @doc "Waits until each of the nodes is connected to the others and to no other node."
  @spec await_mesh([PeerNode.t()], pos_integer) :: true
  def await_mesh(nodes, timeout \\ 60_000) do
    names = Enum.map(nodes, & &1.name)

    for node <- nodes do
      others = Enum.sort(names -- [node.name])

      Host.await(
        fn -> peers(node) == others end,
        "#{node.name} to see #{inspect(others)}",
        timeout
      )
    end

    true
  end

  @doc """
  Waits until `global` of each node knows the nodes that are connected to it, which takes a moment after a nodeup.

  If a node is drained before its `global` knows a new peer, the peer takes the end of the connection for a failure of the
  network. Then `global` may disconnect healthy nodes.
  """
  @spec sync_global([PeerNode.t()]) :: :ok
  def sync_global(nodes),
    do: Enum.each(nodes, fn node -> :ok = PeerNode.call(node, :global, :sync, []) end)

  @spec report(PeerNode.t()) :: map
  def report(node), do: PeerNode.call(node, Witness, :report, [])

  @doc "Sends a signal to the VM of the node."
  @spec signal(PeerNode.t(), String.t()) :: :ok
  def signal(node, name) do
    {_, 0} = System.cmd("kill", ["-" <> name, node.os_pid])
    :ok
  end
end
