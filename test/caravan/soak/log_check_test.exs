defmodule Caravan.Soak.LogCheckTest do
  use ExUnit.Case, async: true

  alias Caravan.Test.Soak.LogCheck

  @dns "DNS lookup of \"app.test\" failed: no answer within 500 ms"

  defp problems(lines, changes \\ []) do
    lines =
      for {line, at} <- Enum.with_index(lines) do
        {origin, level, text} = line
        text = if origin == :caravan, do: "[caravan:soak] " <> text, else: text
        %{at: at, origin: origin, level: level, text: text}
      end

    {problems, _check} = LogCheck.add_lines(%LogCheck{}, lines, changes)
    problems
  end

  defp warning(text), do: {:caravan, :warning, text}
  defp info(text), do: {:caravan, :info, text}
  defp note(text), do: {:soak, :notice, text}

  test "an error line of Caravan is a problem, one of OTP is not" do
    assert ["error line: leaving failed"] = problems([{:caravan, :error, "leaving failed"}])
    assert problems([{:other, :error, "** Node x not responding **"}]) == []
  end

  test "a call of the function that disconnects is a problem" do
    assert ["Caravan disconnected a@b"] = problems([note("disconnect a@b")])
  end

  test "a loss without a nodedown is a problem" do
    assert problems([note("down a@b :closed"), warning("lost a@b")]) == []
    # The nodedown may be logged after the loss.
    assert problems([warning("lost a@b"), note("down a@b :closed")]) == []
    assert [problem] = problems([warning("lost a@b"), note("down a@b :x"), warning("lost a@b")])
    assert problem =~ "2 times, but it went down 1 times"
  end

  test "a failed connect may be logged again after the node was connected, left DNS or changed its address" do
    failed = warning("cannot connect to a@b: nothing listens")

    assert [_] = problems([failed, failed])
    assert [_] = problems([failed, info("connected to c@d"), failed])
    assert problems([failed, info("connected to a@b"), failed]) == []
    assert problems([failed, info("no longer in DNS: c@d, a@b"), failed]) == []
    assert problems([failed, failed], [{1, "a@b"}]) == []
    assert [_] = problems([failed, failed], [{1, "c@d"}])
    assert problems([failed, warning("cannot connect to a@b: no reply")]) == []
  end

  test "a failed lookup may be logged again after DNS answered" do
    assert [_] = problems([warning(@dns), warning(@dns)])
    assert [_] = problems([warning(@dns), warning(String.replace(@dns, "500", "501"))])

    assert problems([warning(@dns), info("DNS answers again for \"app.test\""), warning(@dns)]) ==
             []
  end

  test "other warnings may be logged once" do
    assert [_] = problems([warning("the table is full"), warning("the table is full")])
  end

  test "a warning may not be repeated in lines that are added later" do
    line = %{at: 1, origin: :caravan, level: :warning, text: "[caravan:soak] the table is full"}
    {[], check} = LogCheck.add_lines(%LogCheck{}, [line], [])
    assert {[_], _check} = LogCheck.add_lines(check, [line], [])
  end

  test "links that were lost and came back are counted" do
    lines =
      for {text, at} <- Enum.with_index(["up a@b", "down a@b :x", "up a@b", "down a@b :x"]),
          do: %{at: at, origin: :soak, level: :notice, text: text}

    {[], check} = LogCheck.add_lines(%LogCheck{}, lines, [])
    assert LogCheck.links(check) == {2, 1}
  end
end
