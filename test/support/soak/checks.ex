defmodule Caravan.Test.Soak.Checks do
  @moduledoc """
  The checks of a soak. `run/3` is for the time between two rounds, when the only faults of nodes are those that last.
  `final_problems/1` is for the end.
  """

  alias Caravan.Test.Soak.Fleet
  alias Caravan.Test.Soak.Growth
  alias Caravan.Test.Soak.History
  alias Caravan.Test.Soak.Links
  alias Caravan.Test.Soak.LogCheck
  alias Caravan.Test.Soak.Node
  alias Caravan.Test.Soak.Sample
  alias Caravan.Test.Soak.Schedule
  alias Caravan.Test.Soak.Vm

  # Milliseconds in which all nodes have to be connected.
  @mesh_timeout Fleet.poll_interval() + 2_000

  # Milliseconds to wait for a mesh that is late, so that the report can say how late.
  @late_mesh_timeout 60_000

  # Milliseconds between two looks at the connections.
  @poll 200

  @typedoc "One VM: its node, and its number among the VMs of this node. The first one has the number 1."
  @type vm_id :: {Schedule.id(), start :: pos_integer}

  @type histories :: %{vm_id => History.t()}

  @typedoc "`:mesh_after` is the number of milliseconds until all nodes were connected, `nil` if they never were."
  @type result :: %{
          problems: [String.t()],
          histories: histories,
          mesh_after: non_neg_integer | nil
        }

  @doc """
  Waits until the nodes are connected. Then checks that no VM ended by itself, that no strategy was restarted, and
  what the VMs logged. Takes a sample of each VM.
  """
  @spec run(Fleet.t(), Schedule.t(), histories) :: result
  def run(fleet, schedule, histories) do
    vms = Fleet.await_actions(fleet)
    {mesh_after, mesh_problems} = await_mesh(fleet, schedule)
    histories = vms |> new_histories() |> Map.merge(histories) |> add_samples(fleet, vms)
    {log_problems, histories} = read_logs(histories, fleet, vms)
    failures = for {_id, vm} <- vms, text <- vm.failures, do: text

    %{
      problems: mesh_problems ++ failures ++ restarts(fleet, vms) ++ log_problems,
      histories: histories,
      mesh_after: mesh_after
    }
  end

  @doc "Makes the checks that are possible only at the end of a soak. Returns the problems."
  @spec final_problems(histories) :: [String.t()]
  def final_problems(histories) do
    growth =
      for {vm, history} <- Enum.sort(histories),
          texts = Growth.check(history.samples),
          is_list(texts),
          text <- texts,
          do: "#{name(vm)}: #{text}"

    growth ++ missing_logs(histories)
  end

  # The checks of the logs would also find no problem if there were no logs.
  defp missing_logs(histories) do
    if Enum.any?(histories, fn {_vm, h} -> LogCheck.logged_connection?(h.log_check) end),
      do: [],
      else: ["no VM logged a connection, so the logs were not checked"]
  end

  @doc "Returns the name of a VM in texts."
  @spec name(vm_id) :: String.t()
  def name({id, start}), do: "node#{id}-#{start}"

  ## Connections

  defp await_mesh(fleet, schedule) do
    start = now()

    case poll_mesh(fleet, schedule, start + @mesh_timeout) do
      [] ->
        {now() - start, []}

      missing ->
        still_missing = poll_mesh(fleet, schedule, now() + @late_mesh_timeout)
        took = now() - start
        outcome = if still_missing == [], do: "connected", else: "not connected"

        text =
          "#{@mesh_timeout} ms after the round: #{Enum.join(missing, "; ")}. " <>
            "All were #{outcome} after #{took} ms"

        {if(still_missing == [], do: took), [text]}
    end
  end

  defp poll_mesh(fleet, schedule, deadline) do
    missing = missing(fleet, schedule)

    if missing == [] or now() >= deadline do
      missing
    else
      Process.sleep(@poll)
      poll_mesh(fleet, schedule, deadline)
    end
  end

  # A node that is not in DNS may be connected or not.
  defp missing(fleet, schedule) do
    normal = for id <- Schedule.nodes(schedule, :normal), do: {id, node_name(id)}
    links = Fleet.call(fleet, Links, :list, [Enum.map(normal, &elem(&1, 1))])

    not_connected =
      for {id, name} <- normal,
          {other, node} <- normal,
          id != other,
          node not in nodes(links[id], :replying) do
        if node in nodes(links[id], :connected),
          do: "#{name} gets no reply from #{node}",
          else: "#{name} is not connected to #{node}"
      end

    drained =
      for id <- Schedule.nodes(schedule, :drained), node <- nodes(links[id], :connected) do
        "#{node_name(id)} is drained and connected to #{node}"
      end

    not_connected ++ drained
  end

  # A call that failed returned no links.
  defp nodes(links, key) when is_map(links), do: Map.fetch!(links, key)
  defp nodes(_failed, _key), do: []

  # This creates as many atoms as there are nodes.
  defp node_name(id), do: id |> Fleet.name() |> String.to_atom()

  ## VMs

  defp restarts(fleet, vms) do
    for {id, pid} <- Fleet.call(fleet, Node, :strategy, []),
        vm = vms[id],
        vm.peer != nil and pid != vm.strategy do
      "#{vm.name}: the strategy is #{inspect(pid)}, and was #{inspect(vm.strategy)}"
    end
  end

  # VMs that ended before this check have a log as well.
  defp new_histories(vms),
    do: for({id, vm} <- vms, start <- 1..vm.starts//1, into: %{}, do: {{id, start}, %History{}})

  defp add_samples(histories, fleet, vms) do
    for {id, %{} = sample} <- Fleet.call(fleet, Sample, :take, []), reduce: histories do
      histories ->
        vm = vms[id]
        age = now() - vm.started_at
        Map.update!(histories, {id, vm.starts}, &History.add_sample(&1, age, sample))
    end
  end

  defp read_logs(histories, fleet, vms) do
    Enum.reduce(histories, {[], histories}, fn {vm, history}, {problems, histories} ->
      {id, start} = vm
      {found, history} = History.read_log(history, Vm.log(vms[id], start), fleet.changes)
      found = for text <- found, do: "#{name(vm)}: #{text}"
      {problems ++ found, Map.put(histories, vm, history)}
    end)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
