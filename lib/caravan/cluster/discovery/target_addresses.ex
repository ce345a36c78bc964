defmodule Caravan.Cluster.Discovery.TargetAddresses do
  # Pure. The addresses of the SRV targets of one topology. Each target has a TTL of its own, which is often longer than
  # the time between two lookups. So a lookup queries only the targets whose TTL is over.
  @moduledoc false

  alias Caravan.Dns.Service

  @enforce_keys [:entries, :unreachable]
  defstruct @enforce_keys

  @typedoc """
    * `:entries`: the addresses by target, when they were looked up, and when their TTL is over, in milliseconds;
    * `:unreachable`: the first labels of targets whose nodes could not be connected since their last lookup.
  """
  @opaque t :: %__MODULE__{
            entries: %{
              String.t() =>
                {[:inet.ip_address(), ...], looked_up_at :: integer, expires_at :: integer}
            },
            unreachable: MapSet.t(String.t())
          }

  # Milliseconds. A longer TTL counts as this one. Answers of /etc/hosts have a TTL of a day, and the file may change.
  @longest_ttl 60_000

  # Milliseconds. A node that cannot be reached may have moved. So its target is looked up again after this time, even if
  # the TTL is longer.
  @retry_after 10_000

  # Milliseconds for which the addresses of a target are used after their TTL, if its lookup fails (RFC 8767 has this
  # rule for resolvers). A lookup takes this long at most.
  @stale 60_000

  # The maximum number of records of an answer. If there are more targets, only those of the last answer stay. Each lookup
  # passes them to the library, on a scheduler.
  @max_targets 4_096

  @spec new() :: t
  def new, do: %__MODULE__{entries: %{}, unreachable: MapSet.new()}

  @doc "Returns the targets that need no lookup."
  @spec known(t, now :: integer) :: [String.t()]
  def known(%__MODULE__{} = targets, now) do
    for {target, {_addresses, looked_up_at, expires_at}} <- targets.entries,
        now < expires_at,
        now < looked_up_at + @retry_after or not unreachable?(targets, target),
        do: target
  end

  @doc """
  Takes in the records of an answer. Returns the records with addresses: those of the answer, or else those of an earlier
  one.
  """
  @spec add(t, [Service.t()], now :: integer) :: {[Service.t()], t}
  def add(%__MODULE__{} = targets, services, now) do
    kept =
      for {target, entry} <- targets.entries, usable?(entry, now), into: %{}, do: {target, entry}

    fresh =
      for %Service{addresses: [_ | _] = addresses} = service <- services,
          into: %{},
          do: {service.target, {addresses, now, now + ttl(service)}}

    entries = Map.merge(kept, fresh)
    services = Enum.map(services, &put_addresses(&1, entries))

    entries =
      if map_size(entries) > @max_targets,
        do: Map.take(entries, Enum.map(services, & &1.target)),
        else: entries

    targets = %{targets | entries: entries}
    {services, %{targets | unreachable: still_unreachable(targets, fresh)}}
  end

  @doc """
  Notes that a node of this host could not be connected, or is no longer connected. The host of a node name begins with
  the first label of the target (`{host}`, `{host_label}.internal`).
  """
  @spec unreachable(t, host :: String.t()) :: t
  def unreachable(%__MODULE__{entries: entries} = targets, _host) when entries == %{}, do: targets

  def unreachable(targets, host),
    do: %{targets | unreachable: MapSet.put(targets.unreachable, first_label(host))}

  defp ttl(%Service{addresses_ttl: ttl}), do: min(ttl * 1_000, @longest_ttl)

  defp usable?({_addresses, _looked_up_at, expires_at}, now), do: now < expires_at + @stale

  defp put_addresses(%Service{addresses: [], target: target} = service, entries) do
    case entries do
      %{^target => {addresses, _looked_up_at, _expires_at}} ->
        %{service | addresses: addresses}

      _ ->
        service
    end
  end

  defp put_addresses(service, _entries), do: service

  defp unreachable?(%{unreachable: unreachable}, target),
    do: MapSet.member?(unreachable, first_label(target))

  # Forgets also the labels that belong to no target any more.
  defp still_unreachable(%{unreachable: unreachable, entries: entries}, fresh) do
    if MapSet.size(unreachable) == 0 do
      unreachable
    else
      waiting = entries |> Map.drop(Map.keys(fresh)) |> Map.keys()
      MapSet.intersection(unreachable, MapSet.new(waiting, &first_label/1))
    end
  end

  defp first_label(target), do: target |> :binary.split(".") |> hd()
end
