defmodule Caravan.Cluster.Topologies do
  # Effect. The names of the strategies that run in this VM, so that a topology finds its processes. Several of
  # one topology may stand side by side: they count up. Nodes of one cluster that start the same
  # strategies have the same names for them.
  @moduledoc false

  @prefix "Caravan.Cluster.DnsStrategy"

  @doc "Registers the calling process; its name."
  @spec register(topology :: atom) :: atom
  def register(topology), do: register(topology, 1)

  @doc "The processes of a topology, in the order of their names."
  @spec whereis(topology :: atom) :: [pid]
  def whereis(topology) do
    prefix = text(topology)

    Process.registered()
    |> Enum.map(&{suffix(Atom.to_string(&1), prefix), &1})
    |> Enum.filter(fn {number, _name} -> number end)
    |> Enum.sort()
    |> Enum.map(fn {_number, name} -> Process.whereis(name) end)
    |> Enum.filter(&is_pid/1)
  end

  @doc "The names of all strategies."
  @spec all() :: [atom]
  def all do
    for name <- Process.registered(),
        String.starts_with?(Atom.to_string(name), @prefix <> ":"),
        do: name
  end

  # Bounded by the strategies that there are: one atom for each.
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

  # A topology may itself end in a number sign and digits; nobody has two of such.
  defp suffix(name, name), do: 1

  defp suffix(name, prefix) do
    prefix = prefix <> "#"

    with true <- String.starts_with?(name, prefix),
         {number, ""} <- name |> String.replace_prefix(prefix, "") |> Integer.parse() do
      number
    else
      _ -> nil
    end
  end
end
