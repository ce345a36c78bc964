defmodule Caravan.Gen.Amend do
  # Pure. Adds lines to files of the user. All that was there before stays, byte for byte.
  @moduledoc false

  @first "# caravan: begin"
  @last "# caravan: end"

  @typedoc "The contents of a file, or `nil` if there is none."
  @type contents :: String.t() | nil

  @doc """
  Returns a shell script with `block` between the marks.

  A new block comes before all commands, so that the commands of the user can change its values. A block that is there
  is replaced.
  """
  @spec block(contents, String.t()) :: {:ok, String.t()} | {:error, String.t()}
  def block(contents, block) do
    text = "#{@first}\n#{block}#{@last}\n"

    case marks(contents || "") do
      {[], []} -> {:ok, insert(contents, text)}
      {[first], [last]} when first < last -> {:ok, replace(contents, first, last, text)}
      {first, last} -> {:error, unpaired(length(first), length(last))}
    end
  end

  @doc "Returns the lines of a shell script outside of the block, without comments, with their numbers."
  @spec user_lines(contents) :: [{pos_integer, String.t()}]
  def user_lines(contents) do
    lines = lines(contents || "")

    inside =
      case marks(contents || "") do
        {[first], [last]} when first < last -> first..last
        _ -> []
      end

    for {line, index} <- Enum.with_index(lines),
        index not in inside,
        line = line |> String.trim() |> uncomment(),
        line != "",
        do: {index + 1, line}
  end

  @doc """
  Returns a file of VM arguments that has the flags. A flag that has another value is an error.

  `file` is its path, for the message.
  """
  @spec flags(contents, Path.t(), [{flag :: String.t(), value :: String.t()}]) ::
          {:ok, String.t()} | {:error, String.t()}
  def flags(contents, file, flags) do
    words = words(contents)

    case Enum.find(flags, fn {flag, value} -> Enum.any?(values(words, flag), &(&1 != value)) end) do
      nil ->
        missing = Enum.reject(flags, fn {flag, _value} -> flag in words end)
        {:ok, append(contents, for({flag, value} <- missing, do: "#{flag} #{value}\n"))}

      {flag, value} ->
        other = words |> values(flag) |> Enum.find(&(&1 != value))

        {:error,
         "#{file}: expected #{flag} #{value}, got: #{String.trim("#{flag} #{other}")}. Remove the line with this flag."}
    end
  end

  @doc "Returns the values of a flag in a file of VM arguments or in a line of shell."
  @spec flag(contents, String.t()) :: [String.t()]
  def flag(contents, flag), do: contents |> words() |> values(flag)

  ## Blocks

  defp marks(contents) do
    lines = contents |> lines() |> Enum.map(&String.trim/1) |> Enum.with_index()
    {for({@first, index} <- lines, do: index), for({@last, index} <- lines, do: index)}
  end

  defp insert(contents, text) when contents in [nil, ""], do: "#!/bin/sh\n\n" <> text

  defp insert("#!" <> _ = contents, text) do
    case String.split(contents, "\n", parts: 2) do
      [shebang, ""] -> "#{shebang}\n\n#{text}"
      [shebang, "\n" <> _ = rest] -> "#{shebang}\n\n#{text}#{rest}"
      [shebang, rest] -> "#{shebang}\n\n#{text}\n#{rest}"
      [shebang] -> "#{shebang}\n\n#{text}"
    end
  end

  defp insert(contents, text), do: "#{text}\n#{contents}"

  defp replace(contents, first, last, text) do
    lines = lines(contents)
    before = lines |> Enum.take(first) |> Enum.map(&(&1 <> "\n"))
    # The file may end without a line break.
    rest = lines |> Enum.drop(last + 1) |> Enum.join("\n")
    text = if length(lines) == last + 1, do: String.trim_trailing(text), else: text
    :erlang.iolist_to_binary([before, text, rest])
  end

  defp lines(contents), do: String.split(contents, "\n")

  defp unpaired(firsts, lasts) do
    "expected one line `#{@first}` and one line `#{@last}` after it, got: #{firsts} and #{lasts}. " <>
      "Remove these lines and what is between them."
  end

  ## Flags

  defp words(contents) do
    (contents || "")
    |> lines()
    |> Enum.flat_map(fn line -> line |> uncomment() |> String.split(~r/[\s"']+/, trim: true) end)
  end

  # In both files, a # at the start of a word begins a comment.
  defp uncomment(line), do: String.replace(line, ~r/(^|\s)#.*$/, "")

  defp values([flag, value | rest], flag), do: [value | values([value | rest], flag)]
  defp values([flag], flag), do: [""]
  defp values([_other | rest], flag), do: values(rest, flag)
  defp values([], _flag), do: []

  defp append(contents, []), do: contents || ""
  defp append(nil, lines), do: append("", lines)

  defp append(contents, lines) do
    gap =
      cond do
        contents == "" -> ""
        String.ends_with?(contents, "\n") -> "\n"
        true -> "\n\n"
      end

    :erlang.iolist_to_binary([
      contents,
      gap,
      "## Caravan is used in place of the daemon epmd.\n" | lines
    ])
  end
end
