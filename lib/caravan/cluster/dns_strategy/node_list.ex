defmodule Caravan.Cluster.DnsStrategy.NodeList do
  # Owner-state. The connected nodes, as the strategy learns of them.
  #
  # The list of nodes decides who is connected, not the result of a connect: a peer may have been faster, or
  # may have been connected before DNS named it. So events are given back behind a list.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.Connector
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Job

  @enforce_keys [:config]
  defstruct @enforce_keys ++ [job: nil, events: [], held: nil]

  @typedoc """
    * `:job`: the call of a custom `list_nodes` function, with `:events`: what is given back behind its list;
    * `:held`: the events behind the next list, or `nil` if this is the last one.
  """
  @opaque t :: %__MODULE__{
            config: Config.t(),
            job: Job.t() | nil,
            events: [event],
            held: [event] | nil
          }

  @type event :: term

  # Milliseconds that a custom list_nodes function may take.
  @timeout 1_000

  @spec new(Config.t()) :: t
  def new(%Config{} = config), do: %__MODULE__{config: config}

  @doc """
  Lists the nodes. Returns `{:connected_nodes, names}`, and `events` behind it.

  A custom `list_nodes` function runs in a job: then nothing is returned, and `handle/2` returns the events
  behind the list of that job. If a job runs already, the events wait for the next one, because this job may
  not have seen what they tell.
  """
  @spec refresh(t, [event]) :: {[event], t}
  def refresh(%__MODULE__{} = list, events \\ []), do: refresh(list, events, & &1)

  @doc """
  Returns the events of a nodeup. The default list then has the node, even if it is not connected any more:
  its nodedown comes later.
  """
  @spec nodeup(t, node) :: {[event], t}
  def nodeup(%__MODULE__{} = list, node), do: refresh(list, [], &[node | &1])

  @doc """
  Returns the events of a nodedown. The default list then lacks the node, even if it is connected again: its
  nodeup comes later.
  """
  @spec nodedown(t, node) :: {[event], t}
  def nodedown(%__MODULE__{} = list, node), do: refresh(list, [], &List.delete(&1, node))

  @doc """
  Returns the events behind the list of the job that `message` belongs to, or `:unknown`. They are returned
  behind a list that failed, too.
  """
  @spec handle(t, message :: term) :: {:ok | {:error, String.t()}, [event], t} | :unknown
  def handle(%__MODULE__{job: %Job{ref: ref} = job} = list, message) do
    if Job.ref(message) == ref do
      events = list.events
      config = list.config
      list = start_if_held(%{list | job: nil, events: []})

      case Connector.listed(Job.outcome(job, message)) do
        {:ok, nodes} -> {:ok, [connected_nodes(nodes) | events], list}
        {:error, reason} -> {{:error, text(config, reason)}, events, list}
      end
    else
      :unknown
    end
  end

  def handle(%__MODULE__{}, _message), do: :unknown

  @doc "Ends the job. The events that wait are dropped."
  @spec stop(t) :: t
  def stop(%__MODULE__{} = list) do
    if list.job, do: Job.stop(list.job)
    %{list | job: nil, events: [], held: nil}
  end

  defp refresh(list, events, correct) do
    case Connector.list(list.config) do
      {:ok, nodes} ->
        nodes = if default?(list.config), do: correct.(nodes), else: nodes
        {[connected_nodes(nodes) | events], list}

      {:job, _fun} ->
        {[], start_if_held(%{list | held: (list.held || []) ++ events})}
    end
  end

  # A custom function defines itself what is connected.
  defp default?(config), do: config.list_nodes == {:erlang, :nodes, [:connected]}

  defp start_if_held(%{job: nil, held: events} = list) when events != nil do
    {:job, fun} = Connector.list(list.config)
    %{list | job: Job.start(fun, @timeout), events: events, held: nil}
  end

  defp start_if_held(list), do: list

  defp connected_nodes(nodes), do: {:connected_nodes, Enum.map(nodes, &NodeAtom.to_name/1)}

  defp text(config, reason),
    do: "list_nodes #{inspect(config.list_nodes)} failed: #{inspect(reason)}"
end
