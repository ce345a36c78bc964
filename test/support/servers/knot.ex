defmodule Caravan.Test.Knot do
  @moduledoc """
  A real authoritative nameserver, knotd, on a free loopback port, with one or more zones.

      knot =
        start_supervised!(
          {Knot, zone: "caravan.test", records: ["_app._tcp 5 SRV 0 0 5101 node1.caravan.test."]}
        )

      Knot.put_records(knot, ["_app._tcp 5 SRV 0 0 5102 node2.caravan.test."])

  Options:

    * `zone`, the name of the zone
    * `records`, lines of a zone file; SOA and NS records are added
    * `ip`, by default `{127, 0, 0, 1}`
    * `port`, by default a free one
    * `signed`: with `true`, knotd makes keys and signs the zone
    * `policy`, lines of the signing policy, such as `"rrsig-lifetime: 10s"`
    * `more`, a list of `{zone, lines}` with whole zone files

  `start_link/1` returns when the server answers.
  """

  use GenServer, restart: :temporary, shutdown: 10_000

  alias Caravan.Test.Daemon

  @deadline 60_000
  @tries 3
  # knotd increases the serial of a zone that it signs. Each new version of a zone leaves room for that.
  @serials 1_000

  defstruct [
    :zone,
    :ip,
    :port,
    :dir,
    :os,
    signed: false,
    policy: [],
    more: [],
    serial: 0,
    output: ""
  ]

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, opts)

  @doc ~S(Returns the address and port in the form of the option `:nameservers`: "127.0.0.1:5353", "[::1]:5353".)
  @spec address(GenServer.server()) :: String.t()
  def address(knot), do: GenServer.call(knot, :address)

  @doc "Replaces the records. Returns when the server answers with them, and raises if that takes over a minute."
  @spec put_records(GenServer.server(), [String.t()]) :: :ok
  def put_records(knot, records) do
    with {:error, message} <- GenServer.call(knot, {:put_records, records}, 2 * @deadline),
         do: raise(message)
  end

  @doc "Returns the records of the zone as lines of a zone file: the records of one type, or with `\"AXFR\"` all."
  @spec dump(GenServer.server(), String.t()) :: [String.t()]
  def dump(knot, type) do
    %{ip: ip, port: port, zone: zone} = :sys.get_state(knot)
    args = ["@#{:inet.ntoa(ip)}", "-p", "#{port}", zone, type, "+noall", "+answer", "+tcp"]
    {text, 0} = System.cmd("kdig", args)
    for line <- String.split(text, "\n", trim: true), not String.starts_with?(line, ";"), do: line
  end

  @impl true
  def init(opts) do
    # Without trap_exit, terminate/2 is not called, and knotd outlives the test for a moment.
    Process.flag(:trap_exit, true)
    {:ok, start(opts, Daemon.find!("knotd", "knot"), if(opts[:port], do: 1, else: @tries))}
  end

  @impl true
  def handle_call(:address, _from, state) do
    host = :inet.ntoa(state.ip)
    host = if tuple_size(state.ip) == 8, do: "[#{host}]", else: host
    {:reply, "#{host}:#{state.port}", state}
  end

  def handle_call({:put_records, records}, _from, state) do
    case state |> write_zone(records) |> reload(deadline()) do
      {:ok, state} -> {:reply, :ok, state}
      {:error, :timeout, state} -> {:reply, {:error, message(:timeout, state)}, state}
      {:error, why, state} -> {:stop, why, {:error, message(why, state)}, state}
    end
  end

  @impl true
  def handle_info({os, {:data, bytes}}, %{os: os} = state),
    do: {:noreply, Daemon.keep(state, bytes)}

  def handle_info({os, {:exit_status, status}}, %{os: os} = state),
    do: {:stop, {:knotd_exited, status, state.output}, %{state | os: nil}}

  def handle_info({:EXIT, port, _reason}, state) when is_port(port), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: Daemon.stop(state.os)

  defp start(opts, knotd, tries) do
    state = prepare(opts)

    state = %{
      state
      | os: Daemon.start(state.dir, [knotd, "-c", Path.join(state.dir, "knot.conf")])
    }

    case Daemon.await(state, deadline(), &serves_all?/1) do
      {:ok, state} ->
        state

      # Most likely, another process took the port after free_port/1 closed it.
      {:error, {:exit_status, _status}, _state} when tries > 1 ->
        start(opts, knotd, tries - 1)

      {:error, why, state} ->
        Daemon.stop(state.os)
        raise message(why, state)
    end
  end

  defp prepare(opts) do
    ip = Keyword.get(opts, :ip, {127, 0, 0, 1})
    zone = opts |> Keyword.fetch!(:zone) |> String.replace(~r/(?<=.)\.$/, "")
    dir = Daemon.directory!("knot")

    state = %__MODULE__{
      zone: zone,
      ip: ip,
      port: opts[:port] || Daemon.free_port(ip),
      dir: dir,
      signed: opts[:signed] || false,
      policy: opts[:policy] || [],
      more: opts[:more] || []
    }

    for {zone, lines} <- state.more,
        do: File.write!(Path.join(dir, "zone-" <> zone), Enum.map(lines, &[&1, ?\n]))

    File.write!(Path.join(dir, "knot.conf"), config(state))
    write_zone(state, Keyword.get(opts, :records, []))
  end

  # Sends the signal again every second, because knotd misses a signal that comes just before it waits for signals.
  defp reload(state, deadline) do
    Daemon.signal(state.os, "HUP")

    case Daemon.await(state, min(deadline, now() + 1_000), &serves_all?/1) do
      {:error, :timeout, state} = error ->
        if now() < deadline, do: reload(state, deadline), else: error

      other ->
        other
    end
  end

  defp serves_all?(state) do
    with {name, serial} <- answered_soa(state, state.zone) do
      name == name(state) and serial in state.serial..(state.serial + @serials - 1) and
        Enum.all?(state.more, fn {zone, _lines} -> answered_soa(state, zone) end)
    end
  end

  defp answered_soa(state, zone) do
    options = [nameservers: [{state.ip, state.port}], timeout: 500, retry: 1]

    with {:ok, message} <- :inet_res.resolve(String.to_charlist(zone), :in, :soa, options),
         [soa | _] <- :inet_dns.msg(message, :anlist) do
      {_server, name, serial, _, _, _, _} = :inet_dns.rr(soa, :data)
      {to_string(name), serial}
    else
      _ -> nil
    end
  end

  defp write_zone(state, records) do
    serial = state.serial + @serials

    lines = [
      "$TTL 5",
      "@ SOA localhost. #{name(state)}. #{serial} 3600 600 86400 5",
      "@ NS localhost." | records
    ]

    file = Path.join(state.dir, "new")
    File.write!(file, Enum.map(lines, &[&1, ?\n]))

    # knotd does not load a file whose modification time is unchanged, and two writes can have the same time.
    File.touch!(file, serial)
    File.rename!(file, Path.join(state.dir, "zone"))
    %{state | serial: serial}
  end

  # Goes into the SOA record. It tells this server from another knotd with the same zone, port and serial.
  defp name(state), do: Path.basename(state.dir)

  defp config(state) do
    """
    server:
      rundir: #{state.dir}
      listen: #{:inet.ntoa(state.ip)}@#{state.port}
      udp-workers: 1
      tcp-workers: 1
      background-workers: 1
    log:
      - target: stdout
        any: info
    database:
      storage: #{state.dir}
    acl:
      - id: transfer
        address: #{:inet.ntoa(state.ip)}
        action: transfer
    policy:
      - id: signed
        algorithm: ecdsap256sha256
    #{for line <- state.policy, do: "    #{line}\n"}
    template:
      - id: default
        zonefile-sync: -1
        journal-content: none
        acl: transfer
    zone:
      - domain: #{state.zone}
        file: #{state.dir}/zone
    #{if state.signed, do: "    dnssec-signing: on\n    dnssec-policy: signed"}
    #{for {zone, _lines} <- state.more, do: "  - domain: #{zone}\n    file: #{state.dir}/zone-#{zone}\n"}
    """
  end

  defp message(why, state) do
    "knotd (#{inspect(why)}) does not answer on port #{state.port} with serial " <>
      "#{state.serial} of #{state.zone}. It printed:\n#{state.output}"
  end

  defp deadline, do: now() + @deadline
  defp now, do: System.monotonic_time(:millisecond)
end
