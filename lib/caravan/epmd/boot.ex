defmodule Caravan.Epmd.Boot do
  # Boot-safe. Shows the operator why Caravan.Epmd cannot start distribution.
  @moduledoc false

  @doc """
  Ends the boot with status 1 and one line on stderr.

  In a running VM (`Node.start/2`) it raises the line instead, so that the VM goes on.
  """
  @spec fail(:unicode.chardata()) :: no_return
  def fail(message) do
    line = text(["caravan: ", message])

    if booting?() do
      write_stderr(line)
      :erlang.halt(1)
    else
      :erlang.error({:caravan, line})
    end
  end

  @doc "Returns a message as a binary. It ends before the first byte that is not UTF-8."
  @spec text(:unicode.chardata()) :: binary
  def text(message) do
    case :unicode.characters_to_binary(message) do
      text when is_binary(text) -> text
      {_error, text, _rest} -> text
    end
  end

  # kernel's supervisor starts kernel_safe_sup after distribution (init/1 in kernel/src/kernel.erl).
  defp booting?, do: :erlang.whereis(:kernel_safe_sup) == :undefined

  # standard_error does not run yet, and writing to the group leader would hang the boot.
  defp write_stderr(line) do
    port = :erlang.open_port({:fd, 0, 2}, [:out, :binary])
    :erlang.port_command(port, [line, ?\n])
    :erlang.port_close(port)
  end
end
