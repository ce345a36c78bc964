defmodule Caravan.Epmd.Peers do
  @moduledoc """
  The ports and addresses of other nodes, as discovery found them, in memory for `Caravan.Epmd`.

  At each connect, `net_kernel` asks `Caravan.Epmd` for the address of the node, and all connects of this
  node wait for the answer. For a node in this table the answer needs no resolver, and the node may listen
  on a port that does not follow from its name. `:net_adm.names/1` lists the nodes in the table too.

      :ok = Caravan.Epmd.Peers.put(:app, [{"app@node1.example.com", 25_017, [{10, 0, 0, 7}]}])

  `Caravan.Cluster.DnsStrategy` fills the table. So can another strategy.

  ## What a connect uses

    * Port: the port in the table. Without one, the port that follows from the name.
    * Address: the node's first address in the table that is of the address family of distribution. Without
      one, the host of its name, which is resolved unless it is an address.

  ## Limits

  The table has at most 16,384 names over all topologies. A name has at most 255 bytes, and the first 16
  addresses of a node are kept. Calls create no atoms, and no reader waits for a writer. The table is in
  memory until the VM ends.

  Entries outlive the strategy that put them, so that a strategy that restarts finds them. `Caravan.Cluster.drain/1`
  deletes them. Call it before you remove a topology from a running VM. Otherwise a message to one of its nodes goes to
  the address that DNS returned last. The topology stays drained: if you add it again, call `Caravan.Cluster.resume/1`.
  """

  alias Caravan.Native

  @max_name 255

  @typedoc "A node's full name, its port (`nil`: it follows from the name) and its addresses, the best first."
  @type entry ::
          {node_name :: String.t(), port :: 1..65_535 | nil, addresses :: [:inet.ip_address()]}

  @doc """
  Replaces all entries of this topology.

  If two topologies have entries for the same node, the port that was put last counts, and so do the addresses that were
  put last. An entry without a port, or without addresses, leaves those of the other topology. If the list has two
  entries for the same node, the last one counts.

  `{:error, :full}`: the table would have more than 16,384 names. It has not changed. Raises
  `ArgumentError` for an invalid entry.
  """
  @spec put(topology :: atom, [entry]) :: :ok | {:error, :full}
  def put(topology, entries) when is_atom(topology) and is_list(entries) do
    Enum.each(entries, &check!/1)
    Native.peers_put(topology, entries)
  end

  @doc """
  Moves the first address of a node to the end, so that the next connect uses the second one.

      :ok = Caravan.Epmd.Peers.rotate("app@node1.example.com")

  Call it when a connect has failed. The next `put/2` of a topology sets the order again. Names that are
  not in the table are ignored.
  """
  @spec rotate(node_name :: String.t()) :: :ok
  def rotate(node_name) when is_binary(node_name), do: Native.peers_rotate(node_name)

  @doc """
  Deletes all entries of this topology. Entries of other topologies for the same nodes count again.

      :ok = Caravan.Epmd.Peers.delete(:app)
  """
  @spec delete(topology :: atom) :: :ok
  def delete(topology) when is_atom(topology), do: Native.peers_delete(topology)

  @doc """
  Returns the entry that counts for each node, of all topologies, sorted by name.

      for {name, port, ips} <- Caravan.Epmd.Peers.list(), do: IO.inspect({name, port, ips})
  """
  @spec list() :: [entry]
  def list, do: Native.peers_list()

  defp check!({name, port, addresses} = entry)
       when is_binary(name) and (is_nil(port) or port in 1..65_535) and is_list(addresses) do
    if node_name?(name) and Enum.all?(addresses, &:inet.is_ip_address/1),
      do: :ok,
      else: refuse!(entry)
  end

  defp check!(entry), do: refuse!(entry)

  defp node_name?(name),
    do: name =~ ~r/\A[^@]+@[^@]+\z/ and byte_size(name) <= @max_name and String.valid?(name)

  @spec refuse!(term) :: no_return
  defp refuse!(entry) do
    raise ArgumentError,
          "Caravan.Epmd.Peers: expected an entry such as {\"app@node1.example.com\", 4001, [{10, 0, 0, 7}]}, " <>
            "with a name of #{@max_name} bytes at most, a port from 1 to 65535 or nil, and a list of " <>
            "addresses, got: #{inspect(entry)}"
  end
end
