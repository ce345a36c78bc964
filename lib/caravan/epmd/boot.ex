defmodule Caravan.Epmd.Boot do
  # How a failure of Caravan.Epmd reaches the operator. Boot-safe: only :erlang, kernel and stdlib.
  @moduledoc false

  @doc """
  Ends a boot with one line on stderr. In a running VM (`Node.start/2`) it raises instead: nothing
  that a process asks for may end the VM.
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

  @doc "A message as one binary; settings and paths may hold any character."
  @spec text(:unicode.chardata()) :: binary
  def text(message) do
    case :unicode.characters_to_binary(message) do
      text when is_binary(text) -> text
      {_error, text, _rest} -> text
    end
  end

  # The last child of kernel's supervisor, well behind distribution (kernel/src/kernel.erl).
  defp booting?, do: :erlang.whereis(:kernel_safe_sup) == :undefined

  # There is no standard_error yet, and writing to the group leader hangs this part of the boot.
  defp write_stderr(line) do
    port = :erlang.open_port({:fd, 0, 2}, [:out, :binary])
    :erlang.port_command(port, [line, ?\n])
    :erlang.port_close(port)
  end
end
