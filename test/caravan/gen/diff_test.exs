defmodule Caravan.Gen.DiffTest do
  use ExUnit.Case, async: true

  alias Caravan.Gen.Diff

  test "shows changed lines with three lines around them" do
    old = Enum.map_join(1..20, &"#{&1}\n")
    new = old |> String.replace("\n5\n", "\nfive\n") |> Kernel.<>("21\n")

    assert Diff.text("a", old, new) == """
           --- a
             …
             2
             3
             4
           - 5
           + five
             6
             7
             8
             …
             18
             19
             20
           + 21
           """
  end

  test "shows a new file" do
    assert Diff.text("a", nil, "1\n\n2\n") == "--- a (new)\n+ 1\n+ \n+ 2\n"
  end
end
