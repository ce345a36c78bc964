defmodule Caravan.LinkMap.SvgTest do
  use ExUnit.Case, async: true

  alias Caravan.LinkMap.Matrix
  alias Caravan.LinkMap.Svg

  defp matrix(names, change \\ & &1) do
    views =
      for name <- names,
          into: %{},
          do: {name, %{visible: names -- [name], hidden: [], wanted: :all}}

    Matrix.new(hd(names), change.(views))
  end

  defp titles(svg),
    do: List.flatten(Regex.scan(~r{<title>(.*?)</title>}, svg, capture: :all_but_first))

  test "each pair of nodes has two cells, each with a title and a symbol" do
    change =
      &%{
        &1
        | "a@h" => nil,
          "b@h" => nil,
          "c@h" => %{visible: ["a@h"], hidden: ["b@h"], wanted: :all}
      }

    assert {:ok, svg} = Svg.format(matrix(~w(a@h b@h c@h d@h), change))
    assert length(titles(svg)) == 12
    assert "a@h, b@h: neither has replied" in titles(svg)
    assert "b@h, c@h: hidden link" in titles(svg)
    assert "c@h, d@h: only d@h has the link" in titles(svg)
    for symbol <- ~w(? h !), do: assert(svg =~ ~s(>#{symbol}</text>))
    assert svg =~ "prefers-color-scheme:dark"
  end

  test "names are escaped" do
    assert {:ok, svg} = Svg.format(matrix(["a<\"&>@h", "b\u0001@h"]))
    assert "a&lt;&quot;&amp;&gt;@h, b?@h: link" in titles(svg)
    refute svg =~ "a<"
    refute svg =~ "\u0001"
  end

  test "200 nodes are small cells, and more are an error" do
    names = for n <- 1..200, do: "n#{n}@h"
    assert {:ok, svg} = Svg.format(matrix(names))
    assert length(titles(svg)) == 200 * 199

    assert Svg.format(matrix(["a@h" | names])) ==
             {:error, "an SVG shows up to 200 nodes, and there are 201"}
  end
end
