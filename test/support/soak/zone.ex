defmodule Caravan.Test.Soak.Zone do
  @moduledoc """
  The DNS server of a soak, and its records: one SRV name with a record for each node, and A records for the host of
  each node. The server can have each fault of `t:Caravan.Test.Soak.Schedule.dns/0`.

  Each third host has a second address, on which nothing listens.
  """

  alias Caravan.Test.DnsServer
  alias Caravan.Test.Soak.Schedule

  @query "_app._tcp.soak.test"

  # The third byte of the address on which nothing listens, and which hosts have one.
  @dead_number 9
  @dead_every 3

  # Seconds. So nodes look up about once a second.
  @ttl 1

  @enforce_keys [:server, :port, :endpoints, :in_dns]
  defstruct @enforce_keys ++ [mode: :ok]

  @typedoc "A node's distribution port and address."
  @type endpoint :: {:inet.port_number(), :inet.ip4_address()}

  @typedoc "`:in_dns` are the nodes that have an SRV record. `:server` is `nil` while the server is stopped."
  @type t :: %__MODULE__{
          server: pid | nil,
          port: :inet.port_number(),
          endpoints: %{Schedule.id() => endpoint},
          in_dns: MapSet.t(Schedule.id()),
          mode: Schedule.dns()
        }

  @doc "Starts the server, linked to the caller. All nodes are in DNS."
  @spec start(%{Schedule.id() => endpoint}) :: t
  def start(endpoints) do
    {:ok, server} = DnsServer.start_link([])
    in_dns = MapSet.new(Map.keys(endpoints))

    publish(%__MODULE__{
      server: server,
      port: DnsServer.port(server),
      endpoints: endpoints,
      in_dns: in_dns
    })
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
    do: publish(%{zone | in_dns: MapSet.put(zone.in_dns, id)})

  def change(%__MODULE__{} = zone, {:remove, id}),
    do: publish(%{zone | in_dns: MapSet.delete(zone.in_dns, id)})

  def change(%__MODULE__{} = zone, {:address, id, address}) do
    {port, _old} = zone.endpoints[id]
    publish(put_in(zone.endpoints[id], {port, address}))
  end

  @doc "Gives the server a fault. `:ok` ends the fault."
  @spec set_mode(t, Schedule.dns()) :: t
  def set_mode(%__MODULE__{} = zone, :stopped) do
    :ok = GenServer.stop(zone.server)
    %{zone | server: nil, mode: :stopped}
  end

  def set_mode(%__MODULE__{server: nil} = zone, mode) do
    {:ok, server} = DnsServer.start_link(port: zone.port)
    set_mode(%{zone | server: server}, mode)
  end

  def set_mode(%__MODULE__{} = zone, mode), do: publish(%{zone | mode: mode})

  @doc "Clears the queries that the server has kept."
  @spec clear_queries(t) :: :ok
  def clear_queries(%__MODULE__{server: nil}), do: :ok
  def clear_queries(%__MODULE__{server: server}), do: DnsServer.reset(server)

  @spec stop(t) :: :ok
  def stop(%__MODULE__{server: nil}), do: :ok
  def stop(%__MODULE__{server: server}), do: GenServer.stop(server)

  defp publish(%{server: nil} = zone), do: zone

  defp publish(zone) do
    services = for id <- zone.in_dns, do: {elem(zone.endpoints[id], 0), host(id)}

    hosts =
      for {id, {_port, address}} <- zone.endpoints,
          into: %{},
          do: {host(id), addresses(id, address)}

    reply = fn query -> with_fault(zone.mode, query, reply(query, services, hosts)) end
    :ok = DnsServer.put_default(zone.server, {:fun, reply})
    zone
  end

  # Half of the answers have the addresses of the targets. After the others, nodes look up each target.
  defp reply(%{name: @query, type: :srv}, services, hosts) do
    services = Enum.shuffle(services)
    records = for {port, host} <- services, do: {0, 0, port, host}
    addresses = for {_port, host} <- services, address <- hosts[host], do: {host, address}
    additional = Enum.random([addresses, []])
    if records == [], do: :empty, else: {records, ttl: @ttl, additional: additional}
  end

  defp reply(%{name: name, type: :a}, _services, hosts) when is_map_key(hosts, name),
    do: {Enum.shuffle(hosts[name]), ttl: @ttl}

  defp reply(%{name: name}, _services, hosts) when is_map_key(hosts, name),
    do: {:empty, ttl: @ttl}

  defp reply(_query, _services, _hosts), do: :nxdomain

  defp addresses(id, {127, soak, _number, id} = address),
    do:
      if(rem(id, @dead_every) == 0, do: [address, {127, soak, @dead_number, id}], else: [address])

  defp with_fault(:ok, _query, reply), do: reply
  defp with_fault(:slow, _query, reply), do: {:delay, Enum.random(100..1_500), reply}
  defp with_fault(:truncated, %{transport: :udp}, _reply), do: :truncated
  defp with_fault(:truncated, _query, reply), do: Enum.random([reply, :close])

  defp with_fault(:part, _query, {[_ | _] = records, ttl: ttl, additional: additional}),
    do: {Enum.take(records, max(1, div(length(records), 2))), ttl: ttl, additional: additional}

  defp with_fault(:part, _query, reply), do: reply
  defp with_fault(mode, _query, _reply), do: mode
end
