defmodule Caravan.Test.Knot do
  @moduledoc """
  A real authoritative DNS server, knotd, on a free loopback port, with one zone.

      knot =
        start_supervised!(
          {Knot, zone: "caravan.test", records: ["_app._tcp 5 SRV 0 0 5101 node1.caravan.test."]}
        )

      Knot.put_records(knot, ["_app._tcp 5 SRV 0 0 5102 node2.caravan.test."])

  Options: `zone`, `records` (lines of a zone file; SOA and NS are added), `ip` (default
  `{127, 0, 0, 1}`) and `port` (default: a free one). It has started when it answers.
  """

  use GenServer, restart: :temporary, shutdown: 10_000

  @deadline 10_000
  @tries 3

  # A line on stdin is a signal for knotd. The end of stdin, which also comes when the VM dies in
  # whatever way, ends knotd; the end of knotd, for whatever reason, ends this script.
  @keeper """
  dir=$1; shift
  exec 3<&0
  "$@" 3<&- </dev/null & server=$!
  {
    while read -r signal <&3; do kill -s "$signal" "$server"; done
    kill "$server"; sleep 2; kill -s KILL "$server"
  } >/dev/null 2>&1 &
  reader=$!
  exec 3<&- </dev/null >/dev/null 2>&1
  wait "$server"; status=$?
  kill "$reader"
  rm -rf -- "$dir"
  exit "$status"
  """

  defstruct [:zone, :ip, :port, :dir, :os, serial: 0, output: ""]

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, opts)

  @doc ~S(Where it listens, as nameservers are written: "127.0.0.1:5353", "[::1]:5353".)
  @spec address(GenServer.server()) :: String.t()
  def address(knot), do: GenServer.call(knot, :address)

  @doc "Replaces the records; returns once they are answered, raises if that takes too long."
  @spec put_records(GenServer.server(), [String.t()]) :: :ok
  def put_records(knot, records) do
    with {:error, message} <- GenServer.call(knot, {:put_records, records}, 2 * @deadline),
         do: raise(message)
  end

  @impl true
  def init(opts) do
    # Without this there is no terminate/2, and knotd outlives the test for a moment.
    Process.flag(:trap_exit, true)
    {:ok, start(opts, knotd!(), if(opts[:port], do: 1, else: @tries))}
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
  def handle_info({os, {:data, bytes}}, %{os: os} = state), do: {:noreply, keep(state, bytes)}

  def handle_info({os, {:exit_status, status}}, %{os: os} = state),
    do: {:stop, {:knotd_exited, status, state.output}, %{state | os: nil}}

  def handle_info({:EXIT, port, _reason}, state) when is_port(port), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: stop(state)

  defp knotd! do
    # Where Debian puts it is not in every user's path.
    System.find_executable("knotd") || System.find_executable("/usr/sbin/knotd") ||
      raise "knotd is not installed; to install it: apt-get install --no-install-recommends knot"
  end

  defp start(opts, knotd, tries) do
    state = prepare(opts)
    state = %{state | os: keeper(state.dir, knotd)}

    case await_zone(state, deadline()) do
      {:ok, state} ->
        state

      # Most likely another process took the port after free_port/1 gave it back.
      {:error, {:exit_status, _status}, _state} when tries > 1 ->
        start(opts, knotd, tries - 1)

      {:error, why, state} ->
        stop(state)
        raise message(why, state)
    end
  end

  defp prepare(opts) do
    ip = Keyword.get(opts, :ip, {127, 0, 0, 1})
    zone = opts |> Keyword.fetch!(:zone) |> String.trim_trailing(".")
    dir = Path.join(System.tmp_dir!(), "knot-" <> Base.encode16(:rand.bytes(6), case: :lower))
    File.mkdir!(dir)
    state = %__MODULE__{zone: zone, ip: ip, port: opts[:port] || free_port(ip), dir: dir}
    File.write!(Path.join(dir, "knot.conf"), config(state))
    write_zone(state, Keyword.get(opts, :records, []))
  end

  defp keeper(dir, knotd) do
    args = ["-c", @keeper, "keeper", dir, knotd, "-c", Path.join(dir, "knot.conf")]
    options = [:binary, :exit_status, :stderr_to_stdout, args: args]
    Port.open({:spawn_executable, "/bin/sh"}, options)
  end

  # Port.command/2 would raise if the port has just closed.
  defp signal(os, name), do: send(os, {self(), {:command, [name, ?\n]}})

  defp stop(%{os: nil}), do: :ok

  defp stop(%{os: os}) do
    Enum.find(["TERM", "TERM", "TERM", "KILL"], fn name ->
      signal(os, name)

      receive do
        {^os, {:exit_status, _status}} -> true
      after
        1_000 -> false
      end
    end)
  end

  # Again every second: knotd oversleeps a signal that comes just before it waits for signals.
  defp reload(state, deadline) do
    signal(state.os, "HUP")

    case await_zone(state, min(deadline, now() + 1_000)) do
      {:error, :timeout, state} = error ->
        if now() < deadline, do: reload(state, deadline), else: error

      other ->
        other
    end
  end

  defp await_zone(%{os: os} = state, deadline) do
    cond do
      answered_soa(state) == {name(state), state.serial} -> {:ok, state}
      now() > deadline -> {:error, :timeout, state}
      true -> listen(os, state, deadline)
    end
  end

  defp listen(os, state, deadline) do
    receive do
      {^os, {:data, bytes}} -> await_zone(keep(state, bytes), deadline)
      {^os, {:exit_status, status}} -> {:error, {:exit_status, status}, %{state | os: nil}}
    after
      10 -> await_zone(state, deadline)
    end
  end

  defp answered_soa(state) do
    options = [nameservers: [{state.ip, state.port}], timeout: 200, retry: 1]

    with {:ok, message} <-
           :inet_res.resolve(String.to_charlist(state.zone), :in, :soa, options),
         [soa | _] <- :inet_dns.msg(message, :anlist) do
      {_server, name, serial, _, _, _, _} = :inet_dns.rr(soa, :data)
      {to_string(name), serial}
    else
      _ -> nil
    end
  end

  defp write_zone(state, records) do
    serial = state.serial + 1

    lines = [
      "$TTL 5",
      "@ SOA localhost. #{name(state)}. #{serial} 3600 600 86400 5",
      "@ NS localhost." | records
    ]

    file = Path.join(state.dir, "new")
    File.write!(file, Enum.map(lines, &[&1, ?\n]))
    # knotd takes a file with the same time of change for the same zone, however coarse that is.
    File.touch!(file, serial)
    File.rename!(file, Path.join(state.dir, "zone"))
    %{state | serial: serial}
  end

  # In the SOA record: another knotd on a port that clashes may have the same zone and serial.
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
    zone:
      - domain: #{state.zone}
        file: #{state.dir}/zone
        zonefile-sync: -1
        journal-content: none
    """
  end

  defp free_port(ip) do
    options = [if(tuple_size(ip) == 8, do: :inet6, else: :inet), ip: ip]
    {:ok, tcp} = :gen_tcp.listen(0, options)
    {:ok, port} = :inet.port(tcp)
    udp = :gen_udp.open(port, options)
    :gen_tcp.close(tcp)

    case udp do
      {:ok, socket} ->
        :gen_udp.close(socket)
        port

      {:error, :eaddrinuse} ->
        free_port(ip)
    end
  end

  defp keep(state, bytes),
    do: %{state | output: binary_slice(state.output <> bytes, -4_000..-1//1)}

  defp message(why, state) do
    "knotd (#{inspect(why)}) does not answer on port #{state.port} with serial " <>
      "#{state.serial} of #{state.zone}. It said:\n#{state.output}"
  end

  defp deadline, do: now() + @deadline
  defp now, do: System.monotonic_time(:millisecond)
end
