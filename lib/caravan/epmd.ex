defmodule Caravan.Epmd do
  @moduledoc """
  Distribution without an epmd daemon: the port of a node follows from its name.

  Add two flags to `rel/vm.args.eex` and `rel/remote.vm.args.eex`, or pass them to `elixir` or `iex` with
  `--erl`:

      -epmd_module Elixir.Caravan.Epmd
      -start_epmd false

  ## Which port

  The port follows from the digits at the end of the part before the `@`:

  | name | port | |
  |---|---|---|
  | `app@host` | 4370 | no digits: the base port |
  | `worker2@host` | 4372 | 0 to 1023: base port + number |
  | `app-4001@host` | 4001 | 1024 to 65535: the port itself |
  | `app-70000@host` | none | over 65535, or more than five digits: the node refuses to boot |
  | `rpc-a671-app-4001@host` | any free one | a temporary node, which runs one command: `bin/app rpc` and `remote`, `remsh…`, `maint…`, `…_maint_123` of relx and rebar3 |

  A connection uses this port, unless discovery has stored another one in `Caravan.Epmd.Peers`.

  ## Settings

  | VM argument | environment | `config :caravan` | values | default | |
  |---|---|---|---|---|---|
  | `-caravan base_port 4370` | `CARAVAN_BASE_PORT` | `base_port: 4370` | 1 to 65535 | 4370 | The port of names without digits, to which small numbers are added. |
  | `-caravan port_rule fixed` | `CARAVAN_PORT_RULE` | `port_rule: :fixed` | `name`, `fixed` | `name` | With `fixed`, every node that is not temporary has the base port, whatever its digits. For platforms with one node per address: Kubernetes, Fly, ECS. |
  | `-caravan listen_port 4001` | `CARAVAN_LISTEN_PORT` | `listen_port: 4001` | 1 to 65535 | the port of the name | The port that *this* node listens on, if it differs from the one that other nodes connect to. For port mappings. `bin/app rpc`, `remote` and `stop` on the host of the node connect to it on a loopback address, or on that of `-kernel inet_dist_use_interface` in both `vm.args` files. |

  Each setting is read when distribution starts, from the first place that has it: VM arguments, then the
  environment, then the application environment. At that time, only the main node of a release has the
  application environment, from `config/config.exs`. Temporary nodes (`bin/app rpc`) and `iex -S mix` start distribution
  without it. `config/runtime.exs` is read later, and the strategy warns about a value in it.
  """

  # Boot-safe. OTP calls it while kernel starts, in net_kernel, and in the process that sets up a connection. So it prints
  # only what ends the boot, waits only for the resolver of the host, and raises only where OTP expects it. The callers in
  # OTP 25 to 29 are in kernel/src/{erl_distribution,net_kernel,inet_tcp_dist,net_adm}.erl and ssl/src/inet_tls_dist.erl.

  alias Caravan.Epmd.Boot
  alias Caravan.Epmd.Names
  alias Caravan.Epmd.PortRule
  alias Caravan.Epmd.Quarantine
  alias Caravan.Epmd.Settings
  alias Caravan.Native

  # The version of the distribution protocol since OTP 23 (epmd_dist_high in kernel/src/erl_epmd.erl).
  @dist_version 6

  # With -1, net_kernel chooses a random creation of 32 bits (OTP 23 and later). With a small number, a
  # restarted node could have the identity of the dead one, and stale pids would reach wrong processes.
  @creation -1

  @doc """
  Returns the port that follows from the name of a node.

  The setting `listen_port` and the ports in `Caravan.Epmd.Peers` do not count. Raises `ArgumentError` if the
  name has no port: if it is empty, gives a port over 65535, or is that of a temporary node.

      iex> Caravan.Epmd.dist_port(:"app-name3434@example.net")
      3434

      iex> Caravan.Epmd.dist_port(:"app-name-4834@example.net")
      4834

      iex> Caravan.Epmd.dist_port("worker2")
      4372

      iex> Caravan.Epmd.dist_port(~c"app@example.net")
      4370

      iex> Caravan.Epmd.dist_port("app-70000@example.net")
      ** (ArgumentError) no distribution port for "app-70000@example.net": its number gives a port over 65535. A node name ends, before the @, in no digits (base port), in 0 to 1023 (base port + number) or in 1024 to 65535 (that port), with five digits at most. With CARAVAN_PORT_RULE=fixed, digits do not count: for generated names such as those of Kubernetes and Fly. Names such as rpc-1f2e-app belong to temporary nodes, which listen on any free port
  """
  @spec dist_port(atom | charlist | binary) :: :inet.port_number()
  def dist_port(name) do
    case PortRule.port(name) do
      port when is_integer(port) -> port
      {:error, reason} -> raise_argument(PortRule.refusal(name, reason))
    end
  end

  ## Callbacks of -epmd_module

  @doc false
  @spec start_link() :: :ignore
  def start_link do
    # Distribution may start again with other settings: Node.stop/0, System.put_env/2, Node.start/2.
    with :ok <- Native.load(),
         {:ok, %{port_rule: rule, base_port: base}} <- Settings.read() do
      :ok = Native.port_settings(rule, base)
      :ok = Names.delete_own()
      :ignore
    else
      {:error, message} -> Boot.fail(message)
    end
  end

  @doc false
  @spec listen_port_please(atom | charlist, charlist) :: {:ok, :inet.port_number()}
  def listen_port_please(name, _host) do
    case PortRule.port(name) do
      port when is_integer(port) -> {:ok, probe_port(name, listen_port(port))}
      {:error, :temporary} -> {:ok, 0}
      {:error, reason} -> Boot.fail(PortRule.refusal(name, reason))
    end
  end

  @doc false
  @spec register_node(atom | charlist, :inet.port_number()) :: {:ok, integer}
  def register_node(name, port), do: register_node(name, port, :inet)

  @doc false
  @spec register_node(atom | charlist, :inet.port_number(), atom) :: {:ok, integer}
  def register_node(name, port, _driver) do
    {:ok, text} = PortRule.name_text(name)
    :ok = Names.put_own(text, port)
    :ok = Quarantine.restore()
    {:ok, @creation}
  end

  @doc false
  @spec address_please(charlist, charlist | :inet.ip_address(), :inet | :inet6) ::
          {:ok, :inet.ip_address(), :inet.port_number(), 6} | {:error, term}
  # This runs inside net_kernel, where an exception would end the distribution of a running node.
  def address_please(name, host, family) do
    {port, ips} = place(name, host)

    with port when is_integer(port) <- port_or_rule(port, name),
         {:ok, ip} <- address(ips, host, family) do
      {:ok, ip, port, @dist_version}
    end
  catch
    _class, reason -> {:error, reason}
  end

  @doc false
  @spec port_please(charlist, term, timeout) :: {:port, :inet.port_number(), 6} | :noport
  def port_please(name, host, _timeout), do: port_please(name, host)

  @doc false
  @spec port_please(charlist, term) :: {:port, :inet.port_number(), 6} | :noport
  def port_please(name, host) do
    {port, _ips} = place(name, host)

    case port_or_rule(port, name) do
      port when is_integer(port) -> {:port, port, @dist_version}
      {:error, _reason} -> :noport
    end
  catch
    _class, _reason -> :noport
  end

  @doc false
  @spec names() :: {:ok, [{charlist, :inet.port_number()}]} | {:error, :address}
  def names do
    {:ok, host} = :inet.gethostname()
    names(host)
  end

  @doc false
  @spec names(charlist | atom | :inet.ip_address()) ::
          {:ok, [{charlist, :inet.port_number()}]} | {:error, :address}
  def names(host), do: Names.list(host)

  ## Where a node is

  # net_kernel waits for this function. So the host's resolver is asked only if Caravan.Epmd.Peers has no
  # address of this family and the host is not an address.
  defp address(ips, host, family) do
    with {:error, _} <- first_of_family(ips, family),
         {:error, _} <- parse_literal(host, family),
         do: :inet.getaddr(host, family)
  end

  defp first_of_family(ips, family) do
    size = if family == :inet6, do: 8, else: 4

    case :lists.dropwhile(fn ip -> tuple_size(ip) != size end, ips) do
      [ip | _] -> {:ok, ip}
      [] -> {:error, :nxdomain}
    end
  end

  defp parse_literal(host, :inet) when is_list(host), do: :inet.parse_ipv4strict_address(host)
  defp parse_literal(host, :inet6) when is_list(host), do: :inet.parse_ipv6strict_address(host)
  defp parse_literal(_host, _family), do: {:error, :einval}

  # The port and the addresses of a node, as far as they are known without the port rule and the resolver.
  defp place(name, host) do
    case listen_port_of_release(name, host) do
      nil -> discovered(name, host)
      port -> {port, interfaces()}
    end
  end

  # A command such as `bin/app rpc` runs in a separate VM, on the host of the node that it connects to, and with the
  # environment of that node. So the setting listen_port is the port that the node has on this host. Other hosts may need
  # another port, because of a port mapping.
  defp listen_port_of_release(name, host) do
    with release when release != false <- :os.getenv(~c"RELEASE_NODE"),
         true <- release_node?(release, name, host),
         {:ok, %{listen_port: port}} <- Settings.read() do
      port
    else
      _ -> nil
    end
  end

  # With short names, RELEASE_NODE may lack the host.
  defp release_node?(release, name, host) when is_list(host) do
    case :string.split(release, "@") do
      [^name, ^host] -> true
      [^name] -> own_host?(host)
      _ -> false
    end
  end

  defp release_node?(_release, _name, _host), do: false

  defp own_host?(host) do
    case :string.split(:erlang.atom_to_list(:erlang.node()), "@") do
      [_name, ^host] -> true
      _ -> false
    end
  end

  defp interfaces do
    case :application.get_env(:kernel, :inet_dist_use_interface) do
      {:ok, ip} -> [ip]
      :undefined -> [{127, 0, 0, 1}, {0, 0, 0, 0, 0, 0, 0, 1}]
    end
  end

  # The port and the addresses that discovery has stored for a node. The host is an address if a distribution module
  # resolves it before it calls port_please.
  defp discovered(name, ip) when is_tuple(ip) do
    with {:ok, name} <- PortRule.name_text(name) do
      at_ip = fn {node, _port, ips} ->
        hd(:string.split(node, "@")) == name and :lists.member(ip, ips)
      end

      case :lists.search(at_ip, Native.peers_list()) do
        {:value, {_node, port, ips}} -> {port, ips}
        false -> {nil, []}
      end
    else
      _ -> {nil, []}
    end
  end

  defp discovered(name, host) do
    with {:ok, name} <- PortRule.name_text(name),
         {:ok, host} <- PortRule.name_text(host),
         {port, ips} <- Native.peers_find(<<name::binary, ?@, host::binary>>) do
      {port, ips}
    else
      _ -> {nil, []}
    end
  end

  defp port_or_rule(nil, name), do: PortRule.port(name)
  defp port_or_rule(port, _name), do: port

  defp listen_port(name_port) do
    case Settings.read() do
      {:ok, %{listen_port: nil}} -> name_port
      {:ok, %{listen_port: port}} -> port
      {:error, message} -> Boot.fail(message)
    end
  end

  # Listens on the port and closes it again, before net_kernel listens on it. The only reason is a
  # better message: that of OTP has `eaddrinuse`, but neither the port nor the name.
  defp probe_port(name, port) do
    {driver, ip} = listen_address()
    options = :application.get_env(:kernel, :inet_dist_listen_options, [])

    case driver.listen(port, [{:reuseaddr, true}, {:ip, ip} | options]) do
      {:ok, socket} ->
        :ok = driver.close(socket)
        port

      {:error, :eaddrinuse} ->
        Boot.fail([cannot_listen(name, port), "the port is in use", in_use_by()])

      {:error, reason} ->
        Boot.fail([
          cannot_listen(name, port),
          :inet.format_error(reason),
          ". The port comes from the node's name and Caravan's settings, the address from ",
          "inet_dist_use_interface of the application kernel"
        ])
    end
  end

  defp in_use_by do
    if Settings.several_protocols?(),
      do: [
        ". The VM argument -proto_dist has several protocols, and this node would listen on the port for each of ",
        "them. Leave one protocol in it"
      ],
      else: [
        ", most likely by another node of the same name or number. Stop that node, or give this node another port: ",
        "in its name, or with the setting base_port or listen_port"
      ]
  end

  defp cannot_listen(name, port) do
    [
      "node ",
      PortRule.quote_name(name),
      " cannot listen on port ",
      :erlang.integer_to_list(port),
      ": "
    ]
  end

  defp listen_address do
    case Settings.family() do
      :inet6 -> {:inet6_tcp, interface({0, 0, 0, 0, 0, 0, 0, 0})}
      :inet -> {:inet_tcp, interface({0, 0, 0, 0})}
    end
  end

  defp interface(any), do: :application.get_env(:kernel, :inet_dist_use_interface, any)

  # `raise ArgumentError` would call Elixir's modules, which may not be there.
  @spec raise_argument(:unicode.chardata()) :: no_return
  defp raise_argument(message) do
    :erlang.error(%ArgumentError{message: Boot.text(message)})
  end
end
