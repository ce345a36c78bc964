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
  def whereis(topology) do
    prefix = text(topology)

    Process.registered()
    |> Enum.map(&{number(Atom.to_string(&1), prefix), &1})
    |> Enum.filter(fn {number, _name} -> number end)
    |> Enum.sort()
    |> Enum.map(fn {_number, name} -> Process.whereis(name) end)
    |> Enum.filter(&is_pid/1)
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
    name = name(topology, number)
    Process.register(self(), name)
    name
  rescue
    ArgumentError -> register(topology, number + 1)
  end

  defp name(topology, 1), do: String.to_atom(text(topology))
  defp name(topology, number), do: String.to_atom("#{text(topology)}##{number}")

  defp text(topology), do: "#{@prefix}:#{topology}"

  # Returns nil for the names of other topologies. The topology :"app#2" has the name of the second strategy of
  # :app. No check prevents that.
  defp number(name, name), do: 1

  defp number(name, prefix) do
    prefix = prefix <> "#"

    with true <- String.starts_with?(name, prefix),
         {number, ""} <- name |> String.replace_prefix(prefix, "") |> Integer.parse() do
      number
    else
      _ -> nil
    end
  end
end
