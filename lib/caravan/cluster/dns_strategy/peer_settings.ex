defmodule Caravan.Cluster.DnsStrategy.PeerSettings do
  # Owner-state. Asks each node that connects for its setting connect_all, and knows which nodes differ from this one.
  #
  # A question runs on the other node, so it may take long, and a join may bring thousands of nodes. So the questions
  # begin some seconds after a nodeup, and there is one at a time. Only visible nodes are asked, because OTP's global
  # leaves hidden nodes alone.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.ConnectAll
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Job
  alias Caravan.Cluster.Report

  @enforce_keys [:config]
  defstruct @enforce_keys ++ [waiting: %{}, timer: nil, job: nil, differing: []]

  @typedoc """
    * `:waiting`: the nodes that are to be asked;
    * `:timer`: the reference of the timer that starts the next question;
    * `:job`: the question that runs, and the node that is asked;
    * `:differing`: the connected nodes whose setting is not that of this node.
  """
  @opaque t :: %__MODULE__{
            config: Config.t(),
            waiting: %{node => []},
            timer: reference | nil,
            job: {Job.t(), node} | nil,
            differing: [node]
          }

  # Milliseconds before the first question if none is planned, and between one question and the next.
  @first_pause 5_000
  @pause 100

  # Milliseconds that a question may take.
  @timeout 5_000

  @spec new(Config.t()) :: t
  def new(%Config{} = config), do: %__MODULE__{config: config}

  @doc """
  Queues the visible nodes that are connected already. With `query: :ignore` there are no sources, and no node is asked.
  """
  @spec start(t) :: t
  def start(%__MODULE__{config: %{sources: []}} = settings), do: settings

  def start(%__MODULE__{} = settings),
    do: Enum.reduce(:erlang.nodes(:visible), settings, &add(&2, &1))

  @doc """
  Queues the node of a nodeup, if it is visible and there are sources. `info` is that of `:net_kernel.monitor_nodes/2`.
  """
  @spec nodeup(t, node, info :: term) :: t
  def nodeup(%__MODULE__{config: %{sources: [_ | _]}} = settings, node, node_type: :visible),
    do: add(settings, node)

  def nodeup(%__MODULE__{} = settings, _node, _info), do: settings

  @doc "Forgets a node that is not connected any more. Returns the nodes that differ."
  @spec nodedown(t, node) :: {[node], t}
  def nodedown(%__MODULE__{job: {job, node}} = settings, node) do
    :ok = Job.stop(job)
    {differing, settings} = nodedown(%{settings | job: nil}, node)
    {differing, ask_later(settings, @pause)}
  end

  def nodedown(%__MODULE__{} = settings, node) do
    differing = List.delete(settings.differing, node)
    {differing, %{settings | waiting: Map.delete(settings.waiting, node), differing: differing}}
  end

  @doc """
  Handles the outcome of a question, or the timer. Returns the nodes that differ, or `:unknown` for another message.
  """
  @spec handle(t, message :: term) :: {[node], t} | :unknown
  def handle(%__MODULE__{timer: timer} = settings, {:timeout, timer, __MODULE__})
      when timer != nil,
      do: {settings.differing, ask_next(%{settings | timer: nil})}

  def handle(%__MODULE__{job: {%Job{ref: ref} = job, node}} = settings, message) do
    if Job.ref(message) == ref do
      outcome = Job.outcome(job, message)
      settings = answered(%{settings | job: nil}, node, outcome)
      {settings.differing, ask_later(settings, @pause)}
    else
      :unknown
    end
  end

  def handle(%__MODULE__{}, _message), do: :unknown

  @doc "Ends the question that runs. The nodes that wait are not asked."
  @spec stop(t) :: t
  def stop(%__MODULE__{} = settings) do
    with {job, _node} <- settings.job, do: Job.stop(job)
    _ = if settings.timer, do: Process.cancel_timer(settings.timer)
    %{settings | waiting: %{}, timer: nil, job: nil}
  end

  defp add(settings, node),
    do: ask_later(%{settings | waiting: Map.put(settings.waiting, node, [])}, @first_pause)

  defp ask_later(%{timer: nil, job: nil, waiting: waiting} = settings, pause)
       when map_size(waiting) > 0,
       do: %{settings | timer: :erlang.start_timer(pause, self(), __MODULE__)}

  defp ask_later(settings, _pause), do: settings

  defp ask_next(settings) do
    case :maps.next(:maps.iterator(settings.waiting)) do
      {node, [], _rest} ->
        job = Job.start(fn -> ask(node) end, @timeout)
        %{settings | waiting: Map.delete(settings.waiting, node), job: {job, node}}

      :none ->
        settings
    end
  end

  # Runs in the job. A call to a node that has been disconnected would make OTP connect it again, without a probe.
  defp ask(node),
    do: if(node in :erlang.nodes(:visible), do: ConnectAll.of([node], @timeout), else: %{})

  defp answered(settings, node, outcome) do
    case outcome do
      {:ok, %{^node => value}} ->
        if value == ConnectAll.in_force(),
          do: settings,
          else: %{settings | differing: [node | settings.differing]}

      _no_answer ->
        text =
          "#{NodeAtom.to_name(node)} did not answer the question for its value of connect_all"

        :ok = Report.log(settings.config, :debug, text, node: NodeAtom.to_name(node))
        settings
    end
  end
end
