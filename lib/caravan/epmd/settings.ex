defmodule Caravan.Epmd.Settings do
  # Boot-safe. The settings of Caravan.Epmd. When distribution starts, `rem-` and `rpc-` nodes have no sys.config, and
  # runtime.exs has not run. So the settings also come from VM arguments and environment variables.
  @moduledoc false

  @type t :: %{
          base_port: :inet.port_number(),
          port_rule: :name | :fixed,
          listen_port: :inet.port_number() | nil
        }

  @default_base_port 4370

  @keys [
    {:base_port, ~c"base_port", ~c"CARAVAN_BASE_PORT"},
    {:port_rule, ~c"port_rule", ~c"CARAVAN_PORT_RULE"},
    {:listen_port, ~c"listen_port", ~c"CARAVAN_LISTEN_PORT"}
  ]

  @doc """
  Reads each setting from the first place that has it: VM arguments (`-caravan base_port 4370`), the
  environment (`CARAVAN_BASE_PORT`), the application environment.

  The error is a line for the operator, with the place, what was expected and what was found.
  """
  @spec read() :: {:ok, t} | {:error, :unicode.chardata()}
  def read do
    with {:ok, arguments} <- vm_arguments() do
      read(@keys, arguments, %{base_port: @default_base_port, port_rule: :name, listen_port: nil})
    end
  end

  @tls [~c"inet_tls", ~c"inet6_tls"]
  @protocol {__MODULE__, :protocol}

  @doc "Returns the address family of distribution, from the VM argument `-proto_dist`."
  @spec family() :: :inet | :inet6
  def family do
    case protocol() do
      ~c"inet6" ++ _ -> :inet6
      _ -> :inet
    end
  end

  @doc "Returns whether distribution runs over TLS, from the VM argument `-proto_dist`."
  @spec tls?() :: boolean
  def tls?, do: :lists.member(protocol(), @tls)

  @doc "Returns whether distribution runs over TCP or TLS, with a module of OTP."
  @spec tcp?() :: boolean
  def tcp?, do: :lists.member(protocol(), @tls ++ [~c"inet_tcp", ~c"inet6_tcp"])

  @doc "Returns whether the VM argument `-proto_dist` has several protocols. OTP then listens once for each."
  @spec several_protocols?() :: boolean
  def several_protocols? do
    case :init.get_argument(:proto_dist) do
      {:ok, [[_protocol, _other | _] | _]} -> true
      _ -> false
    end
  end

  # VM arguments do not change. Each call of init costs a message to its process, and probes need the protocol often.
  defp protocol do
    case :persistent_term.get(@protocol, nil) do
      nil ->
        protocol = read_protocol()
        :ok = :persistent_term.put(@protocol, protocol)
        protocol

      protocol ->
        protocol
    end
  end

  # The default of net_kernel is inet_tcp. If the flag is there twice, as in vm.args and in ERL_AFLAGS, OTP uses the first
  # one from 27.1 on (ERTS 15.1), and the default before (start_protos/3 in kernel/src/net_kernel.erl).
  defp read_protocol do
    case :init.get_argument(:proto_dist) do
      {:ok, [[protocol | _]]} ->
        protocol

      {:ok, [[protocol | _] | _]} ->
        if :erlang.system_info(:version) >= ~c"15.1", do: protocol, else: ~c"inet_tcp"

      _ ->
        ~c"inet_tcp"
    end
  end

  defp read([], _arguments, settings), do: {:ok, settings}

  defp read([{key, argument, variable} | keys], arguments, settings) do
    case find(key, argument, variable, arguments) do
      :none ->
        read(keys, arguments, settings)

      {place, text} ->
        case parse(key, text) do
          {:ok, value} -> read(keys, arguments, :maps.put(key, value, settings))
          {:error, expected} -> {:error, refusal(place, expected, text)}
        end
    end
  end

  defp find(key, argument, variable, arguments) do
    with false <- :lists.keyfind(argument, 1, arguments),
         # Compose files and job templates cannot unset a variable, but make it empty.
         unset when unset in [false, ~c""] <- :os.getenv(variable) do
      case :application.get_env(:caravan, key) do
        {:ok, nil} ->
          :none

        {:ok, value} ->
          {["application environment, config :caravan, ", to_text(key)], to_text(value)}

        :undefined ->
          :none
      end
    else
      {_argument, text} -> {["VM argument -caravan ", argument], text}
      text -> {["environment variable ", variable], text}
    end
  end

  # `-caravan a 1 b 2 -caravan c 3` arrives as [["a", "1", "b", "2"], ["c", "3"]]. The last value of a
  # setting counts.
  defp vm_arguments do
    case :init.get_argument(:caravan) do
      {:ok, flags} -> pairs(:lists.append(flags), [])
      :error -> {:ok, []}
    end
  end

  defp pairs([argument, text | rest], pairs) do
    if :lists.keymember(argument, 2, @keys),
      do: pairs(rest, [{argument, text} | pairs]),
      else: {:error, ["VM arguments: -caravan ", argument, " is unknown. ", known_arguments()]}
  end

  defp pairs([argument], _pairs),
    do: {:error, ["VM arguments: -caravan ", argument, " has no value. ", known_arguments()]}

  defp pairs([], pairs), do: {:ok, pairs}

  defp known_arguments,
    do: "Expected -caravan base_port PORT, port_rule name|fixed or listen_port PORT."

  defp parse(:port_rule, ~c"name"), do: {:ok, :name}
  defp parse(:port_rule, ~c"fixed"), do: {:ok, :fixed}
  defp parse(:port_rule, _text), do: {:error, "name or fixed"}

  defp parse(_port, text) do
    case :string.to_integer(text) do
      {port, []} when port in 1..65_535 -> {:ok, port}
      _ -> {:error, "a port from 1 to 65535"}
    end
  end

  defp refusal(place, expected, text),
    do: [place, ": expected ", expected, ", got: ", printable(text)]

  # Line breaks and other control characters would break the message into several lines.
  defp printable(text), do: [?", :lists.map(&if(&1 < ?\s, do: ??, else: &1), text), ?"]

  # Values of the application environment are terms: 4370, :fixed, "4370".
  defp to_text(value) when is_binary(value), do: :unicode.characters_to_list(value)
  defp to_text(value) when is_atom(value), do: :erlang.atom_to_list(value)
  defp to_text(value) when is_integer(value), do: :erlang.integer_to_list(value)
  defp to_text(value), do: :lists.flatten(:io_lib.format(~c"~tp", [value]))
end
