defmodule Caravan.Cluster.Membership.LinksTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Membership.Links

  @self "me@h"
  @names for n <- 1..9, do: "n#{n}@h"

  # The names in the order of their rank for this node.
  @ranked Enum.sort_by(@names, &:erlang.phash2({@self, &1}, 4_294_967_296))

  defp links(limit, release \\ true), do: limit |> Links.new(release) |> Links.mature(0, @self)

  defp put_all(links, names, place),
    do: Enum.reduce(names, links, &Links.put(&2, &1, place.(&1)))

  defp waiting(at \\ 0, failures \\ 0), do: &{:waiting, {at, failures, &1}}
  defp put(links, name, place), do: Links.put(links, name, place)

  # Returns the names that are dialled at `now`, in order, and the links after that.
  defp dial(links, now, new? \\ true) do
    case Links.next(links) do
      nil ->
        {[], links}

      name ->
        {names, links} = links |> put(name, {:dialling, now, new?}) |> dial(now, new?)
        {[name | names], links}
    end
  end

  test "with :all, there are no links" do
    assert Links.new(:all, true) == nil
  end

  test "the first k members by rank are dialled, in any order of their arrival" do
    for names <- [@names, Enum.reverse(@names), Enum.shuffle(@names)] do
      links = put_all(links(3), names, waiting())
      assert Links.preferred(links) == Enum.take(@ranked, 3)
      assert links |> dial(0) |> elem(0) == Enum.take(@ranked, 3)
    end
  end

  test "with 0 links, no member is dialled" do
    links = put_all(links(0), @names, waiting())
    assert {Links.preferred(links), Links.next(links), Links.next_at(links)} == {[], nil, nil}
  end

  test "when a preferred member is deleted, only the next one by rank becomes preferred" do
    links = put_all(links(3), @names, waiting())

    for name <- @names do
      assert links |> put(name, nil) |> Links.preferred() == Enum.take(@ranked -- [name], 3)
    end

    assert links |> put("unknown@h", nil) |> Links.preferred() == Enum.take(@ranked, 3)
  end

  test "each of nine members is preferred by about a third of 300 nodes with three links" do
    counts =
      for n <- 1..300, reduce: %{} do
        counts ->
          links = 3 |> Links.new(true) |> Links.mature(0, "edge#{n}@h")
          names = links |> put_all(@names, waiting()) |> Links.preferred()
          Enum.reduce(names, counts, &Map.update(&2, &1, 1, fn count -> count + 1 end))
      end

    # 100 on average.
    assert Enum.all?(@names, &(counts[&1] in 70..130))
  end

  test "when this node gets another name, the members are ranked for the new name" do
    links = 3 |> Links.new(true) |> Links.mature(0, "nonode@nohost")
    links = links |> put_all(@names, waiting()) |> Links.mature(0, @self)
    assert Links.preferred(links) == Enum.take(@ranked, 3)
    assert links |> dial(0) |> elem(0) == Enum.take(@ranked, 3)
  end

  describe "a stand-in" do
    setup do
      [first, second, third, fourth | _] = @ranked
      links = put_all(links(2), @names, waiting())
      {[^first, ^second], links} = dial(links, 0)
      %{links: links, first: first, second: second, third: third, fourth: fourth}
    end

    test "is the next by rank when a connect fails", context do
      links = put(context.links, context.first, waiting(500, 1).(context.first))
      third = context.third
      assert {[^third], links} = dial(links, 1)

      # It fails too.
      fourth = context.fourth
      links = put(links, third, waiting(500, 1).(third))
      assert {[^fourth], links} = dial(links, 2)
      assert Links.failing(links) == 2
    end

    test "is the next by rank at a nodedown", context do
      links =
        put_all(context.links, [context.first, context.second], fn _ -> {:connected, true} end)

      assert Links.next(links) == nil
      links = put(links, context.first, waiting(200).(context.first))
      third = context.third
      assert {[^third], links} = dial(links, 1)
      assert links |> put(third, {:connected, true}) |> Links.next() == nil
    end

    test "is dialled after a connect has had no outcome for 300 ms", context do
      assert context.links |> Links.observe(299) |> Links.next() == nil
      assert 300 in Links.wakes(context.links)
      third = context.third
      fourth = context.fourth
      assert {[^third, ^fourth], _links} = context.links |> Links.observe(300) |> dial(300)
    end

    test "is dialled although another member has connected to this node", context do
      links = put(context.links, context.third, {:connected, false})
      links = put(links, context.first, waiting(500, 1).(context.first))
      fourth = context.fourth
      assert {[^fourth], _links} = dial(links, 1)
    end

    test "is dialled when a preferred node announces that it leaves", context do
      links =
        put_all(context.links, [context.first, context.second], fn _ -> {:connected, true} end)

      third = context.third
      assert {[^third], _links} = links |> put(context.first, :leaving) |> dial(1)
    end

    test "that is connected is enough while a preferred node that failed is dialled again",
         context do
      links = put(context.links, context.second, {:connected, true})
      links = put(links, context.first, waiting(500, 1).(context.first))
      {[_third], links} = dial(links, 1)
      links = put(links, context.third, {:connected, true})
      links = Links.mature(links, 500, @self)
      assert {[first], links} = dial(links, 500, false)
      assert first == context.first
      assert links |> Links.observe(60_000) |> Links.next() == nil
    end

    test "is dialled after another one failed, although a preferred node is being dialled again" do
      [first, second, third | _] = @ranked
      links = put_all(links(1), @names, waiting())
      {[^first], links} = dial(links, 0)
      links = put(links, first, waiting(500, 1).(first))
      {[^second], links} = dial(links, 1)
      links = links |> put(second, waiting(900, 1).(second)) |> Links.mature(500, @self)
      assert {[^first, ^third], _links} = dial(links, 500, false)
    end

    test "that failed is dialled again only if links are missing, and after members that did not fail",
         context do
      links = put_all(links(2), @names, waiting(100, 1))
      assert Links.next(links) == nil
      assert Links.next_at(links) == 100
      links = Links.mature(links, 100, @self)
      assert links |> dial(100) |> elem(0) == [context.first, context.second]

      connected = put_all(links, [context.first, context.second], fn _ -> {:connected, true} end)
      assert {Links.next(connected), Links.next_at(connected)} == {nil, nil}

      new = List.last(@ranked)
      links = put(links, new, waiting().(new))
      links = put(links, context.first, waiting(900, 2).(context.first))
      assert {[second, ^new], _links} = dial(links, 100)
      assert second == context.second
    end
  end

  describe "release/2" do
    # Both preferred nodes are connected, and so are two stand-ins.
    setup do
      links = put_all(links(2), Enum.take(@ranked, 4), fn _ -> {:connected, true} end)
      %{links: links, stand_ins: @ranked |> Enum.slice(2, 2) |> Enum.reverse()}
    end

    test "gives up one stand-in per second, 60 s after all preferred nodes connected", context do
      [last, other] = context.stand_ins
      links = Links.observe(context.links, 1_000)
      assert Links.wakes(links) == [61_000]
      assert {nil, _links} = Links.release(links, 60_999)
      assert {^last, links} = Links.release(links, 61_000)
      links = put(links, last, {:connected, false})
      assert Links.wakes(links) == [62_000]
      assert {nil, _links} = Links.release(links, 61_999)
      assert {^other, links} = Links.release(links, 62_000)
      links = put(links, other, {:connected, false})
      assert {Links.wakes(links), Links.release(links, 99_000)} == {[], {nil, links}}
    end

    test "starts the 60 s again when a preferred node is lost", context do
      [first | _] = @ranked
      links = Links.observe(context.links, 0)
      links = links |> put(first, waiting(50_100).(first)) |> Links.observe(50_000)
      assert Links.wakes(links) == []
      links = links |> put(first, {:connected, true}) |> Links.observe(51_000)
      assert {nil, _links} = Links.release(links, 110_999)
      assert {name, _links} = Links.release(links, 111_000)
      assert name in context.stand_ins
    end

    test "gives up no link that another node has opened" do
      links = put_all(links(2), @names, fn _ -> {:connected, false} end)
      links = Links.observe(links, 0)
      assert {nil, _links} = Links.release(links, 1_000_000)
    end

    test "gives up a node that is no longer preferred, because a new one is" do
      [first, second, third | _] = @ranked
      links = put_all(links(2), [second, third], fn _ -> {:connected, true} end)
      links = put(links, first, waiting().(first))
      assert Links.preferred(links) == [first, second]
      links = links |> put(first, {:connected, true}) |> Links.observe(0)
      assert {^third, _links} = Links.release(links, 60_000)
    end

    test "does not count the time before interrupt/1", context do
      links = context.links |> Links.observe(0) |> Links.interrupt() |> Links.observe(50_000)
      assert {nil, _links} = Links.release(links, 60_000)
    end

    test "gives up nothing with `release_links: false`" do
      links = put_all(links(2, false), @names, fn _ -> {:connected, true} end)
      links = Links.observe(links, 0)
      assert {Links.wakes(links), Links.release(links, 1_000_000)} == {[], {nil, links}}
    end
  end
end
