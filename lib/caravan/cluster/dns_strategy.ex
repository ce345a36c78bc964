defmodule Caravan.Cluster.DnsStrategy do
  alias Caravan.Cluster.Config

  @moduledoc """
  Finds the nodes of a cluster in DNS and connects to them.

  As a libcluster strategy:

      config :libcluster,
        topologies: [
          app: [
            strategy: Caravan.Cluster.DnsStrategy,
            config: [query: "_app._tcp.service.consul", node_sname: "app"]
          ]
        ]

  or, with no libcluster, as a child of any supervisor:

      children = [
        {Caravan.Cluster.DnsStrategy, query: "_app._tcp.service.consul", node_sname: "app"}
      ]

  An SRV record `0 0 4001 node1.example.com` is the node `app-4001@node1.example.com`: the name that
  `Caravan.Epmd` listens on port 4001 for.

  ## Options

  #{Config.docs()}

  ## What it does

    * The first lookups start as soon as the process runs, then one round each `:poll_interval`. Each
      answer is acted on when it arrives; a failed lookup is asked again in the next round.
    * Names that are in DNS, not connected and not this node's own are connected, `:max_connects` at
      once, each for `:connect_timeout` at most. A node that went down is tried again at once, and
      then in every round for as long as it is in DNS.
    * It disconnects nobody. A lookup that fails, or an answer that lacks a node, leaves connections as
      they are; so does the end of this process.
    * Records that make no valid node name are left out, with a line in the log. Names become atoms
      only when they are about to be connected. At most
      #{Caravan.Cluster.Membership.max_names()} names of a topology are used.
    * One log line for a change (connected, lost, a new reason of failure), none for a round without
      one.
  """

  use GenServer

  require Logger

  alias Caravan.Cluster.Connector
  alias Caravan.Cluster.Discovery
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.NodeName

  # A node that goes down often takes others with it; one round serves them all.
  @nodedown_delay 200

  @typedoc "The options in the table above, or libcluster's list of one `Cluster.Strategy.State`."
  @type options :: keyword | [struct]

  @doc "A child specification; its id holds the topology, or else the query, so that several can stand side by side."
  @spec child_spec(options) :: Supervisor.child_spec()
  def child_spec(options) do
    %{id: {__MODULE__, label(options)}, start: {__MODULE__, :start_link, [options]}}
  end

  @doc "Starts the strategy. Raises `ArgumentError` for an option that is wrong."
  @spec start_link(options) :: GenServer.on_start()
  def start_link([%{__struct__: Cluster.Strategy.State} = state]), do: start(state)
  def start_link(options), do: start(options)

  defp start(options), do: GenServer.start_link(__MODULE__, Config.new!(options))

  defp label([%{topology: topology}]), do: topology

  defp label(options) do
    if Keyword.keyword?(options), do: options[:topology] || options[:query]
  end

  ## Callbacks

  @impl true
  def init(%Config{} = config) do
    state = %{
      config: config,
      discovery: %Discovery{},
      membership: %Membership{},
      connector: Connector.new(config),
      poll: nil
    }

    {:ok, state, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state) do
    advise(state)
    :ok = :net_kernel.monitor_nodes(true)
    {:noreply, poll(state)}
  end

  @impl true
  def handle_info(:poll, state), do: {:noreply, poll(state)}

  def handle_info({:nodeup, _node}, state), do: {:noreply, observe(state)}

  # Also for a node that went down before its connection was observed.
  def handle_info({:nodedown, node}, state) do
    state = observe(state)
    ours = MapSet.member?(Membership.names(state.membership), Atom.to_string(node))
    {:noreply, if(ours, do: hasten(state, @nodedown_delay), else: state)}
  end

  def handle_info(message, state) do
    with :unknown <- handle_lookup(message, state),
         :unknown <- handle_connect(message, state) do
      # Late messages of jobs that were given up, and whatever else comes.
      {:noreply, state}
    else
      state -> {:noreply, state}
    end
  end

  ## A round

  # The nodes of the last answers are connected before any new answer is there: a node that dropped
  # comes back even while DNS is away.
  defp poll(state) do
    {failed, discovery} = Discovery.start(state.discovery, state.config)
    state = connect(%{state | discovery: discovery})

    failed
    |> Enum.reduce(state, fn {source, result}, state -> looked_up(state, source, result) end)
    |> schedule(state.config.poll_interval)
  end

  defp schedule(state, delay) do
    _ = if state.poll, do: Process.cancel_timer(state.poll)
    %{state | poll: Process.send_after(self(), :poll, delay)}
  end

  # A timer that has run out is no longer there to read: its round is about to start.
  defp hasten(state, delay) do
    left = Process.read_timer(state.poll)
    if left && left > delay, do: schedule(state, delay), else: state
  end

  # The live list of nodes decides, not what a connect returned: a peer may have been faster, or have
  # been connected before DNS named it.
  defp observe(state) do
    case connected(state.config) do
      {:ok, connected} ->
        {joined, lost, membership} = Membership.observe(state.membership, connected)
        Enum.each(joined, &log(state, :info, "connected to #{&1}"))
        Enum.each(lost, &log(state, :warning, "lost #{&1}"))
        tell_once(%{state | membership: membership}, :list_nodes, false)

      {:error, reason} ->
        text = "list_nodes #{inspect(state.config.list_nodes)} failed: #{inspect(reason)}"
        tell_once(state, :list_nodes, true, :error, text)
    end
  end

  defp connected(%Config{list_nodes: {module, function, arguments}}) do
    {:ok, Enum.map(apply(module, function, arguments), &Atom.to_string/1)}
  catch
    _class, reason -> {:error, reason}
  end

  defp connect(state) do
    state = observe(state)
    own = Atom.to_string(node())
    names = Membership.to_connect(state.membership, own, Connector.names(state.connector))
    %{state | connector: Connector.connect(state.connector, names)}
  end

  ## Lookups

  defp handle_lookup(message, state) do
    case Discovery.handle(state.discovery, message) do
      {source, result, discovery} ->
        looked_up(%{state | discovery: discovery}, source, result)

      :unknown ->
        :unknown
    end
  end

  defp looked_up(state, {query, type} = source, {:ok, records}) do
    {names, refusals} = names(records, type, state.config)
    {recovered, membership} = Membership.answered(state.membership, source, names)
    if recovered, do: log(state, :info, "DNS answers again for #{inspect(query)}")

    crowded = "DNS names more than #{Membership.max_names()} nodes; the rest is left out"

    %{state | membership: membership}
    |> tell_once({:left_out, source}, refusals != [], :warning, left_out(query, refusals))
    |> tell_once(:crowded, Membership.crowded?(membership), :warning, crowded)
    |> connect()
  end

  defp looked_up(state, source, {:error, {kind, text}}) do
    {news, membership} = Membership.lookup_failed(state.membership, source, kind)
    if news, do: log(state, :warning, text)
    %{state | membership: membership}
  end

  defp names(records, type, config) do
    records
    |> Enum.map(&NodeName.build(config.templates[type], config.basename, &1))
    |> Enum.split_with(&match?({:ok, _name}, &1))
    |> then(fn {names, refusals} -> {Keyword.values(names), Keyword.values(refusals)} end)
  end

  defp left_out(_query, []), do: ""

  defp left_out(query, [reason | _] = refusals),
    do: "#{length(refusals)} records of #{inspect(query)} are left out: #{reason}"

  ## Connects

  defp handle_connect(message, state) do
    case Connector.handle(state.connector, message) do
      {name, result, connector} -> connect_done(%{state | connector: connector}, name, result)
      :unknown -> :unknown
    end
  end

  defp connect_done(state, _name, :ok), do: observe(state)

  defp connect_done(state, name, {:error, reason}) do
    state = observe(state)

    if MapSet.member?(state.membership.connected, name) do
      state
    else
      {news, membership} = Membership.connect_failed(state.membership, name, kind(reason))
      if news, do: log(state, :warning, "cannot connect to #{name}: #{describe(reason)}")
      %{state | membership: membership}
    end
  end

  # Without what differs from time to time: references, processes.
  defp kind({kind, _details}), do: kind
  defp kind(kind), do: kind

  defp describe(:unreachable),
    do: "not reachable, or it refused us (another cookie, another name)"

  defp describe(:not_distributed), do: "this node is not alive"
  defp describe(:timeout), do: "no connection in time"
  defp describe({:crashed, reason}), do: "the connect function failed: #{inspect(reason)}"
  defp describe({:returned, other}), do: "the connect function returned #{inspect(other)}"

  ## What an operator reads

  # Where names carry no port, OTP's own epmd serves as well.
  defp advise(%{config: config} = state) do
    needs_epmd = Enum.any?(config.templates, fn {_type, template} -> :port in template end)

    case Caravan.check() do
      {:error, {reason, advice}} when reason == :not_alive or needs_epmd ->
        log(state, :warning, advice)

      _ ->
        :ok
    end
  end

  # One line when it begins to hold, none while it does.
  defp tell_once(state, what, holds, level \\ :debug, text \\ "") do
    {news, membership} = Membership.stands(state.membership, what, holds)
    if news, do: log(state, level, text)
    %{state | membership: membership}
  end

  defp log(state, level, text) do
    Logger.log(level, "[caravan:#{state.config.topology}] #{text}")
  end
end
