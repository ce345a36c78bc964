defmodule Caravan.Doctor.ResolvConfTest do
  use ExUnit.Case, async: true

  alias Caravan.Doctor.ResolvConf

  test "a file without lines has no nameserver and no search domain" do
    assert ResolvConf.parse([]) ==
             %{search: [], ndots: 1, nameservers: [], rotate: false}
  end

  test "all nameservers count, and the last search list and the last ndots" do
    lines = [
      "# search no.test",
      "search a.test b.test",
      "nameserver 10.0.0.1",
      "options ndots:5 rotate",
      "domain c.test",
      "nameserver 10.0.0.2 # the second one",
      "options ndots:2 timeout:1"
    ]

    assert ResolvConf.parse(lines) ==
             %{search: ["c.test"], ndots: 2, nameservers: ["10.0.0.1", "10.0.0.2"], rotate: true}
  end

  test "words without a value and an ndots that is no number change nothing" do
    for line <- ["nameserver", "options ndots:x", "options", "", "unknown word"],
        do: assert(ResolvConf.parse([line]) == ResolvConf.parse([]))
  end
end
