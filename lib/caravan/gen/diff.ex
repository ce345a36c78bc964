defmodule Caravan.Gen.Diff do
  # Pure. Shows what would change in a file.
  @moduledoc false

  @context 3

  @doc "Returns the changed lines with `+` and `-`, each group with the three lines before and after it."
  @spec text(Path.t(), old :: String.t() | nil, new :: String.t()) :: String.t()
  def text(path, old, new) do
    lines =
      for {kind, lines} <- List.myers_difference(lines(old || ""), lines(new)),
          line <- lines,
          do: {kind, line}

    changed = for {{kind, _line}, index} <- Enum.with_index(lines), kind != :eq, do: index

    shown =
      for index <- changed, near <- (index - @context)..(index + @context), uniq: true, do: near

    title = if old, do: path, else: "#{path} (new)"

    {text, _last} =
      lines
      |> Enum.with_index()
      |> Enum.filter(fn {_line, index} -> index in shown end)
      |> Enum.map_reduce(-1, fn {{kind, line}, index}, last ->
        {[if(index > last + 1, do: "  …\n", else: ""), sign(kind), line, "\n"], index}
      end)

    :erlang.iolist_to_binary(["--- ", title, "\n" | text])
  end

  defp lines(text), do: text |> String.trim_trailing("\n") |> String.split("\n") |> drop_empty()

  defp drop_empty([""]), do: []
  defp drop_empty(lines), do: lines

  defp sign(:eq), do: "  "
  defp sign(:ins), do: "+ "
  defp sign(:del), do: "- "
end
