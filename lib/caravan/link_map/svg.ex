defmodule Caravan.LinkMap.Svg do
  # Pure. A link map as an SVG file: a matrix of up to 200 nodes. It needs no other file, follows the light or dark
  # scheme of the viewer, and has a symbol for each state besides its colour.
  @moduledoc false

  alias Caravan.LinkMap.Matrix

  @max_nodes 200

  # Up to this number of nodes, cells are large enough for a symbol and rows have names.
  @large 40

  # The widths of a character and of a margin, in pixels.
  @character 7
  @margin 12

  @style """
  svg{--bg:#fff;--fg:#1f2328;--dim:#656d76;--link:#2da44e;--hidden:#8250df;--missing:#cf222e;--one_sided:#bf8700;--no_reply:#8c959f;--not_wanted:#d0d7de}
  @media(prefers-color-scheme:dark){svg{--bg:#0d1117;--fg:#e6edf3;--dim:#8d96a0;--link:#3fb950;--hidden:#a371f7;--missing:#f85149;--one_sided:#d29922;--no_reply:#6e7681;--not_wanted:#30363d}}
  text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:var(--fg)}.dim{fill:var(--dim)}.bg{fill:var(--bg)}
  .link{fill:var(--link)}.hidden{fill:var(--hidden)}.missing{fill:var(--missing)}.one_sided{fill:var(--one_sided)}.no_reply{fill:var(--no_reply)}.not_wanted{fill:var(--not_wanted)}
  .pale{fill-opacity:.3}.c{fill:var(--bg);text-anchor:middle;font-weight:bold;pointer-events:none}
  """

  @states [
    {"link", "", "link"},
    {"hidden", "h", "hidden link"},
    {"missing", "×", "missing"},
    {"not_wanted", "·", "not wanted"},
    {"one_sided", "!", "only one of the two has the link"},
    {"no_reply", "?", "neither has replied"}
  ]

  @doc "Returns the SVG, or an error for more than #{@max_nodes} nodes."
  @spec format(Matrix.t()) :: {:ok, String.t()} | {:error, String.t()}
  def format(%{nodes: nodes}) when length(nodes) > @max_nodes do
    {:error, "an SVG shows up to #{@max_nodes} nodes, and there are #{length(nodes)}"}
  end

  def format(matrix) do
    names = Enum.map(matrix.nodes, & &1.node)
    large = length(names) <= @large
    cell = if large, do: 18, else: 5
    left = 2 * @margin + if large, do: @character * longest(names) + 4 * @character, else: 0
    top = 3 * @margin + if large, do: 18, else: 0
    side = length(names) * cell
    height = top + side + 24 + 18 * map_size(Matrix.counts(matrix)) + @margin
    width = max(left + side + @margin, 420)

    {:ok,
     IO.iodata_to_binary([
       ~s(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 #{width} #{height}" width="#{width}" height="#{height}" ),
       ~s(role="img" aria-label="#{escape(Matrix.summary(matrix))}">\n<style>#{@style}</style>\n),
       ~s(<rect class="bg" width="#{width}" height="#{height}"/>\n),
       text(@margin, 2 * @margin, Matrix.summary(matrix), "t"),
       if(large, do: labels(names, cell, left, top), else: []),
       cells(matrix, names, cell, left, top),
       legend(matrix, top + side + 24),
       "</svg>\n"
     ])}
  end

  defp labels(names, cell, left, top) do
    for {name, index} <- Enum.with_index(names) do
      number = Integer.to_string(index + 1)
      x = left + index * cell + div(cell - @character * String.length(number), 2)

      [
        text(@margin, top + index * cell + 13, String.pad_leading(number, 3) <> " " <> name, "t"),
        text(x, top - 5, number, "dim")
      ]
    end
  end

  defp cells(matrix, names, cell, left, top) do
    places = names |> Enum.with_index() |> Map.new()

    for %{nodes: [first, second], state: state} <- matrix.links,
        {row, column} <- [{first, second}, {second, first}] do
      x = left + places[column] * cell
      y = top + places[row] * cell
      size = cell - 1
      title = escape("#{row}, #{column}: #{words(state, first)}")

      # Small cells have no room for a symbol. So that the other states stand out there, links and pairs without a wanted
      # link are pale.
      class =
        if cell > 9 or state not in ["link", "not_wanted"], do: state, else: state <> " pale"

      [
        ~s(<rect class="#{class}" x="#{x}" y="#{y}" width="#{size}" height="#{size}"><title>#{title}</title></rect>),
        if(cell > 9, do: symbol(state, x + div(size, 2), y + 13), else: []),
        "\n"
      ]
    end
  end

  defp symbol(state, x, y) do
    case List.keyfind(@states, state, 0) do
      {_state, "", _words} -> []
      {_state, symbol, _words} -> ~s(<text class="c" x="#{x}" y="#{y}">#{symbol}</text>)
    end
  end

  defp words("one_sided", first), do: "only #{first} has the link"
  defp words(state, _first), do: @states |> List.keyfind(state, 0) |> elem(2)

  defp legend(matrix, y) do
    counts = Matrix.counts(matrix)
    present = for {state, _, _} = entry <- @states, is_map_key(counts, state), do: entry

    for {{state, symbol, words}, index} <- Enum.with_index(present) do
      y = y + 18 * index
      symbol = if symbol == "", do: [], else: symbol(state, @margin + 7, y + 12)

      [
        ~s(<rect class="#{state}" x="#{@margin}" y="#{y}" width="14" height="14"/>),
        symbol,
        text(@margin + 22, y + 12, "#{words}: #{counts[state]}", "t")
      ]
    end
  end

  defp text(x, y, text, class),
    do: ~s(<text class="#{class}" x="#{x}" y="#{y}" xml:space="preserve">#{escape(text)}</text>\n)

  defp longest(names), do: names |> Enum.map(&String.length/1) |> Enum.max()

  defp escape(text) do
    for <<character <- text>>, into: "" do
      case character do
        ?< -> "&lt;"
        ?> -> "&gt;"
        ?& -> "&amp;"
        ?" -> "&quot;"
        control when control < ?\s -> "?"
        other -> <<other>>
      end
    end
  end
end
