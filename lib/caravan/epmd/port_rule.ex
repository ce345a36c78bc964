defmodule Caravan.Epmd.PortRule do
  # Boot-safe. The port that the port rule gives to a node's name, or why it gives none.
  @moduledoc false

  alias Caravan.Epmd.Settings
  alias Caravan.Native

  @typedoc "A node's name, with or without its host."
  @type name :: atom | charlist | binary

  @typedoc "An answer of the rule, or a sentence of an error message."
  @type reason :: Native.port_error() | :unicode.chardata()

  @doc """
  Returns the port of `name`.

  Before distribution has started, the rule is that of the settings with which it would start.
  """
  @spec port(name) :: :inet.port_number() | {:error, reason}
  # A port is returned bare, because every connection asks for one.
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

  @doc "Returns the name as a binary."
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

  @doc "Returns any term that was given as a name, for a message."
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
