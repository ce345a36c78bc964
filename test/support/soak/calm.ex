defmodule Caravan.Test.Soak.Calm do
  @moduledoc "The checks of a soak between two rounds, when no fault is in force but those that last."

  alias Caravan.Test.Soak.Fleet
  alias Caravan.Test.Soak.Growth
  alias Caravan.Test.Soak.LogCheck
  alias Caravan.Test.Soak.LogFile
  alias Caravan.Test.Soak.Schedule
  alias Caravan.Test.Soak.Vm

  # Milliseconds in which all nodes have to be connected.
  @deadline Fleet.poll_interval() + 2_000

  # Milliseconds. A mesh that is late is waited for longer, so that the report can say how late it is.
  @watch 60_000

  # Milliseconds between two looks at the connections.
  @poll 200

  defstruct offset: 0, check: %LogCheck{}, samples: []

  @typedoc "What is kept of one VM: how far its log was read, what was found in it, and samples, oldest first."
  @type record :: %__MODULE__{
          offset: non_neg_integer,
          check: LogCheck.t(),
          samples: Growth.samples()
        }

  @typedoc "By log file, so there is one for each VM that was started."
  @type records :: %{Path.t() => record}

  @type result :: %{problems: [String.t()], records: records, mesh_after: non_neg_integer | nil}

  @doc """
  Waits until the nodes are connected, and checks them, their strategies and their logs. The logs are in `dir`.

  `:mesh_after` is how many milliseconds it took until all nodes were connected, `nil` if they never were.
  """
  @spec check(Fleet.t(), Schedule.t(), records, dir :: Path.t()) :: result
  def check(fleet, schedule, records, dir) do
    vms = Fleet.sync(fleet)
    {mesh_after, late} = await_mesh(fleet, schedule)
    # VMs that ended before their first sample have a log as well.
    logs = Path.wildcard(Path.join(dir, "*.log"))
    records = logs |> Map.new(&{&1, %__MODULE__{}}) |> Map.merge(records) |> sample(fleet, vms)
    {problems, records} = judge_logs(records, fleet.changes)
    ended = for {_id, vm} <- vms, text <- vm.failures, do: text

    %{
      problems: late ++ ended ++ restarts(fleet, vms) ++ problems,
      records: records,
      mesh_after: mesh_after
    }
  end

  ## Connections

  defp await_mesh(fleet, schedule) do
    start = now()
    missing = poll_mesh(fleet, schedule, start + @deadline)
    took = now() - start

    cond do
      missing == [] ->
        {took, []}

      poll_mesh(fleet, schedule, now() + @watch) == [] ->
        {now() - start, [late(missing, "It was whole after #{now() - start} ms")]}

      true ->
        {nil, [late(missing, "It was not whole after #{now() - start} ms")]}
    end
  end

  defp late(missing, then),
    do: "after #{@deadline} ms of calm: #{Enum.join(missing, "; ")}. #{then}"

  defp poll_mesh(fleet, schedule, deadline) do
    missing = missing(fleet, schedule)

    if missing == [] or now() >= deadline do
      missing
    else
      Process.sleep(@poll)
      poll_mesh(fleet, schedule, deadline)
    end
  end

  # A node that is not named by DNS may be connected or not.
  defp missing(fleet, schedule) do
    fit = for id <- Schedule.nodes(schedule, :fit), into: %{}, do: {id, node_name(id)}
    links = Fleet.call(fleet, :links, [Map.values(fit)])

    apart =
      for {id, name} <- fit,
          {other, node} <- fit,
          id != other,
          node not in answering(links[id]) do
        state =
          if node in connected(links[id]), do: "has no answer from", else: "is not connected to"

        "#{name} #{state} #{node}"
      end

    drained =
      for id <- Schedule.nodes(schedule, :drained), node <- connected(links[id]) do
        "#{node_name(id)} is drained and connected to #{node}"
      end

    apart ++ drained
  end

  defp answering(%{answering: nodes}), do: nodes
  defp answering(_no_answer), do: []

  defp connected(%{connected: nodes}), do: nodes
  defp connected(_no_answer), do: []

  # There are as many atoms as nodes.
  defp node_name(id), do: id |> Fleet.name() |> String.to_atom()

  defp restarts(fleet, vms) do
    for {id, pid} <- Fleet.call(fleet, :strategy), vms[id].peer, pid != vms[id].pid do
      "#{vms[id].name}: the strategy is #{inspect(pid)}, and was #{inspect(vms[id].pid)}"
    end
  end

  ## Records

  defp sample(records, fleet, vms) do
    for {id, %{} = sample} <- Fleet.call(fleet, :sample), reduce: records do
      records ->
        vm = vms[id]
        entry = {now() - vm.started_at, sample}
        Map.update!(records, Vm.log(vm), &%{&1 | samples: &1.samples ++ [entry]})
    end
  end

  defp judge_logs(records, changes) do
    Enum.reduce(records, {[], records}, fn {path, record}, {problems, records} ->
      {lines, offset} = LogFile.read(path, record.offset)
      {found, check} = LogCheck.judge(record.check, lines, changes)
      record = %{record | offset: offset, check: check}
      found = for text <- found, do: "#{Path.basename(path, ".log")}: #{text}"
      {problems ++ found, Map.put(records, path, record)}
    end)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
