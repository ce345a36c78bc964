defmodule Caravan.Epmd.Names do
  # Boot-safe. The nodes of a host, for :net_adm.names/0,1. Without a daemon, a node knows itself, the
  # nodes that it is connected to, and those in Caravan.Epmd.Peers.
  @moduledoc false

  alias Caravan.Epmd.PortRule
  alias Caravan.Native

  @own_key {__MODULE__, :own}

  @doc "Stores the name and the port with which this node has started distribution."
  @spec put_own(binary, :inet.port_number()) :: :ok
  def put_own(text, port), do: :persistent_term.put(@own_key, {text, port})

  @doc "Deletes what `put_own/2` has stored."
  @spec delete_own() :: :ok
  def delete_own do
    _ = :persistent_term.erase(@own_key)
    :ok
  end

  @doc """
  Returns name and port of each known node on `host`.

  `{:error, :address}`: `host` is another host, and no node on it is known.
  """
  @spec list(charlist | atom | :inet.ip_address()) ::
          {:ok, [{charlist, :inet.port_number()}]} | {:error, :address}
  def list(host) do
    texts = host_texts(host)
    local = local_hosts()
    here = :lists.any(fn text -> :lists.member(text, local) end, texts)
    texts = if here, do: texts ++ local, else: texts

    own = if here, do: own(), else: []
    connected = :lists.map(fn node -> {atom_text(node), []} end, :erlang.nodes(:connected))
    others = :lists.filtermap(fn node -> entry(node, texts) end, connected ++ discovered())

    case :lists.uniq(own ++ others) do
      [] when not here -> {:error, :address}
      names -> {:ok, names}
    end
  end

  @doc "Returns the name before the `@` and the port of this node, or `[]` if it does not listen."
  @spec own() :: [{charlist, :inet.port_number()}]
  def own do
    case :erlang.is_alive() and :persistent_term.get(@own_key, false) do
      {text, port} -> [{:unicode.characters_to_list(text), port}]
      false -> []
    end
  end

  # Without the library, the call raises, and there is no table.
  defp discovered do
    :lists.map(fn {node, _port, ips} -> {node, ips} end, Native.peers_list())
  catch
    _class, _reason -> []
  end

  defp entry({node, ips}, texts) do
    [name, host] = :string.split(:unicode.characters_to_list(node), ~c"@")
    hosts = [host | :lists.map(&:inet.ntoa/1, ips)]

    with true <- node != atom_text(:erlang.node()),
         true <- :lists.any(fn text -> :lists.member(text, texts) end, hosts),
         port when is_integer(port) <- port(node) do
      {true, {name, port}}
    else
      _ -> false
    end
  end

  defp port(node) do
    case Native.peers_find(node) do
      {port, _ips} when is_integer(port) -> port
      _ -> PortRule.port(node)
    end
  catch
    _class, reason -> {:error, reason}
  end

  defp host_texts(host) when is_atom(host), do: [:erlang.atom_to_list(host)]
  defp host_texts(host) when is_list(host), do: [host]
  defp host_texts(ip) when is_tuple(ip), do: [:inet.ntoa(ip)]

  defp local_hosts do
    {:ok, hostname} = :inet.gethostname()
    own = own_host()
    [hostname, own, hd(:string.split(own, ~c".")), ~c"localhost", ~c"127.0.0.1", ~c"::1"]
  end

  defp own_host do
    [_name, host] = :string.split(:erlang.atom_to_list(:erlang.node()), ~c"@")
    host
  end

  defp atom_text(atom), do: :erlang.atom_to_binary(atom)
end
