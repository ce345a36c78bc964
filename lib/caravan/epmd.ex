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
  alias Caravan.Epmd.Settings
  alias Caravan.Native

  # Distribution protocol since OTP 23 (kernel/src/erl_epmd.erl, epmd_dist_high).
  @dist_version 6

  # Lets net_kernel choose a random 32-bit creation (OTP 23 and later). Any small number would give a
  # restarted node the identity of the dead one, and stale pids would reach the wrong process.
  @creation -1

  @registered_key {__MODULE__, :registered}

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
    case by_rule(name) do
      port when is_integer(port) -> port
      {:error, reason} -> raise_argument(refusal(name, reason))
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
      _ = :persistent_term.erase(@registered_key)
      :ignore
    else
      {:error, message} -> Boot.fail(message)
    end
  end

  @doc false
  @spec listen_port_please(atom | charlist, charlist) :: {:ok, :inet.port_number()}
  def listen_port_please(name, _host) do
    case by_rule(name) do
      port when is_integer(port) -> {:ok, probe_port(name, listen_port(port))}
      {:error, :temporary} -> {:ok, 0}
      {:error, reason} -> Boot.fail(refusal(name, reason))
    end
  end

  @doc false
  @spec register_node(atom | charlist, :inet.port_number()) :: {:ok, integer}
  def register_node(name, port), do: register_node(name, port, :inet)

  @doc false
  @spec register_node(atom | charlist, :inet.port_number(), atom) :: {:ok, integer}
  def register_node(name, port, _driver) do
    {:ok, text} = name_text(name)
    :persistent_term.put(@registered_key, {text, port})
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
  # With no daemon to ask, a node knows itself, the nodes it is connected to, and those that discovery
  # learned of.
  def names(host) do
    texts = host_texts(host)
    local = local_hosts()
    here = :lists.any(fn text -> :lists.member(text, local) end, texts)
    texts = if here, do: texts ++ local, else: texts

    own = if here, do: registered(), else: []
    connected = :lists.map(fn node -> {atom_text(node), nil, []} end, :erlang.nodes(:connected))
    others = :lists.filtermap(fn peer -> named(peer, texts) end, connected ++ all_discovered())

    case :lists.uniq(own ++ others) do
      [] when not here -> {:error, :address}
      names -> {:ok, names}
    end
  end

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
    with {:ok, name} <- name_text(name) do
      at_ip = fn {node, _port, ips} ->
        hd(:string.split(node, "@")) == name and :lists.member(ip, ips)
      end

      case :lists.search(at_ip, all_discovered()) do
        {:value, {_node, port, ips}} -> {port, ips}
        false -> {nil, []}
      end
    else
      _ -> {nil, []}
    end
  end

  defp discovered(name, host) do
    with {:ok, name} <- name_text(name),
         {:ok, host} <- name_text(host),
         {port, ips} <- Native.peers_find(<<name::binary, ?@, host::binary>>) do
      {port, ips}
    else
      _ -> {nil, []}
    end
  end

  ## The port of a name

  defp port_or_rule(nil, name), do: by_rule(name)
  defp port_or_rule(port, _name), do: port

  # The bare number for a port: this is called for every name.
  defp by_rule(name) when is_binary(name) do
    case Native.port(name) do
      port when is_integer(port) -> port
      :unset -> by_settings(name)
      reason -> {:error, reason}
    end
  end

  defp by_rule(name) do
    with {:ok, text} <- name_text(name), do: by_rule(text)
  end

  defp by_settings(text) do
    with {:ok, %{port_rule: rule, base_port: base}} <- Settings.read() do
      case Native.port(text, rule, base) do
        port when is_integer(port) -> port
        reason -> {:error, reason}
      end
    end
  end

  defp listen_port(name_port) do
    case Settings.read() do
      {:ok, %{listen_port: nil}} -> name_port
      {:ok, %{listen_port: port}} -> port
      {:error, message} -> Boot.fail(message)
    end
  end

  defp name_text(name) when is_binary(name), do: {:ok, name}
  defp name_text(name) when is_atom(name), do: {:ok, :erlang.atom_to_binary(name)}

  defp name_text(name) when is_list(name) do
    case :unicode.characters_to_binary(name) do
      text when is_binary(text) -> {:ok, text}
      _ -> {:error, "it is not text"}
    end
  catch
    :error, :badarg -> {:error, "it is not text"}
  end

  defp name_text(_name), do: {:error, "it is neither an atom nor a charlist nor a binary"}

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
    ["node ", quote_name(name), " cannot listen on port ", :erlang.integer_to_list(port), ": "]
  end

  defp listen_address do
    case Settings.family() do
      :inet6 -> {:inet6_tcp, interface({0, 0, 0, 0, 0, 0, 0, 0})}
      :inet -> {:inet_tcp, interface({0, 0, 0, 0})}
    end
  end

  defp interface(any), do: :application.get_env(:kernel, :inet_dist_use_interface, any)

  ## What a daemon would know

  defp registered do
    case :erlang.is_alive() and :persistent_term.get(@registered_key, false) do
      {text, port} -> [{:unicode.characters_to_list(text), port}]
      false -> []
    end
  end

  # The node as names/1 has it, when it is on a host of these.
  defp named({node, _port, ips}, texts) do
    [name, host] = :string.split(:unicode.characters_to_list(node), ~c"@")
    hosts = [host | :lists.map(&:inet.ntoa/1, ips)]

    with true <- node != atom_text(:erlang.node()),
         true <- :lists.any(fn text -> :lists.member(text, texts) end, hosts),
         {:port, port, _version} <- port_please(name, host) do
      {true, {name, port}}
    else
      _ -> false
    end
  end

  # Without the library nothing was learned.
  defp all_discovered do
    Native.peers_list()
  catch
    _class, _reason -> []
  end

  defp atom_text(atom), do: :erlang.atom_to_binary(atom)

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

  ## Messages

  defp refusal(name, reason) do
    ["no distribution port for ", quote_name(name), ": ", explain(reason)]
  end

  defp explain(:empty_name), do: ["nothing stands before the @. ", rule()]
  defp explain(:out_of_range), do: ["its number gives a port over 65535. ", rule()]

  defp explain(:temporary),
    do: ["it is a temporary node, which listens on any free port. ", rule()]

  defp explain(message), do: message

  defp rule do
    "A node name may end (before the @) in no digits (base port), in 0 to 1023 (base port + number) " <>
      "or in 1024 to 65535 (that port), in five digits at most; a temporary node (rpc-, rem-, remsh, " <>
      "maint) has no port to know in advance"
  end

  defp quote_name(name) do
    with {:ok, text} <- name_text(name),
         true <- is_binary(:unicode.characters_to_binary(text)) do
      [?", text, ?"]
    else
      _ -> :io_lib.format(~c"~tp", [name])
    end
  end

  # As `raise ArgumentError`, which would need Elixir's modules.
  @spec raise_argument(:unicode.chardata()) :: no_return
  defp raise_argument(message) do
    :erlang.error(%ArgumentError{message: Boot.text(message)})
  end
end
