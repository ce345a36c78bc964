defmodule Caravan.Cluster.Distribution.NodeAtom do
  # Effect. The only place that turns the name of a node into an atom, and back.
  #
  # Atoms are never freed, and DNS can return any number of names. So everything before a connect handles
  # names as strings, and only `create/1` makes an atom.
  @moduledoc false

  # The share of the VM's atom table that may be in use. When more is in use, no name from DNS becomes a new atom.
  @share 0.8

  @doc """
  Returns the node of this name, and creates its atom if necessary.

  Call it only for the actions `:connect`, `:disconnect` and `:release` of `Membership`. `Membership` limits how many
  names become atoms, and this function does not.
  """
  @spec create(String.t()) :: node
  def create(name), do: String.to_atom(name)

  @doc """
  Returns the node of this name if its atom exists, and never creates an atom.

  A node that was connected or dialled has an atom.
  """
  @spec existing(String.t()) :: {:ok, node} | :error
  def existing(name) do
    {:ok, String.to_existing_atom(name)}
  rescue
    ArgumentError -> :error
  end

  @doc "Returns whether names from DNS may become new atoms."
  @spec available?() :: boolean
  def available? do
    :erlang.system_info(:atom_count) < @share * :erlang.system_info(:atom_limit)
  end

  @doc "Returns the name of a node."
  @spec to_name(node) :: String.t()
  def to_name(node), do: Atom.to_string(node)
end
