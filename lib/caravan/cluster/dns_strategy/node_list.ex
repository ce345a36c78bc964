defmodule Caravan.Cluster.DnsStrategy.NodeList do
  # Owner-state. The connected nodes, as the strategy learns of them.
  #
  # With the default :list_nodes, the messages nodeup and nodedown decide. The VM sends one of them for each change of
  # nodes(connected), in the order of the changes. The list itself is a safety net. It may be ahead of messages that are
  # still in the mailbox. That does no harm, because the last message about a node is right.
  #
  # A custom :list_nodes function decides by itself which nodes are connected. So it is called after each message, and
  # events that depend on its list wait for it.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.Connector
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Job

  @enforce_keys [:config]
  defstruct @enforce_keys ++ [listed_at: nil, job: nil, events: [], held: nil]

  @typedoc """
    * `:listed_at`: when the default list was read last, in milliseconds;
    * `:job`: the running call of a custom function, or `nil`;
    * `:events`: the events that `handle/2` returns when this call ends;
    * `:held`: the events that wait for a further call, or `nil` if no further call is needed.
  """
  @opaque t :: %__MODULE__{
            config: Config.t(),
            listed_at: integer | nil,
            job: Job.t() | nil,
            events: [event],
            held: [event] | nil
          }

  @type event :: term

  # Milliseconds that a custom function may take.
  @timeout 1_000

  @spec new(Config.t()) :: t
  def new(%Config{} = config), do: %__MODULE__{config: config}

  @doc """
  Lists the nodes. Returns the event `{:connected_nodes, names}`, followed by `events`.

  A custom function is called in a job. Then this function returns no event, and `handle/2` returns the events when the
  job ends. If a job runs already, the events wait for the next job, because the list of the running job may be older
  than the events.
  """
  @spec refresh(t, [event]) :: {[event], t}
  def refresh(%__MODULE__{} = list, events) do
    if default?(list) do
      {[connected_nodes(:erlang.nodes(:connected)) | events], %{list | listed_at: now()}}
    else
      {[], start_if_held(%{list | held: (list.held || []) ++ events})}
    end
  end

  @doc """
  Does the same as `refresh/2`, but not if the default list was read within the last `:min_interval`. Then returns only
  `events`.

  A custom function is always called.
  """
  @spec refresh_if_stale(t, [event]) :: {[event], t}
  def refresh_if_stale(%__MODULE__{} = list, events) do
    if default?(list) and list.listed_at != nil and
         now() - list.listed_at < list.config.min_interval,
       do: {events, list},
       else: refresh(list, events)
  end

  @doc "Returns whether `which` is true for one of the events that wait for a custom function."
  @spec holds?(t, (event -> boolean)) :: boolean
  def holds?(%__MODULE__{events: events, held: held}, which),
    do: Enum.any?(events, which) or Enum.any?(held || [], which)

  @doc "Returns the events of a nodeup."
  @spec nodeup(t, node) :: {[event], t}
  def nodeup(%__MODULE__{} = list, node), do: change(list, {:nodeup, NodeAtom.to_name(node)})

  @doc "Returns the events of a nodedown."
  @spec nodedown(t, node) :: {[event], t}
  def nodedown(%__MODULE__{} = list, node), do: change(list, {:nodedown, NodeAtom.to_name(node)})

  @doc """
  Returns the events of the job that `message` belongs to, or `:unknown`. If the custom function failed, they come
  without `{:connected_nodes, names}`.
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

  defp change(list, event), do: if(default?(list), do: {[event], list}, else: refresh(list, []))

  defp default?(list), do: list.config.list_nodes == {:erlang, :nodes, [:connected]}

  defp start_if_held(%{job: nil, held: events} = list) when events != nil do
    list_nodes = Connector.list(list.config)
    %{list | job: Job.start(list_nodes, @timeout), events: events, held: nil}
  end

  defp start_if_held(list), do: list

  defp connected_nodes(nodes), do: {:connected_nodes, Enum.map(nodes, &NodeAtom.to_name/1)}

  defp text(config, reason),
    do: "list_nodes #{inspect(config.list_nodes)} failed: #{inspect(reason)}"

  defp now, do: System.monotonic_time(:millisecond)
end
