defmodule Caravan.Epmd.PortRule do
  # Boot-safe. The port that follows from a node's name, and the message for a name that has none.
  @moduledoc false

  alias Caravan.Epmd.Settings
  alias Caravan.Native

  @typedoc "A node's name, with or without its host."
  @type name :: atom | charlist | binary

  @typedoc "Why there is no port: an atom from the library, or the text of a message."
  @type reason :: Native.port_error() | :unicode.chardata()

  @doc """
  Returns the port that follows from `name`.

  The rule and the base port are those with which distribution has started. Before its first start, they
  are read from the settings.
  """
  @spec port(name) :: :inet.port_number() | {:error, reason}
  def port(name) when is_binary(name) do
    case Native.port(name) do
      port when is_integer(port) -> port
      :unset -> port_by_settings(name)
      reason -> {:error, reason}
    end
  end

  def port(name) do
    with {:ok, text} <- name_text(name), do: port(text)
  end

  defp port_by_settings(text) do
    with {:ok, %{port_rule: rule, base_port: base}} <- Settings.read() do
      case Native.port(text, rule, base) do
        port when is_integer(port) -> port
        reason -> {:error, reason}
      end
    end
  end

  @doc "Returns a name as a binary."
  @spec name_text(term) :: {:ok, binary} | {:error, reason}
  def name_text(name) when is_binary(name), do: {:ok, name}
  def name_text(name) when is_atom(name), do: {:ok, :erlang.atom_to_binary(name)}

  def name_text(name) when is_list(name) do
    case :unicode.characters_to_binary(name) do
      text when is_binary(text) -> {:ok, text}
      _ -> {:error, "it is not text"}
    end
  catch
    :error, :badarg -> {:error, "it is not text"}
  end

  def name_text(_name), do: {:error, "it is neither an atom nor a charlist nor a binary"}

  @doc "Returns the message for a name that has no port."
  @spec refusal(term, reason) :: :unicode.chardata()
  def refusal(name, reason) do
    ["no distribution port for ", quote_name(name), ": ", explain(reason)]
  end

  defp explain(:empty_name), do: ["the part before the @ is empty. ", rule()]
  defp explain(:out_of_range), do: ["its number gives a port over 65535. ", rule()]
  defp explain(:temporary), do: ["it is the name of a temporary node. ", rule()]
  defp explain(message), do: message

  defp rule do
    "A node name ends, before the @, in no digits (base port), in 0 to 1023 (base port + number) or in " <>
      "1024 to 65535 (that port), with five digits at most. With CARAVAN_PORT_RULE=fixed, digits do not " <>
      "count: for generated names such as those of Kubernetes and Fly. Names such as rpc-1f2e-app belong " <>
      "to temporary nodes, which listen on any free port"
  end

  @doc "Returns a name in quotes for a message, or any other term as Erlang shows it."
  @spec quote_name(term) :: :unicode.chardata()
  def quote_name(name) do
    with {:ok, text} <- name_text(name),
         true <- is_binary(:unicode.characters_to_binary(text)) do
      [?", text, ?"]
    else
      _ -> :io_lib.format(~c"~tp", [name])
    end
  end
end
