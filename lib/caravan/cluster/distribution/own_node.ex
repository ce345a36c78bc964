defmodule Caravan.Cluster.Distribution.OwnNode do
  # Effect. The name, port and addresses of this node, to compare them with DNS and to log them.
  @moduledoc false

  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.OwnName
  alias Caravan.Epmd.Names
  alias Caravan.Epmd.PortRule
  alias Caravan.Epmd.Settings

  @doc "Returns this node, or `nil` if it is not alive."
  @spec find() :: OwnName.own() | nil
  def find do
    if Node.alive?() do
      own = named(NodeAtom.to_name(node()))
      if :net_kernel.epmd_module() == Caravan.Epmd, do: own, else: %{own | port: nil}
    end
  end

  @doc """
  Returns the node of this name on this host, with `Caravan.Epmd`.

  It has no port if it is this node and does not listen (`-dist_listen false`).
  """
  @spec named(String.t()) :: OwnName.own()
  def named(name) do
    port = if listens?(name), do: port_of(name)
    %{name: name, port: port, addresses: addresses()}
  end

  defp listens?(name) do
    not Node.alive?() or NodeAtom.to_name(node()) != name or
      :net_kernel.epmd_module() != Caravan.Epmd or Names.own() != []
  end

  @doc "Returns the port that follows from a name by the port rule, or `nil` if it has none."
  @spec port_of(String.t()) :: :inet.port_number() | nil
  def port_of(name) do
    case PortRule.port(name) do
      port when is_integer(port) -> port
      {:error, _reason} -> nil
    end
  end

  @doc "Returns the port on which this node listens, and where it comes from, as a text for the log."
  @spec port_text() :: String.t()
  def port_text do
    case {:net_kernel.epmd_module(), Names.own()} do
      {Caravan.Epmd, [{name, port}]} -> "listens on port #{port} (#{origin("#{name}", port)})"
      {Caravan.Epmd, []} -> "does not listen"
      {other, _own} -> "listens on a port that #{inspect(other)} knows"
    end
  end

  defp origin(name, port) do
    case Settings.read() do
      {:ok, %{listen_port: ^port}} ->
        "the setting listen_port"

      {:ok, %{port_rule: :fixed}} ->
        "the base port, because port_rule is fixed"

      {:ok, %{base_port: ^port}} ->
        "the base port"

      _ ->
        from =
          if String.ends_with?(name, "#{port}"),
            do: "from its name",
            else: "the base port + the number in its name"

        # Generated names, such as those of Kubernetes and Fly, often end in a letter and digits.
        if name =~ ~r/-\d+\z/,
          do: from,
          else: from <> ". If the name is generated, set CARAVAN_PORT_RULE=fixed"
    end
  end

  @doc """
  Returns the settings of `Caravan.Epmd` that have another value now than when distribution started, as
  `{name, value, value_in_force}`.

  VM arguments do not change. So these come from the application environment, which `config/runtime.exs` has changed.
  """
  @spec late_settings() :: [{atom, now :: term, in_force :: term}]
  def late_settings do
    with Caravan.Epmd <- :net_kernel.epmd_module(),
         [{_name, listens_on}] <- Names.own(),
         {:ok, now} <- Settings.read() do
      {base, rule} = port_settings()
      in_force = [base_port: base, port_rule: rule, listen_port: listens_on]
      # If listen_port is nil now, the port follows from the name, so there is nothing to compare.
      for {key, value} <- in_force, now[key] not in [value, nil], do: {key, now[key], value}
    else
      _ -> []
    end
  end

  @doc "Returns the addresses of all network interfaces of this host."
  @spec host_addresses() :: {:ok, [:inet.ip_address()]} | {:error, :inet.posix()}
  def host_addresses do
    with {:ok, interfaces} <- :inet.getifaddrs(),
         do: {:ok, for({_name, options} <- interfaces, {:addr, ip} <- options, do: ip)}
  end

  @doc "Returns the base port and the port rule with which distribution has started. They stay in force."
  @spec port_settings() :: {base_port :: :inet.port_number() | nil, port_rule :: :name | :fixed}
  def port_settings do
    base = port_of("app")
    # A number over 1,023 is the port itself, unless the rule is fixed.
    other = if base == 2_000, do: 2_001, else: 2_000
    {base, if(port_of("app-#{other}") == other, do: :name, else: :fixed)}
  end

  # The node listens on all addresses of this host, or on one of them (kernel/src/inet_tcp_dist.erl).
  defp addresses do
    case Application.get_env(:kernel, :inet_dist_use_interface) do
      ip when is_tuple(ip) -> [ip]
      _ -> with {:ok, ips} <- host_addresses(), do: ips, else: (_error -> [])
    end
  end
end
