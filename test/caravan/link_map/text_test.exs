defmodule Caravan.LinkMap.TextTest do
  use ExUnit.Case, async: true

  alias Caravan.LinkMap.Matrix
  alias Caravan.LinkMap.Text

  # Returns the views of nodes that are all connected to each other. In `missing`, a node has the nodes to which it is not
  # connected.
  defp mesh(names, missing \\ %{}) do
    for name <- names, into: %{} do
      {name,
       %{visible: (names -- [name]) -- Map.get(missing, name, []), hidden: [], wanted: :all}}
    end
  end

  test "a cluster is a matrix, with the missing links in words below it" do
    missing = %{"a-1@h" => ["c-3@h"], "c-3@h" => ["a-1@h"], "b-2@h" => ["c-3@h"]}
    views = mesh(~w(a-1@h b-2@h c-3@h), missing)

    assert ("a-1@h" |> Matrix.new(views) |> Text.format()) <> "\n" == """
           3 nodes, 1 of 3 links. Asked by a-1@h.

                       1  2  3
             1  a-1@h  -  +  X
             2  b-2@h  +  -  <
             3  c-3@h  X  >  -

           + link   h hidden   X missing   . not wanted (links: k)   ? neither has replied
           > only the node of the row has it   < only that of the column

           a-1@h and c-3@h are not connected
           c-3@h is connected to b-2@h, which is not connected to it
           """
  end

  test "links that are not wanted do not count" do
    wants = &%{visible: &1, hidden: [], wanted: []}
    views = %{"a" => wants.(["b"]), "b" => wants.(["a"]), "c" => wants.([])}
    text = "a" |> Matrix.new(views) |> Text.format()
    assert text =~ "3 nodes, 1 of 1 links."
    assert text =~ "  1  a  -  +  .\n"
    assert String.ends_with?(text, "< only that of the column")
  end

  test "nodes without a link to the node that asks were not asked" do
    links = &%{visible: &1, hidden: [], wanted: []}
    views = %{"a" => links.(["b", "s"]), "b" => links.(["a", "c"]), "s" => nil}
    text = "a" |> Matrix.new(views) |> Text.format()

    assert text =~
             "4 nodes, 3 of 3 links, and 1 unknown link. 1 node did not reply. 1 node was not asked, because a is not connected to it. Asked by a.\n"

    # Neither s nor c has replied, so their link is unknown. The lines below the matrix say why.
    assert text =~ "\n  3  c  .  +  -  ?\n  4  s  +  .  ?  -\n"
    assert text =~ "   ? neither has replied\n"
    assert String.ends_with?(text, "\n\nno reply: s\nnot asked: c")

    others = for n <- 101..160, do: "n#{n}"
    text = "a" |> Matrix.new(%{views | "b" => links.(["a" | others])}) |> Text.format()
    # Of the 61 nodes that have not replied, each two may have a link.
    assert text =~ "63 nodes, 62 of 62 links, and 1830 unknown links."
    assert text =~ " 60 nodes were not asked, because a is not connected to them. Asked by a.\n"
    assert text =~ ~r/^no reply: s$/m
    assert text =~ ~r/^not asked: n101, .* and 50 more$/m
  end

  test "a full mesh has no words below the matrix" do
    text = "a@h" |> Matrix.new(mesh(~w(a@h b@h))) |> Text.format()
    assert text =~ "2 nodes, 1 of 1 links."
    assert String.ends_with?(text, "< only that of the column")
  end

  test "a node alone is one sentence" do
    assert "a@h" |> Matrix.new(mesh(["a@h"])) |> Text.format() ==
             "a@h is connected to no node."
  end

  test "with more than 40 nodes, there is no matrix, but a line for each node that lacks links or did not reply" do
    [first, second | rest] = names = for n <- 101..160, do: "n#{n}@h"
    views = mesh(names, %{first => [second | rest], second => [first]})

    views =
      for {name, view} <- views, into: %{}, do: {name, %{view | visible: view.visible -- [first]}}

    views = Map.put(views, "n160@h", nil)
    text = second |> Matrix.new(views) |> Text.format()

    assert text =~ "60 nodes, 1711 of 1770 links. 1 node did not reply. Asked by n102@h."
    assert text =~ ~r/^n101@h lacks n102@h, .*, n111@h and 49 more$/m
    assert text =~ ~r/^n102@h lacks n101@h$/m
    assert text =~ ~r/^no reply: n160@h$/m
    refute text =~ "+ link"
  end
end
