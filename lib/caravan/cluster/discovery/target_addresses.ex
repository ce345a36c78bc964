defmodule Caravan.Cluster.Discovery.TargetAddresses do
  # Pure. The addresses of the SRV targets of one topology. Each target has a TTL of its own, which is often longer than
  # the time between two lookups. So a lookup queries only the targets whose TTL is over.
  @moduledoc false

  alias Caravan.Dns.Service

  @enforce_keys [:entries, :unreachable, :version]
  defstruct @enforce_keys

  @typedoc """
    * `:entries`: the addresses by target, when they were looked up, and when their TTL is over, in milliseconds;
    * `:unreachable`: the first labels of targets whose nodes could not be connected since their last lookup;
    * `:version`: a number that grows when an address changes, comes or goes.
  """
  @opaque t :: %__MODULE__{
            entries: %{
              String.t() =>
                {[:inet.ip_address(), ...], looked_up_at :: integer, expires_at :: integer}
            },
            unreachable: MapSet.t(String.t()),
            version: non_neg_integer
          }

  # Milliseconds. A longer TTL counts as this one. Answers of /etc/hosts have a TTL of a day, and the file may change.
  @longest_ttl 60_000

  # Milliseconds. A node that cannot be reached may have moved. So its target is looked up again after this time, even if
  # the TTL is longer.
  @retry_after 10_000

  # Milliseconds for which the addresses of a target are used after their TTL, if its lookup fails (RFC 8767 has this
  # rule for resolvers). A lookup takes this long at most.
  @stale 60_000

  # Milliseconds after the TTL of a target. From then on, an answer is passed to add/3 also if it is equal to the last one,
  # which renews the TTL. This time is less than @stale, so that addresses which each answer confirms never become too old.
  @add_again 30_000

  # The maximum number of records of an answer. If there are more targets, only those of the last answer stay. The number
  # has a limit, because each lookup passes the targets to the library, on a scheduler.
  @max_targets 4_096

  @spec new() :: t
  def new, do: %__MODULE__{entries: %{}, unreachable: MapSet.new(), version: 0}

  @doc "Returns the targets that need no lookup."
  @spec known(t, now :: integer) :: [String.t()]
  def known(%__MODULE__{} = targets, now) do
    for {target, {_addresses, looked_up_at, expires_at}} <- targets.entries,
        now < expires_at,
        now < looked_up_at + @retry_after or not unreachable?(targets, target),
        do: target
  end

  @doc """
  Returns the version of the addresses. While the version is the same, `add/3` gives the same addresses to records without
  addresses, so an answer that is equal to the last one need not be added.

  Returns `nil` if the TTL of a target has been over for #{div(@add_again, 1_000)} seconds. Then the next answer must be
  added, also if it is equal to the last one.
  """
  @spec version(t, now :: integer) :: non_neg_integer | nil
  def version(%__MODULE__{entries: entries, version: version}, now),
    do:
      if(Enum.all?(entries, fn {_target, entry} -> usable?(entry, now, @add_again) end),
        do: version
      )

  @doc """
  Takes in the records of an answer. Returns the records with addresses: those of the answer, or else those of an earlier
  one.
  """
  @spec add(t, [Service.t()], now :: integer) :: {[Service.t()], t}
  def add(%__MODULE__{} = targets, services, now) do
    kept =
      for {target, entry} <- targets.entries,
          usable?(entry, now, @stale),
          into: %{},
          do: {target, entry}

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

    version = if same?(targets.entries, entries, fresh), do: 0, else: 1
    targets = %{targets | entries: entries, version: targets.version + version}
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

  # An entry that is not fresh is an earlier one.
  defp same?(earlier, entries, fresh) do
    map_size(earlier) == map_size(entries) and
      Enum.all?(fresh, fn {target, {addresses, _looked_up_at, _expires_at}} ->
        match?(%{^target => {^addresses, _, _}}, earlier)
      end)
  end

  defp ttl(%Service{addresses_ttl: ttl}), do: min(ttl * 1_000, @longest_ttl)

  defp usable?({_addresses, _looked_up_at, expires_at}, now, after_ttl),
    do: now < expires_at + after_ttl

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
