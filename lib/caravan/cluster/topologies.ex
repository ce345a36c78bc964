defmodule Caravan.Cluster.Topologies do
  # Effect. The registered names of the strategies in this VM. They lead from the name of a topology to its
  # processes. If several strategies have the same topology, their names are numbered. Nodes that start the same
  # strategies register the same names, so a strategy can call the strategies of its peers.
  @moduledoc false

  @prefix "Caravan.Cluster.DnsStrategy"

  @doc "Registers the calling process. Returns its name."
  @spec register(topology :: atom) :: atom
  def register(topology), do: register(topology, 1)

  @doc "Returns the processes of a topology, in the order of their names."
  @spec whereis(topology :: atom) :: [pid]
  def whereis(topology), do: for(name <- names(topology), pid = Process.whereis(name), do: pid)

  @doc """
  Returns the names that the strategies of a topology have or had, in order.

  Creates no atom, and does not look at all registered names, so it takes a few microseconds.
  """
  @spec names(topology :: atom) :: [atom]
  def names(topology), do: names(topology, 1)

  @doc "Returns the registered name of a process of this VM, or `nil`."
  @spec name(pid) :: atom
  def name(pid) do
    case node(pid) == node() && Process.info(pid, :registered_name) do
      {:registered_name, name} when is_atom(name) -> name
      _ -> nil
    end
  end

  @doc "Returns the names of all strategies of this VM."
  @spec all() :: [atom]
  def all do
    for name <- Process.registered(),
        String.starts_with?(Atom.to_string(name), @prefix <> ":"),
        do: name
  end

  # Creates one atom for each strategy that runs.
  defp register(topology, number) do
    name = String.to_atom(text(topology, number))
    Process.register(self(), name)
    name
  rescue
    ArgumentError -> register(topology, number + 1)
  end

  # A strategy takes the first number that is free. So if a name never became an atom, neither did those after it.
  defp names(topology, number) do
    case existing_atom(text(topology, number)) do
      nil -> []
      name -> [name | names(topology, number + 1)]
    end
  end

  # The topology :"app#2" has the name of the second strategy of :app. No check prevents that.
  defp text(topology, 1), do: "#{@prefix}:#{topology}"
  defp text(topology, number), do: "#{@prefix}:#{topology}##{number}"

  # The name of a topology without a strategy may be too long for an atom.
  defp existing_atom(text) do
    String.to_existing_atom(text)
  rescue
    _ in [ArgumentError, SystemLimitError] -> nil
  end
end
