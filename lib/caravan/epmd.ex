defmodule Caravan.Epmd do
  @moduledoc """
  Distribution without an epmd daemon: a node's port follows from its name.

  Given to the VM, in `rel/vm.args.eex` and `rel/remote.vm.args.eex`, or to `elixir` and `iex` with `--erl`:

      -epmd_module Elixir.Caravan.Epmd
      -start_epmd false

  ## Which port

  The digits at the end of the part before the `@` count:

  | name | port | |
  |---|---|---|
  | `app@host` | 4370 | no digits: the base port |
  | `worker2@host` | 4372 | 0 to 1023: base port + number |
  | `app-4001@host` | 4001 | 1024 to 65535: the port itself |
  | `app-70000@host` | none | over 65535, or more than five digits: the node refuses to boot |
  | `rpc-a671-app-4001@host` | any free one | a node that lives for one command: `bin/app rpc` and `remote`, `remsh…`, `maint…`, `…_maint_123` of relx and rebar3 |

  Where to connect to, `Caravan.Epmd.Peers` knows better when discovery has put the node there.

  ## Settings

  | VM argument | environment | `config :caravan` | values | default | |
  |---|---|---|---|---|---|
  | `-caravan base_port 4370` | `CARAVAN_BASE_PORT` | `base_port: 4370` | 1..65535 | 4370 | |
  | `-caravan port_rule fixed` | `CARAVAN_PORT_RULE` | `port_rule: :fixed` | `name`, `fixed` | `name` | `fixed`: every node has the base port, whatever its digits. For one node per address: Kubernetes, Fly, ECS |
  | `-caravan listen_port 4001` | `CARAVAN_LISTEN_PORT` | `listen_port: 4001` | 1..65535 | as the name says | What *this* node binds, not what peers connect to: for port mapping |

  They are read once, when distribution starts, from the first place that has them, in this order. The
  application environment is there in time in a release's main node alone (`config/config.exs`, not
  `config/runtime.exs`); helper nodes (`bin/app rpc`) and `iex -S mix` boot without it.
  """

  # Everything here runs inside kernel start or inside net_kernel: only :erlang, kernel and stdlib,
  # nothing that prints, waits or raises where OTP does not expect it. Which process of OTP 25 to 29
  # calls what, and what it makes of the answer, is in kernel/src/{erl_distribution,net_kernel,
  # inet_tcp_dist,net_adm}.erl and ssl/src/inet_tls_dist.erl.

  alias Caravan.Epmd.Boot
  alias Caravan.Epmd.Names
  alias Caravan.Epmd.PortRule
  alias Caravan.Epmd.Settings
  alias Caravan.Native

  # Distribution protocol since OTP 23 (kernel/src/erl_epmd.erl, epmd_dist_high).
  @dist_version 6

  # Lets net_kernel choose a random 32-bit creation (OTP 23 and later). Any small number would give a
  # restarted node the identity of the dead one, and stale pids would reach the wrong process.
  @creation -1

  @doc """
  The port on which the node `name` listens.

  Raises `ArgumentError` when it has none: an empty name, a port over 65535, a temporary node.

      iex> Caravan.Epmd.dist_port(:"app-name3434@example.net")
      3434

      iex> Caravan.Epmd.dist_port(:"app-name-4834@example.net")
      4834

      iex> Caravan.Epmd.dist_port("worker2")
      4372

      iex> Caravan.Epmd.dist_port(~c"app@example.net")
      4370

      iex> Caravan.Epmd.dist_port("app-70000@example.net")
      ** (ArgumentError) no distribution port for "app-70000@example.net": its number gives a port over 65535. A node name may end (before the @) in no digits (base port), in 0 to 1023 (base port + number) or in 1024 to 65535 (that port), in five digits at most; a temporary node (rpc-, rem-, remsh, maint) has no port to know in advance
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
    # Read anew at every start of distribution: Node.stop/0, other environment, Node.start/2.
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
    {:ok, @creation}
  end

  @doc false
  @spec address_please(charlist, charlist | :inet.ip_address(), :inet | :inet6) ::
          {:ok, :inet.ip_address(), :inet.port_number(), 6} | {:error, term}
  # Runs inside net_kernel: an exception here ends the distribution of a running node.
  def address_please(name, host, family) do
    {port, ips} = discovered(name, host)

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
    {port, _ips} = discovered(name, host)

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

  # What discovery learned comes first; the host's resolver, which net_kernel would wait for, comes in
  # for nodes that it knows no address of, and for those alone.
  defp address(ips, host, family) do
    with {:error, _} <- first_of_family(ips, family),
         {:error, _} <- parse_literal(host, family) do
      if ips == [], do: :inet.getaddr(host, family), else: {:error, :nxdomain}
    end
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

  # Port and addresses of a node, when discovery spoke of it.
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

  ## The port of a name

  defp port_or_rule(nil, name), do: PortRule.port(name)
  defp port_or_rule(port, _name), do: port

  defp listen_port(name_port) do
    case Settings.read() do
      {:ok, %{listen_port: nil}} -> name_port
      {:ok, %{listen_port: port}} -> port
      {:error, message} -> Boot.fail(message)
    end
  end

  # The probe is closed before net_kernel binds the port itself. It is there for its message alone:
  # OTP's own says `eaddrinuse`, without port or name.
  defp probe_port(name, port) do
    {driver, ip} = listen_address()
    options = :application.get_env(:kernel, :inet_dist_listen_options, [])

    case driver.listen(port, [{:reuseaddr, true}, {:ip, ip} | options]) do
      {:ok, socket} ->
        :ok = driver.close(socket)
        port

      {:error, :eaddrinuse} ->
        Boot.fail([
          cannot_listen(name, port),
          "the port is in use, most likely by another node of the same name or number. ",
          "Stop it, or give this node a name that ends in another port"
        ])

      {:error, reason} ->
        Boot.fail([cannot_listen(name, port), :inet.format_error(reason)])
    end
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

  # As `raise ArgumentError`, which would need Elixir's modules.
  @spec raise_argument(:unicode.chardata()) :: no_return
  defp raise_argument(message) do
    :erlang.error(%ArgumentError{message: Boot.text(message)})
  end
end
