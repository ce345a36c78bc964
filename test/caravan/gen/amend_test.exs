defmodule Caravan.Gen.AmendTest do
  use ExUnit.Case, async: true

  alias Caravan.Gen.Amend

  @marked "# caravan: begin\nA=1\n# caravan: end\n"
  @flags [{"-epmd_module", "Elixir.Caravan.Epmd"}, {"-start_epmd", "false"}]

  defp block(contents, block \\ "A=1\n") do
    assert {:ok, new} = Amend.block(contents, block)
    assert Amend.block(new, block) == {:ok, new}
    new
  end

  defp flags(contents) do
    assert {:ok, new} = Amend.flags(contents, "vm.args", @flags)
    assert Amend.flags(new, "vm.args", @flags) == {:ok, new}
    new
  end

  describe "a block" do
    test "makes a new script" do
      assert block(nil) == "#!/bin/sh\n\n" <> @marked
      assert block("") == "#!/bin/sh\n\n" <> @marked
    end

    test "comes after the first line, before all commands" do
      assert block("#!/bin/sh\n\nB=2\n") == "#!/bin/sh\n\n#{@marked}\nB=2\n"
      assert block("#!/bin/sh\nB=2") == "#!/bin/sh\n\n#{@marked}\nB=2"
      assert block("#!/bin/sh") == "#!/bin/sh\n\n#{@marked}"
      assert block("B=2\n") == "#{@marked}\nB=2\n"
    end

    test "replaces the block that is there, and nothing else" do
      assert block("B=2\n#{@marked}C=3", "A=2\n") ==
               "B=2\n# caravan: begin\nA=2\n# caravan: end\nC=3"

      assert block("B=2\n" <> String.trim(@marked)) == "B=2\n" <> String.trim(@marked)
    end

    test "is not added to a script with one of the marks" do
      for wrong <- [
            "# caravan: begin\n",
            "# caravan: end\n# caravan: begin\n",
            @marked <> @marked
          ] do
        assert {:error, message} = Amend.block(wrong, "A=1\n")
        assert message =~ "expected one line `# caravan: begin`"
      end
    end
  end

  test "user_lines are those outside of the block, without comments" do
    assert Amend.user_lines("B=2\n#{@marked}\n# C=3\nD=${E##*-} # F\n") == [
             {1, "B=2"},
             {7, "D=${E##*-}"}
           ]
  end

  describe "flags" do
    test "are added to the end of the file" do
      added =
        "## Caravan is used in place of the daemon epmd.\n-epmd_module Elixir.Caravan.Epmd\n"

      assert flags(nil) == added <> "-start_epmd false\n"
      assert flags("+P 1\n") == "+P 1\n\n" <> added <> "-start_epmd false\n"
      assert flags("-start_epmd false\n+P 1") == "-start_epmd false\n+P 1\n\n" <> added
    end

    test "in a comment do not count" do
      assert flags("## -start_epmd false\n") =~ ~r/^-start_epmd false$/m
    end

    test "that are there change nothing" do
      there = "-epmd_module Elixir.Caravan.Epmd -start_epmd false # mine"
      assert flags(there) == there
    end

    test "with another value are an error that shows both" do
      for {line, got} <- [
            {"-start_epmd true", "-start_epmd true"},
            {"-start_epmd false\n-start_epmd true", "-start_epmd true"},
            {"+P 1 -start_epmd", "-start_epmd"}
          ] do
        assert Amend.flags(line, "rel/vm.args.eex", @flags) ==
                 {:error,
                  "rel/vm.args.eex: expected -start_epmd false, got: #{got}. Remove the line with this flag."}
      end
    end
  end
end
