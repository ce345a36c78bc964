defmodule Caravan.Test.Soak.LogFile do
  @moduledoc """
  The log file of one VM: the arguments that make the VM write it, its format, and a function that reads it.

  Each line is `microseconds level origin text`. It is written at once, so that the log of a killed VM is complete.
  """

  @typedoc "Who logged: Caravan, the soak's code in the VM, or others, such as OTP."
  @type origin :: :caravan | :soak | :other

  @typedoc "`:at` is in milliseconds of `System.os_time/1`."
  @type line :: %{at: integer, level: :logger.level(), origin: origin, text: String.t()}

  @formatter %{single_line: true, template: [:msg], max_size: 8_000, depth: 60}
  @severe [:error, :critical, :alert, :emergency]

  @doc "Returns the arguments for a VM that logs to this file from its boot on."
  @spec args(Path.t()) :: [String.t()]
  def args(path) do
    # No event is dropped, and each one is written before the next.
    limits =
      "sync_mode_qlen => 0, drop_mode_qlen => 100000, flush_qlen => 100000, burst_limit_enable => false"

    file =
      "file => #{inspect(path)}, modes => [raw, append, {delayed_write, 0, 0}], filesync_repeat_interval => no_repeat"

    config = "config => \#{#{file}, #{limits}}, formatter => {'#{__MODULE__}', \#{}}"
    # Elixir's Logger removes or replaces the default handler.
    default = "{handler, default, logger_std_h, \#{level => none}}"
    handlers = "[#{default}, {handler, soak, logger_std_h, \#{#{config}}}]"

    ["-kernel", "logger", handlers, "logger_level", "info"] ++
      ~w(-logger level info backends [] default_handler false)
  end

  @doc "Logs a line with the origin `:soak`."
  @spec note(String.t()) :: :ok
  def note(text), do: :logger.notice(text, %{soak: true})

  @doc "The callback of a formatter of `:logger`."
  @spec format(:logger.log_event(), map) :: iodata
  def format(event, _config) do
    text =
      event |> :logger_formatter.format(@formatter) |> to_string() |> String.replace("\n", " ")

    [to_string(event.meta.time), " #{event.level} #{origin(event, text)} ", text, "\n"]
  end

  defp origin(%{meta: %{soak: true}}, _text), do: :soak

  defp origin(%{meta: meta, level: level}, text) do
    cond do
      caravan?(meta[:mfa]) -> :caravan
      # A crash is logged by OTP. Its report names the module of the process, or of a function on its stack.
      level in @severe and String.replace(text, "Caravan.Test", "") =~ "Caravan." -> :caravan
      true -> :other
    end
  end

  defp caravan?({module, _function, _arity}) do
    name = Atom.to_string(module)

    String.starts_with?(name, "Elixir.Caravan.") and
      not String.starts_with?(name, "Elixir.Caravan.Test.")
  end

  defp caravan?(nil), do: false

  @doc """
  Returns the lines after the first `offset` bytes, and the offset for the next call. Returns no lines if there is no
  file yet.
  """
  @spec read(Path.t(), offset :: non_neg_integer) :: {[line], offset :: non_neg_integer}
  def read(path, offset) do
    case File.read(path) do
      {:ok, content} ->
        new = binary_part(content, offset, byte_size(content) - offset)
        # The VM may be writing the last line.
        complete = new |> String.split("\n") |> Enum.drop(-1)
        size = complete |> Enum.map(&(byte_size(&1) + 1)) |> Enum.sum()
        {Enum.map(complete, &parse/1), offset + size}

      {:error, :enoent} ->
        {[], offset}
    end
  end

  defp parse(line) do
    [at, level, origin, text] = String.split(line, " ", parts: 4)
    [level, origin] = Enum.map([level, origin], &String.to_existing_atom/1)
    %{at: div(String.to_integer(at), 1_000), level: level, origin: origin, text: text}
  end

  @doc "Returns whether the line has level `:error` or a more severe one."
  @spec severe?(line) :: boolean
  def severe?(%{level: level}), do: level in @severe
end
