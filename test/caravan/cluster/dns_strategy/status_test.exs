defmodule Caravan.Cluster.DnsStrategy.StatusTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.DnsStrategy.Status
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.Membership.Slots

  @source {"a.test", :srv}
  setup context do
    config = Config.new!(topology: context.test, query: "a.test", node_sname: "app")

    %{
      status: Status.new(context.test, config),
      table: context.test,
      config: config,
      membership: Membership.new(config, 1, 0),
      discovery: Discovery.new(config)
    }
  end

  defp handle(membership, events, later \\ 0) do
    now = System.monotonic_time(:millisecond) + later
    existing_atom? = fn _name -> false end
    env = %{now: now, self: "me@h", existing_atom?: existing_atom?, atoms_available: true}

    Enum.reduce(events, membership, fn event, membership ->
      {_actions, membership} = Membership.handle(membership, event, env)
      membership
    end)
  end

  defp answer(names),
    do:
      {:answer, @source,
       %{endpoints: Map.new(names, &{&1, %Endpoint{}}), ttl: 5_000, complete: true}}

  defp update(context, status, membership, complete \\ false) do
    responded = Membership.responded?(membership)
    Status.update(status, membership, context.discovery, responded, complete)
  end

  defp read(context) do
    {:ok, status} = Status.read(context.table)
    status
  end

  # Returns the id and the text of the first missing node.
  defp finding(context, status, membership) do
    _ = update(context, status, membership)
    %{missing: [%{id: id, finding: finding} | _]} = read(context)
    {id, finding}
  end

  test "a node is a link, is missing, or is connected although DNS does not name it", context do
    membership =
      handle(context.membership, [{:nodeup, "a@h"}, {:nodeup, "x@h"}, answer(["a@h", "b@h"])])

    _ = update(context, context.status, membership)

    assert %{members: ["a@h", "b@h"], connected: ["a@h"]} = read(context)
    assert read(context).links == %{preferred: ["a@h"], stand_ins: []}
    assert [%{node: "b@h", id: nil, finding: nil, since_ms: since}] = read(context).missing
    assert since in 0..60_000
  end

  test "a member that has vanished from DNS stays connected", context do
    membership = handle(context.membership, [answer(["a@h", "b@h"]), {:nodeup, "a@h"}])
    membership = handle(membership, [answer(["b@h"])], context.config.keep + 1)
    _ = update(context, context.status, membership)
    assert %{members: ["b@h"], connected: ["a@h"]} = read(context)
    assert read(context).links == %{preferred: [], stand_ins: []}
  end

  test "with a limit of links, only preferred members are missing", context do
    config = Config.new!(query: "a.test", node_sname: "app", links: 1)
    names = ["a@h", "b@h", "c@h"]
    membership = config |> Membership.new(1, 0) |> handle([answer(names)])
    [preferred] = Slots.names(membership.slots)
    membership = handle(membership, [{:connect_result, preferred, {:error, :unreachable}}])
    [stand_in] = Slots.names(membership.slots)
    [other] = names -- [preferred, stand_in]

    up = handle(membership, [{:nodeup, stand_in}, {:nodeup, other}])
    status = update(context, context.status, up)
    assert %{members: ^names, missing: [%{node: ^preferred}]} = read(context)
    assert read(context).connected == Enum.sort([stand_in, other])
    assert read(context).links == %{preferred: [], stand_ins: [stand_in]}
    assert Membership.missing(up) == 1

    up = handle(up, [{:nodedown, other}, {:nodeup, preferred}])
    _ = update(context, Status.changed(status), up)
    assert %{connected: [_, _], missing: []} = read(context)
    assert read(context).links == %{preferred: [preferred], stand_ins: [stand_in]}
    assert Membership.missing(up) == 0
  end

  describe "the finding of a missing node" do
    setup context do
      membership = handle(context.membership, [answer(["a@h", "b@h"])])
      %{membership: membership, status: update(context, context.status, membership)}
    end

    test "is the last one", %{status: status} = context do
      refused = {:error, {:probe, {:refused, "1.2.3.4:5"}, 0}}
      silent = {:error, {:probe, {:no_reply, "1.2.3.4:5"}, 0}}
      status = Status.connect_failed(status, "a@h", elem(refused, 1))

      assert {"peer.refused", "nothing listens on 1.2.3.4:5" <> _} =
               finding(context, status, context.membership)

      status = Status.connect_failed(status, "a@h", elem(silent, 1))
      assert {"peer.silent", _} = finding(context, status, context.membership)
    end

    test "is that of a diagnosis until a probe or a connect finds something else",
         %{status: status} = context do
      status = Status.job_ended(status, {:connect, "a@h"}, {:ok, false})

      assert {"peer.connected", "not reachable" <> _} =
               finding(context, status, context.membership)

      outcome = {:ok, {:accepted, "1.2.3.4:5"}}
      status = Status.job_ended(status, {:diagnose, "a@h", :unreachable}, outcome)

      status = Status.job_ended(status, {:connect, "a@h"}, {:ok, false})
      status = Status.job_ended(status, {:connect, "a@h"}, {:error, :timeout})

      assert {"peer.drained", "1.2.3.4:5 accepts" <> _} =
               finding(context, status, context.membership)

      status = Status.job_ended(status, {:connect, "a@h"}, {:ok, :ignored})

      assert finding(context, status, context.membership) ==
               {"node.alive", "this node is not alive"}
    end

    test "is that the node has announced that it leaves", context do
      membership =
        handle(context.membership, [
          {:nodeup, "a@h"},
          {:peer_draining, "a@h"},
          {:nodedown, "a@h"}
        ])

      status = Status.changed(context.status)
      assert {"peer.drained", _} = finding(context, status, membership)
    end

    test "ends when the node is connected", %{status: status} = context do
      status = Status.job_ended(status, {:connect, "a@h"}, {:ok, false})
      status = update(context, status, context.membership)
      membership = handle(context.membership, [{:nodeup, "a@h"}])
      status = update(context, status, membership)
      membership = handle(membership, [{:nodedown, "a@h"}])
      assert finding(context, status, membership) == {nil, nil}
    end
  end

  describe "the nodes" do
    setup do
      %{names: for(n <- 1..8_000, do: "a-#{n}@h")}
    end

    # In a large topology, a walk over the peers at each change would make a join take quadratic time.
    test "of a large topology are written rarely, the numbers for ready?/2 at once", context do
      membership =
        handle(
          %{context.membership | options: %{context.membership.options | max_nodes: 16_384}},
          [answer(context.names)]
        )

      status = update(context, context.status, membership)
      assert length(read(context).missing) == 8_000

      {membership, status} =
        for name <- context.names, reduce: {membership, status} do
          {membership, status} ->
            membership = handle(membership, [{:nodeup, name}])
            {membership, update(context, status, membership)}
        end

      assert Status.ready?(context.table, 8_000)
      assert_receive {Status, :write} = message, 5_000
      status = Status.handle(status, message)
      refute_received {Status, :write}
      status = update(context, status, membership)
      assert length(read(context).links.preferred) == 8_000

      # Without a change, there is no further write.
      _ = update(context, status, membership)
      refute_receive {Status, :write}, 300
    end

    # Many VMs of one machine may join at the same time. Each write takes all nodes.
    test "are written once in 80 ms while a node joins 60 others", context do
      names = Enum.take(context.names, 60)
      membership = handle(context.membership, [answer(names)])
      before = System.monotonic_time(:millisecond)
      status = update(context, context.status, membership)

      {membership, status} =
        for name <- names, reduce: {membership, status} do
          {membership, status} ->
            membership = handle(membership, [{:nodeup, name}])
            {membership, update(context, status, membership)}
        end

      assert_receive {Status, :write} = message, 1_000
      assert System.monotonic_time(:millisecond) - before >= 80
      status = Status.handle(status, message)
      _ = update(context, status, membership)
      assert length(read(context).connected) == 60
    end
  end

  test "another strategy reads whether the peer table has all nodes of the topology", context do
    refute Status.complete?(context.table)
    status = update(context, context.status, context.membership, true)
    assert Status.complete?(context.table)
    _ = update(context, status, context.membership, false)
    refute Status.complete?(context.table)
    refute Status.complete?(:not_a_strategy)
  end

  test "ready counts the nodes that were connected at the same time since the last drain",
       context do
    {table, status} = {context.table, context.status}
    refute Status.ready?(table, 0)
    up = handle(context.membership, [{:nodeup, "a@h"}, answer(["a@h", "b@h"])])
    status = update(context, status, up)
    assert Status.ready?(table, 1)
    refute Status.ready?(table, 2)

    down = handle(up, [{:nodedown, "a@h"}, {:nodeup, "b@h"}])
    status = update(context, status, down)
    assert Status.ready?(table, 1)
    refute Status.ready?(table, 2)

    drained = handle(down, [:drain])
    status = update(context, status, drained)
    refute Status.ready?(table, 0)
    assert %{drained: true, ready: false} = read(context)

    resumed = handle(drained, [{:nodedown, "b@h"}, :resume])
    _ = update(context, status, resumed)
    assert Status.ready?(table, 0)
    refute Status.ready?(table, 1)
  end

  test "the status can be encoded as JSON", context do
    membership = handle(context.membership, [answer(["a@h", "b@h"]), {:nodeup, "a@h"}])
    status = Status.connect_failed(context.status, "b@h", {:crashed, :badarg})
    _ = update(context, status, membership)
    assert json?(read(context))
  end

  defp json?(map) when is_map(map),
    do: Enum.all?(map, fn {key, value} -> is_atom(key) and json?(value) end)

  defp json?(list) when is_list(list), do: Enum.all?(list, &json?/1)
  defp json?(value), do: is_binary(value) or is_integer(value) or value in [nil, true, false]

  test "a message of another module is unknown", %{status: status} do
    assert Status.handle(status, :tick) == :unknown
  end

  test "with a limited number of links, only preferred members are missing, and :links nodes are enough",
       context do
    key = :"#{context.test} limited"
    config = Config.new!(query: "a.test", node_sname: "app", links: 2)
    status = Status.new(key, config)
    membership = config |> Membership.new(1, 0) |> handle([answer(~w(a@h b@h c@h d@h))])
    status = update(context, status, membership)
    {:ok, read} = Status.read(key)
    assert read.members == ~w(a@h b@h c@h d@h)
    assert [%{node: first}, %{node: second}] = read.missing
    assert Membership.missing(membership) == 2
    refute Status.ready?(key, 3)

    [other | _] = read.members -- [first, second]
    events = for name <- [first, second, other], do: {:nodeup, name}
    membership = handle(membership, events)
    update(context, %{status | written_at: nil}, membership)
    {:ok, read} = Status.read(key)
    assert {read.missing, read.connected} == {[], Enum.sort([first, second, other])}
    assert read.links == %{preferred: Enum.sort([first, second]), stand_ins: []}
    assert Membership.missing(membership) == 0
    assert Status.ready?(key, 3)
  end
end
