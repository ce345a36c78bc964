defmodule Caravan.Cluster.MembershipTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Membership

  @srv {"app.test", :srv}
  @other {"other.test", :srv}
  @nobody MapSet.new()

  defp answered(membership \\ %Membership{}, source \\ @srv, names) do
    {_recovered, membership} = Membership.answered(membership, source, names)
    membership
  end

  defp observed(membership, connected) do
    {_joined, _lost, membership} = Membership.observe(membership, connected)
    membership
  end

  test "the union of all sources is connected" do
    membership = answered(["a@h", "b@h"]) |> answered(@other, ["b@h", "c@h"])

    assert Enum.sort(Membership.to_connect(membership, "me@h", @nobody)) ==
             ["a@h", "b@h", "c@h"]
  end

  test "this node, connected nodes and those being connected are left out" do
    membership = answered(["me@h", "a@h", "b@h", "c@h"]) |> observed(["a@h"])
    assert Membership.to_connect(membership, "me@h", MapSet.new(["b@h"])) == ["c@h"]
  end

  test "a node that dropped is connected again without a new answer" do
    membership = answered(["a@h"]) |> observed(["a@h"])
    assert Membership.to_connect(membership, "me@h", @nobody) == []
    assert membership |> observed([]) |> Membership.to_connect("me@h", @nobody) == ["a@h"]
  end

  test "a failed lookup keeps the names of the last answer" do
    {news, membership} = Membership.lookup_failed(answered(["a@h"]), @srv, "timeout")
    assert news
    assert Membership.to_connect(membership, "me@h", @nobody) == ["a@h"]
  end

  test "a failure is news once, and so is the recovery" do
    {true, membership} = Membership.lookup_failed(%Membership{}, @srv, "timeout")
    {false, membership} = Membership.lookup_failed(membership, @srv, "timeout")
    {true, membership} = Membership.lookup_failed(membership, @srv, "nxdomain")
    {true, membership} = Membership.answered(membership, @srv, [])
    assert {false, _} = Membership.answered(membership, @srv, [])
  end

  test "a failed connect is news when it comes again, once for each kind" do
    membership = answered(["a@h"])
    {false, membership} = Membership.connect_failed(membership, "a@h", :timeout)
    {true, membership} = Membership.connect_failed(membership, "a@h", :unreachable)
    {true, membership} = Membership.connect_failed(membership, "a@h", :timeout)
    {false, membership} = Membership.connect_failed(membership, "a@h", :unreachable)
    assert {false, _} = Membership.connect_failed(membership, "a@h", :timeout)
  end

  test "names that failed least come first" do
    {_, membership} = Membership.connect_failed(answered(["a@h", "b@h", "c@h"]), "a@h", :timeout)
    {_, membership} = Membership.connect_failed(membership, "a@h", :timeout)
    {_, membership} = Membership.connect_failed(membership, "b@h", :timeout)
    assert Membership.to_connect(membership, "me@h", @nobody) == ["c@h", "b@h", "a@h"]
  end

  test "what stands is news when it begins" do
    {true, membership} = Membership.stands(%Membership{}, :crowded, true)
    {false, membership} = Membership.stands(membership, :crowded, true)
    {false, membership} = Membership.stands(membership, :crowded, false)
    assert {true, _} = Membership.stands(membership, :crowded, true)
  end

  test "failures are forgotten with a connection, and with the name" do
    {false, membership} = Membership.connect_failed(answered(["a@h"]), "a@h", :timeout)
    joined = membership |> observed(["a@h"]) |> observed([])
    assert {false, _} = Membership.connect_failed(joined, "a@h", :timeout)

    gone = membership |> answered([]) |> answered(["a@h"])
    assert {false, _} = Membership.connect_failed(gone, "a@h", :timeout)
  end

  test "who joined and who was lost is told once, and strangers are not told of" do
    membership = answered(["a@h", "b@h"])
    {["a@h"], [], membership} = Membership.observe(membership, ["a@h", "stranger@h"])
    {[], [], membership} = Membership.observe(membership, ["a@h"])
    {["b@h"], ["a@h"], membership} = Membership.observe(membership, ["b@h"])
    # No longer in DNS, yet still connected: nobody is lost by that.
    {[], [], membership} = membership |> answered([]) |> Membership.observe(["b@h"])
    assert {[], ["b@h"], _membership} = Membership.observe(membership, [])
  end

  test "no more names than the limit are used" do
    limit = Membership.max_names()
    names = for n <- 1..(limit + 1), do: "n#{n}@h"
    assert Membership.crowded?(answered(names))
    refute Membership.crowded?(answered(tl(names)))
    assert length(Membership.to_connect(answered(names), "me@h", @nobody)) == limit
  end
end
