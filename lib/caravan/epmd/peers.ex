defmodule Caravan.Epmd.Peers do
  @moduledoc """
  What discovery learned of other nodes: ports and addresses, which `Caravan.Epmd` answers from memory.

  `net_kernel` asks for a node's address at every connect, and every connect of this node waits for the
  answer. A node that stands in this table costs no question to the host's resolver, and may listen on a
  port that its name does not tell. `:net_adm.names/1` lists the table too.

      :ok = Caravan.Epmd.Peers.put(:app, [{"app@node1.example.com", 25_017, [{10, 0, 0, 7}]}])

  `Caravan.Cluster.DnsStrategy` fills it; a strategy of your own may do so too.

  ## What is answered

    * Port: the node's port here, else the port rule.
    * Address: the first one here in the family that distribution runs over, else the host itself when
      it is an address. The host's resolver is asked for nodes with no address here, and for them alone.

  ## Limits

  16,384 names over all topologies; the first 8 addresses of a node; 255 bytes for a name. A call makes no
  atom, and no reader waits for a writer. The table lives in memory, for as long as the VM does.
  """

  alias Caravan.Native

  @max_name 255

  @typedoc "The node's full name, its port (`nil`: the port rule tells) and its addresses, the best first."
  @type entry ::
          {node_name :: String.t(), port :: 1..65_535 | nil, addresses :: [:inet.ip_address()]}

  @doc """
  Replaces all that this topology said before.

  Where two topologies name the same node, the one that said so last counts. Of entries with the same
  name, the last counts. `{:error, :full}`: the table would hold more than 16,384 names, and has not changed.
  Raises `ArgumentError` for what is no entry.
  """
  @spec put(topology :: atom, [entry]) :: :ok | {:error, :full}
  def put(topology, entries) when is_atom(topology) and is_list(entries) do
    Enum.each(entries, &check!/1)
    Native.peers_put(topology, entries)
  end

  @doc "Forgets all that this topology said; what others said of the same nodes counts again."
  @spec delete(topology :: atom) :: :ok
  def delete(topology) when is_atom(topology), do: Native.peers_delete(topology)

  @doc "What counts now, of all topologies, sorted by name."
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
          "expected {\"name@host\" of #{@max_name} bytes at most, port from 1 to 65535 or nil, " <>
            "[ip address tuple]}, got: #{inspect(entry)}"
  end
end
