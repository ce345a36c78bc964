defmodule Caravan.Doctor.CheckTest do
  use ExUnit.Case, async: true

  alias Caravan.Doctor.Check

  defp check(id, grounds \\ []), do: Check.new(id, [grounds: grounds], fn -> {:ok, ""} end)

  defp failed(check), do: Check.put_result(check, {:failed, "seen", "expected", "fix"}, 1)

  test "each id is a heading of the guide, and each heading an id but the last two" do
    guide = File.read!("guides/troubleshooting.md")
    headings = Regex.scan(~r/^## (.+)$/m, guide, capture: :all_but_first)
    assert List.flatten(headings) == Check.ids() ++ ["Messages of Caravan", "Messages of OTP"]
  end

  test "needed/2 returns the checks of the groups and their grounds, and no other checks" do
    [alive, rule, listen, host] =
      checks = [
        check("node.alive"),
        check("ports.rule", ["node.alive"]),
        check("dns.self", ["ports.rule"]),
        check("node.host", ["node.alive"])
      ]

    assert Check.needed(checks, [:dns]) == [alive, rule, listen]
    assert Check.needed(checks, [:node]) == [alive, host]
    assert Check.needed(checks, [:peers]) == []
  end

  test "reported/2 returns failed grounds only if all checks of the groups were skipped" do
    [alive, rule, host] =
      for id <- ["node.alive", "ports.rule", "node.host"],
          do: Check.put_result(check(id), {:skipped, "no time"}, 1)

    failed = failed(alive)
    assert Check.reported([failed, rule, host], [:ports]) == [rule, failed]
    assert Check.reported([alive, rule], [:ports]) == [rule]
    ok = Check.put_result(rule, {:ok, ""}, 1)
    assert Check.reported([failed, ok], [:ports]) == [ok]
  end

  test "a check runs after its grounds" do
    alive = check("node.alive")
    host = check("node.host", ["node.alive"])
    assert Check.ready([host, alive], []) == {[], [alive], [host]}

    done = Check.put_result(alive, {:ok, "app"}, 1)
    assert Check.ready([host], [done]) == {[], [host], []}
  end

  test "a check runs although a ground has a warning or was skipped for another reason" do
    alive = check("node.alive")
    host = check("node.host", ["node.alive"])

    for result <- [{:warning, "a", "b", "c"}, {:skipped, "no time"}] do
      assert {[], [^host], []} = Check.ready([host], [Check.put_result(alive, result, 1)])
    end
  end

  test "a check whose ground has failed is skipped with the id of the root cause" do
    alive = check("node.alive")
    rule = check("ports.rule", ["node.alive"])
    listen = check("ports.listen", ["ports.rule"])

    assert {[rule], [], [^listen]} = Check.ready([rule, listen], [failed(alive)])
    assert {[listen], [], []} = Check.ready([listen], [rule, failed(alive)])

    assert %{status: "skipped", seen: "node.alive has failed", expected: nil} =
             Check.to_map(listen)
  end
end
