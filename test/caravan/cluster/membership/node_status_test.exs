defmodule Caravan.Cluster.Membership.NodeStatusTest do
  use ExUnit.Case, async: true

  import Caravan.Test.MembershipEvents

  alias Caravan.Cluster.Membership

  defp nodes({_actions, membership}), do: Map.new(Membership.nodes(membership))
  defp missing({_actions, membership}), do: Membership.missing(membership)

  test "without a limit of links, a member is connected or missing" do
    state = membership() |> handle(answer(["a@h", "b@h"]), 7) |> handle({:nodeup, "a@h"}, 8)
    assert nodes(state) == %{"a@h" => {true, :preferred}, "b@h" => {true, {:missing, 7, false}}}
    assert missing(state) == 1
    state = state |> handle({:peer_draining, "a@h"}, 9) |> handle({:nodedown, "a@h"}, 10)
    assert nodes(state)["a@h"] == {true, {:missing, 10, true}}
    assert missing(state) == 2
  end

  test "a node that is connected, but no longer a member, is not missing after its nodedown" do
    state = membership(keep: 0) |> handle(answer(["a@h"]), 0) |> handle({:nodeup, "a@h"}, 1)
    state = handle(state, answer(["b@h"]), 2)
    assert nodes(state)["a@h"] == {false, :connected}
    assert state |> handle({:nodedown, "a@h"}, 3) |> nodes() |> Map.keys() == ["b@h"]
  end

  test "with a limited number of links, only preferred members can be missing" do
    state = membership(links: 1) |> handle(answer(["a@h", "b@h", "c@h"]), 7)
    [preferred] = dialled(state)
    [one, two] = ["a@h", "b@h", "c@h"] -- [preferred]
    assert nodes(state)[preferred] == {true, {:missing, 7, false}}
    assert nodes(state)[one] == {true, :unlinked}
    assert missing(state) == 1

    # The first of the others is a stand-in. The second one connects by itself.
    state = handle(state, {:connect_result, preferred, {:error, :unreachable}}, 8)
    [stand_in] = dialled(state)
    [other] = [one, two] -- [stand_in]
    state = state |> handle({:nodeup, stand_in}, 9) |> handle({:nodeup, other}, 10)
    assert nodes(state)[stand_in] == {true, :stand_in}
    assert nodes(state)[other] == {true, :connected}
    assert missing(state) == 1
  end
end
