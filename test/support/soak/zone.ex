defmodule Caravan.Test.Soak.Zone do
  @moduledoc """
  The DNS of a soak: one SRV name with a record for each node, A records for the host of each node, and a server
  with the faults of `t:Caravan.Test.Soak.Schedule.dns/0`.

  Each third host has a second address, on which nothing listens.
  """

  alias Caravan.Test.DnsServer
  alias Caravan.Test.Soak.Schedule

  @query "_app._tcp.soak.test"

  # The third byte of an address on which nothing listens. Each third host has one besides its own.
  @dead_place 9
  @dead_every 3

  # Seconds. Nodes look up about once a second.
  @ttl 1

  @enforce_keys [:server, :port, :records]
  defstruct @enforce_keys ++ [named: MapSet.new(), mode: :ok]

  @typedoc "A node's distribution port and address."
  @type record :: {:inet.port_number(), :inet.ip4_address()}
  @type t :: %__MODULE__{
          server: pid | nil,
          port: :inet.port_number(),
          records: %{Schedule.id() => record},
          named: MapSet.t(Schedule.id()),
          mode: Schedule.dns()
        }

  @doc "Starts the server, linked to the caller. All nodes are in DNS."
  @spec start(%{Schedule.id() => record}) :: t
  def start(records) do
    {:ok, server} = DnsServer.start_link([])
    port = DnsServer.port(server)
    named = MapSet.new(Map.keys(records))
    publish(%__MODULE__{server: server, port: port, records: records, named: named})
  end

  @spec query() :: String.t()
  def query, do: @query

  @spec host(Schedule.id()) :: String.t()
  def host(id), do: "node#{id}.soak.test"

  @spec nameserver(t) :: String.t()
  def nameserver(%__MODULE__{port: port}), do: "127.0.0.1:#{port}"

  @doc "Changes the records: adds or removes the node's SRV record, or changes the node's address."
  @spec change(
          t,
          {:add | :remove, Schedule.id()} | {:address, Schedule.id(), :inet.ip4_address()}
        ) :: t
  def change(%__MODULE__{} = zone, {:add, id}),
    do: publish(%{zone | named: MapSet.put(zone.named, id)})

  def change(%__MODULE__{} = zone, {:remove, id}),
    do: publish(%{zone | named: MapSet.delete(zone.named, id)})

  def change(%__MODULE__{} = zone, {:address, id, address}),
    do: publish(put_in(zone.records[id], {elem(zone.records[id], 0), address}))

  @doc "Gives the server a fault, or ends the fault with `:ok`."
  @spec disturb(t, Schedule.dns()) :: t
  def disturb(%__MODULE__{} = zone, :stopped) do
    :ok = GenServer.stop(zone.server)
    %{zone | server: nil, mode: :stopped}
  end

  def disturb(%__MODULE__{server: nil} = zone, mode) do
    {:ok, server} = DnsServer.start_link(port: zone.port)
    disturb(%{zone | server: server}, mode)
  end

  def disturb(%__MODULE__{} = zone, mode), do: publish(%{zone | mode: mode})

  @doc "Makes the server forget its queries."
  @spec forget(t) :: :ok
  def forget(%__MODULE__{server: nil}), do: :ok
  def forget(%__MODULE__{server: server}), do: DnsServer.reset(server)

  @spec stop(t) :: :ok
  def stop(%__MODULE__{server: nil}), do: :ok
  def stop(%__MODULE__{server: server}), do: GenServer.stop(server)

  defp publish(%{server: nil} = zone), do: zone

  defp publish(zone) do
    %{mode: mode, records: records, named: named} = zone
    services = for id <- named, do: {id, records[id]}
    hosts = for {id, _record} <- records, into: %{}, do: {host(id), addresses(records, id)}
    reply = fn query -> disturbed(mode, query, reply(query, services, hosts)) end
    :ok = DnsServer.put_default(zone.server, {:fun, reply})
    zone
  end

  # Half of the answers have the addresses. After the other half, nodes look up each target.
  defp reply(%{name: @query, type: :srv}, services, hosts) do
    services = Enum.shuffle(services)
    records = for {id, {port, _address}} <- services, do: {0, 0, port, host(id)}

    additional =
      for {id, _record} <- services, address <- hosts[host(id)], do: {host(id), address}

    if records == [], do: :empty, else: {records, ttl: @ttl, additional: half(additional)}
  end

  defp reply(%{name: name, type: :a}, _services, hosts) when is_map_key(hosts, name),
    do: {Enum.shuffle(hosts[name]), ttl: @ttl}

  defp reply(%{name: name}, _services, hosts) when is_map_key(hosts, name),
    do: {:empty, ttl: @ttl}

  defp reply(_query, _services, _hosts), do: :nxdomain

  defp addresses(records, id) do
    {_port, {127, soak, _place, _id} = address} = records[id]
    if rem(id, @dead_every) == 0, do: [address, {127, soak, @dead_place, id}], else: [address]
  end

  defp disturbed(:ok, _query, reply), do: reply
  defp disturbed(:slow, _query, reply), do: {:delay, Enum.random(100..1_500), reply}
  defp disturbed(:truncated, %{transport: :udp}, _reply), do: :truncated
  defp disturbed(:truncated, _query, reply), do: Enum.random([reply, :close])

  defp disturbed(:part, _query, {[_ | _] = records, ttl: ttl, additional: additional}),
    do: {Enum.take(records, max(1, div(length(records), 2))), ttl: ttl, additional: additional}

  defp disturbed(:part, _query, reply), do: reply
  defp disturbed(mode, _query, _reply), do: mode

  defp half(list), do: Enum.random([list, []])
end
