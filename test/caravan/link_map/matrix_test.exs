defmodule Caravan.LinkMap.MatrixTest do
  use ExUnit.Case, async: true

  alias Caravan.LinkMap.Matrix

  defp view(visible, hidden \\ []), do: %{visible: visible, hidden: hidden, wanted: :all}

  defp states(views) do
    for %{nodes: [a, b], state: state} <- Matrix.new("a", views).links, do: {a, b, state}
  end

  test "two nodes that both list the connection have a link, or a hidden link" do
    assert states(%{"a" => view(["b"], ["c"]), "b" => view(["a"]), "c" => view([], ["a"])}) == [
             {"a", "b", "link"},
             {"a", "c", "hidden"},
             {"b", "c", "missing"}
           ]
  end

  test "a link that only one of two nodes has is one-sided, and the node that has it comes first" do
    assert states(%{"a" => view(["b"]), "b" => view([])}) == [{"a", "b", "one_sided"}]
    assert states(%{"a" => view([]), "b" => view(["a"])}) == [{"b", "a", "one_sided"}]
  end

  test "if only one of two nodes has replied, its reply counts, and if neither has, the state is no_reply" do
    views = %{"a" => view(["b"]), "b" => nil, "c" => nil}

    assert states(views) == [
             {"a", "b", "link"},
             {"a", "c", "missing"},
             {"b", "c", "no_reply"}
           ]
  end

  test "a node to which an asked node is connected is in the map, even if it was not asked itself" do
    views = %{"a" => view(["b"]), "b" => view(["a", "c"])}
    assert %{nodes: nodes, links: links} = Matrix.new("a", views)

    assert nodes == [
             %{node: "a", asked: true, replied: true},
             %{node: "b", asked: true, replied: true},
             %{node: "c", asked: false, replied: false}
           ]

    assert %{nodes: ["a", "c"], state: "missing"} in links
    assert %{nodes: ["b", "c"], state: "link"} in links
  end

  test "lacking/2 names each node that has replied, with the nodes of its group to which a wanted link is missing" do
    wants = fn links, wanted -> %{visible: links, hidden: [], wanted: wanted} end

    views = %{
      "a" => view(["b"], ["c"]),
      "b" => wants.(["a"], []),
      "c" => wants.(["a"], ["d"]),
      "d" => wants.([], []),
      "e" => nil
    }

    assert Matrix.lacking([~w(a b c d e)], views) == [
             {"a", ["d", "e"]},
             {"c", ["d"]},
             {"d", ["a", "c"]}
           ]

    assert Matrix.lacking([~w(a b), ~w(a c), ~w(d)], views) == []
  end

  test "a link that no node wants is not missing" do
    wants = fn wanted -> %{visible: [], hidden: [], wanted: wanted} end
    views = %{"a" => wants.(["c"]), "b" => wants.([]), "c" => wants.([]), "d" => nil}

    assert states(views) == [
             {"a", "b", "not_wanted"},
             {"a", "c", "missing"},
             {"a", "d", "not_wanted"},
             {"b", "c", "not_wanted"},
             {"b", "d", "not_wanted"},
             {"c", "d", "not_wanted"}
           ]

    assert states(%{"a" => wants.([]), "b" => wants.(:all)}) == [{"a", "b", "missing"}]
  end

  test "counts/1 returns the number of links in each state" do
    matrix = Matrix.new("a", %{"a" => view(["b", "c"]), "b" => view(["a"]), "c" => view(["a"])})
    assert Matrix.counts(matrix) == %{"link" => 2, "missing" => 1}
  end
end
