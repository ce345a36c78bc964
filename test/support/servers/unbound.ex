defmodule Caravan.Test.Unbound do
  @moduledoc """
  A real caching resolver, unbound, on free loopback ports. It is a second implementation beside knotd, and it
  serves DNS over TLS and over HTTPS, which knotd of Debian 12 does not.

      unbound = start_supervised!({Unbound, records: ["app.test. 5 IN A 127.0.0.1"]})
      Unbound.address(unbound)

  Options:

    * `records`, lines of a zone file, under the domain `test`
    * `certificate`, `{certificate, key}` with the paths of PEM files, for `tls_address/1` and `https_address/1`
    * `forward`, `{zone, address}`: the nameserver of a zone, such as `"127.0.0.1:5353"`
    * `ports`, as `ports/1` returns them; by default free ones

  `start_link/1` returns when the server answers.
  """

  use GenServer, restart: :temporary, shutdown: 10_000

  alias Caravan.Test.Daemon

  @ip {127, 0, 0, 1}
  # Milliseconds that unbound may take until it answers.
  @deadline 60_000
  @tries 3

  defstruct [:dir, :os, :ports, output: ""]

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts), do: GenServer.start_link(__MODULE__, opts)

  @type ports :: %{dns: :inet.port_number(), tls: :inet.port_number(), https: :inet.port_number()}

  @spec ports(GenServer.server()) :: ports
  def ports(unbound), do: GenServer.call(unbound, :ports)

  @doc ~S(Returns the address and port in the form of the option `:nameservers`: "127.0.0.1:5353".)
  @spec address(GenServer.server()) :: String.t()
  def address(unbound), do: "127.0.0.1:#{ports(unbound).dns}"

  @doc ~S(Returns the address for DNS over TLS: "tls://127.0.0.1:5354".)
  @spec tls_address(GenServer.server()) :: String.t()
  def tls_address(unbound), do: "tls://127.0.0.1:#{ports(unbound).tls}"

  @doc ~S(Returns the address for DNS over HTTPS: "https://127.0.0.1:5355/dns-query".)
  @spec https_address(GenServer.server()) :: String.t()
  def https_address(unbound),
    do: "https://127.0.0.1:#{ports(unbound).https}/dns-query"

  @impl true
  def init(opts) do
    # Without trap_exit, terminate/2 is not called, and unbound outlives the test for a moment.
    Process.flag(:trap_exit, true)
    {:ok, start(opts, Daemon.find!("unbound", "unbound"), if(opts[:ports], do: 1, else: @tries))}
  end

  @impl true
  def handle_call(:ports, _from, state), do: {:reply, state.ports, state}

  @impl true
  def handle_info({os, {:data, bytes}}, %{os: os} = state),
    do: {:noreply, Daemon.keep(state, bytes)}

  def handle_info({os, {:exit_status, status}}, %{os: os} = state),
    do: {:stop, {:unbound_exited, status, state.output}, %{state | os: nil}}

  def handle_info({:EXIT, port, _reason}, state) when is_port(port), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: Daemon.stop(state.os)

  defp start(opts, unbound, tries) do
    dir = Daemon.directory!("unbound")
    ports = opts[:ports] || Map.new([:dns, :tls, :https], &{&1, Daemon.free_port(@ip)})
    state = %__MODULE__{dir: dir, ports: ports}
    file = Path.join(dir, "unbound.conf")
    File.write!(file, config(state, opts))

    # Debian's AppArmor profile for /usr/sbin/unbound forbids it to read `dir`. A copy has no profile.
    program = Path.join(dir, "unbound")
    File.cp!(unbound, program)
    state = %{state | os: Daemon.start(dir, [program, "-d", "-c", file])}

    case Daemon.await(state, now() + @deadline, &answers?/1) do
      {:ok, state} ->
        state

      # Most likely, another process took a port after free_port/1 closed it.
      {:error, {:exit_status, _status}, _state} when tries > 1 ->
        start(opts, unbound, tries - 1)

      {:error, why, state} ->
        Daemon.stop(state.os)

        raise "unbound (#{inspect(why)}) does not answer on port #{ports.dns}. It printed:\n#{state.output}"
    end
  end

  # Looks up a name that only this server knows, so that another server on the same port is not taken for it.
  defp answers?(state) do
    options = [nameservers: [{@ip, state.ports.dns}], timeout: 500, retry: 1]
    :inet_res.lookup(~c"#{own_name(state)}", :in, :a, options) == [@ip]
  end

  defp own_name(state), do: Path.basename(state.dir) <> ".test"

  defp config(state, opts) do
    """
    server:
      directory: "#{state.dir}"
      pidfile: ""
      username: ""
      chroot: ""
      use-syslog: no
      logfile: ""
      num-threads: 1
      interface: 127.0.0.1@#{state.ports.dns}
      #{tls(state, opts[:certificate])}
      do-not-query-localhost: no
      module-config: "iterator"
      local-zone: "test." #{if opts[:forward], do: "transparent", else: "static"}
      local-data: "#{own_name(state)}. 5 IN A 127.0.0.1"
    #{for record <- opts[:records] || [], do: "  local-data: '#{record}'\n"}
    #{forward(opts[:forward])}
    """
  end

  defp tls(_state, nil), do: ""

  defp tls(state, {certificate, key}) do
    """
    interface: 127.0.0.1@#{state.ports.tls}
      interface: 127.0.0.1@#{state.ports.https}
      tls-port: #{state.ports.tls}
      https-port: #{state.ports.https}
      tls-service-pem: "#{certificate}"
      tls-service-key: "#{key}"
    """
  end

  defp forward(nil), do: ""

  defp forward({zone, address}) do
    """
    stub-zone:
      name: "#{zone}"
      stub-addr: #{String.replace(address, ":", "@")}
    """
  end

  defp now, do: System.monotonic_time(:millisecond)
end
