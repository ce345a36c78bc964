defmodule Caravan.Cluster.Distribution.ConnectAll do
  # Effect. Reads OTP's setting `connect_all` on this node and on connected nodes, and says how to make it the same.
  #
  # The kernel parameter connect_all decides, or else the flag -connect_all, as in global:init/1 (kernel/src/global.erl of
  # OTP 25.2 to 29). `global` reads them only when it starts, and stores the value of the flag as the parameter.
  @moduledoc false

  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Job
  alias Caravan.Cluster.NameList

  @parameter {:application, :get_env, [:kernel, :connect_all]}
  @flag {:init, :get_argument, [:connect_all]}

  @doc "Returns whether the process `global` of this VM connects each new node to all other nodes."
  @spec in_force() :: boolean
  def in_force do
    case :application.get_env(:kernel, :connect_all) do
      {:ok, connect_all} -> connect_all != false
      :undefined -> flag?(:init.get_argument(:connect_all))
    end
  end

  @doc """
  Asks connected nodes for their value, all at the same time. Returns the values by node.

  A node that does not answer within `timeout` milliseconds is missing from the result. The nodes need not run Caravan.
  """
  @spec of([node], timeout :: pos_integer) :: %{node => boolean}
  def of(nodes, timeout) do
    deadline = now() + timeout
    parameters = ask(nodes, @parameter, deadline)
    flags = ask(for({node, :undefined} <- parameters, do: node), @flag, deadline)

    Map.new(
      for({node, {:ok, value}} when is_boolean(value) <- parameters, do: {node, value}) ++
        for({node, flag} <- flags, do: {node, flag?(flag)})
    )
  end

  @doc "Returns a text which says that these nodes have another value than this node, and how to change that."
  @spec advice([node, ...]) :: String.t()
  def advice(nodes) do
    own = in_force()
    names = nodes |> Enum.map(&NodeAtom.to_name/1) |> NameList.sorted()

    """
    connect_all is #{own} on this node and #{not own} on #{names}. OTP's global shares no names and prevents no \
    overlapping partitions between nodes with different values. To set it to false on all nodes, remove connect_all from \
    the configuration of the application kernel, and add this line to the vm.args files:

        -connect_all false

    To set it to true on all nodes, remove both.
    """
  end

  # A process asks each node, because a busy connection blocks the process that asks.
  defp ask(nodes, {module, function, args}, deadline) do
    timeout = max(deadline - now(), 1)

    ask = fn node ->
      Job.start(fn -> :erpc.call(node, module, function, args, timeout) end, timeout)
    end

    jobs = Enum.map(nodes, &{&1, ask.(&1)})
    for {node, job} <- jobs, {:ok, value} <- [Job.await(job)], do: {node, value}
  end

  defp flag?(argument), do: not match?({:ok, [[~c"false" | _] | _]}, argument)

  defp now, do: System.monotonic_time(:millisecond)
end
