defmodule Caravan.LinkMap.Text do
  # Pure. A link map as text: a matrix of up to 40 nodes, or else the nodes that lack links.
  @moduledoc false

  alias Caravan.Cluster.NameList
  alias Caravan.LinkMap.Matrix

  @max_columns 40

  @symbols %{
    "link" => "+",
    "hidden" => "h",
    "missing" => "X",
    "not_wanted" => ".",
    "no_reply" => "?"
  }

  @legend """
  + link   h hidden   X missing   . not wanted (links: k)   ? neither has replied
  > only the node of the row has it   < only that of the column
  """

  @spec format(Matrix.t()) :: String.t()
  def format(%{nodes: [node]}), do: "#{node.node} is connected to no node."

  def format(matrix) do
    body = if length(matrix.nodes) <= @max_columns, do: table(matrix), else: rows(matrix)
    [summary(matrix), "\n", body] |> IO.iodata_to_binary() |> String.trim_trailing()
  end

  defp summary(matrix) do
    without_reply =
      case length(silent(matrix)) do
        0 -> ""
        1 -> " 1 node did not reply."
        count -> " #{count} nodes did not reply."
      end

    not_asked =
      case length(not_asked(matrix)) do
        0 ->
          ""

        1 ->
          " 1 node was not asked, because #{matrix.node} is not connected to it."

        count ->
          " #{count} nodes were not asked, because #{matrix.node} is not connected to them."
      end

    "#{Matrix.summary(matrix)}.#{without_reply}#{not_asked} Asked by #{matrix.node}.\n"
  end

  defp silent(matrix),
    do: for(%{node: node, asked: true, replied: false} <- matrix.nodes, do: node)

  defp not_asked(matrix), do: for(%{node: node, asked: false} <- matrix.nodes, do: node)

  ## The matrix

  defp table(%{nodes: nodes} = matrix) do
    names = for {node, number} <- Enum.with_index(nodes, 1), do: {number, node.node}
    width = nodes |> Enum.map(&String.length(&1.node)) |> Enum.max()
    symbols = symbols(matrix)

    header = [String.duplicate(" ", width + 5), for({n, _name} <- names, do: number(n)), "\n"]

    lines =
      for {n, name} <- names do
        cells = for {_n, other} <- names, do: ["  ", Map.get(symbols, {name, other}, "-")]
        [number(n), "  ", String.pad_trailing(name, width), cells, "\n"]
      end

    [header, lines, "\n", @legend, in_words(matrix)]
  end

  defp number(n), do: String.pad_leading(Integer.to_string(n), 3)

  defp symbols(%{links: links}) do
    for %{nodes: [first, second], state: state} <- links,
        {pair, one_sided} <- [{{first, second}, ">"}, {{second, first}, "<"}],
        into: %{},
        do: {pair, Map.get(@symbols, state, one_sided)}
  end

  defp in_words(matrix) do
    lines =
      for(link <- matrix.links, line <- List.wrap(words(link)), do: [line, "\n"]) ++
        without_reply(matrix)

    if lines == [], do: [], else: ["\n", lines]
  end

  defp words(%{state: "missing", nodes: [a, b]}), do: "#{a} and #{b} are not connected"

  defp words(%{state: "one_sided", nodes: [a, b]}),
    do: "#{a} is connected to #{b}, which is not connected to it"

  defp words(_link), do: nil

  ## The nodes that lack links

  defp rows(matrix) do
    gaps =
      for %{state: state, nodes: [a, b]} <- matrix.links,
          state in ["missing", "one_sided"],
          {node, other} <- [{a, b}, {b, a}],
          do: {node, other}

    by_node = Enum.group_by(gaps, &elem(&1, 0), &elem(&1, 1))

    [
      for(
        {node, others} <- Enum.sort(by_node),
        do: ["#{node} lacks #{NameList.sorted(others)}\n"]
      ),
      without_reply(matrix)
    ]
  end

  # Whether two of these nodes are connected with each other is unknown.
  defp without_reply(matrix) do
    for {text, [_ | _] = nodes} <- [
          {"no reply", silent(matrix)},
          {"not asked", not_asked(matrix)}
        ],
        do: "#{text}: #{NameList.sorted(nodes)}\n"
  end
end
