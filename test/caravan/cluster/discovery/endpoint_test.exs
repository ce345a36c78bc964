defmodule Caravan.Cluster.Discovery.EndpointTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Dns.Service

  defp config(options \\ []),
    do: Config.new!(Keyword.merge([query: "app.test", node_sname: "app"], options))

  defp srv(port, target, addresses \\ []) do
    %Service{priority: 0, weight: 0, port: port, target: target, addresses: addresses}
  end

  test "with :allow, a target without an address is left out" do
    records = [srv(1, "a.test", [{10, 0, 0, 1}]), srv(2, "b.test")]
    allow = config(allow: ["10.0.0.0/8"])
    assert {names, [reason]} = Endpoint.from_records(records, :srv, ["app"], allow)
    assert Map.keys(names) == ["app-1@a.test"]
    assert reason == "app-2@b.test has no address that :allow accepts"

    # With a fixed host in the template, addresses of the target do not matter.
    fixed = config(allow: ["10.0.0.0/8"], node_name: "{name}-{port}@127.0.0.1")
    assert {%{"app-2@127.0.0.1" => _}, []} = Endpoint.from_records(records, :srv, ["app"], fixed)
  end

  test "with several basenames, a record makes one node of each, and a bad record is left out once" do
    ip = {10, 0, 0, 1}

    assert Endpoint.from_records([ip], :a, ["app-1", "web-2"], config(type: :a)) ==
             {%{
                "app-1@10.0.0.1" => %Endpoint{addresses: [ip]},
                "web-2@10.0.0.1" => %Endpoint{addresses: [ip]}
              }, []}

    assert {none, [_reason]} =
             Endpoint.from_records([srv(1, "a@b")], :srv, ["app", "web"], config())

    assert none == %{}
  end

  test "an endpoint has a port only with ports: :srv" do
    records = [srv(25_017, "n1.test")]

    assert {%{"app-25017@n1.test" => %Endpoint{ports: [], addresses: []}}, []} =
             Endpoint.from_records(records, :srv, ["app"], config())

    assert {%{"app@n1.test" => %Endpoint{ports: [25_017], addresses: []}}, []} =
             Endpoint.from_records(records, :srv, ["app"], config(ports: :srv))
  end

  test "several records of one name give all their ports, in ascending order" do
    for records <- [[srv(2, "n.test"), srv(1, "n.test")], [srv(1, "n.test"), srv(2, "n.test")]] do
      assert {%{"app@n.test" => %Endpoint{ports: [1, 2], addresses: []}}, []} =
               Endpoint.from_records(records, :srv, ["app"], config(ports: :srv))
    end
  end

  test "port 0 is ignored" do
    assert {%{"app@n.test" => %Endpoint{ports: [], addresses: []}}, []} =
             Endpoint.from_records([srv(0, "n.test")], :srv, ["app"], config(ports: :srv))
  end

  test "an endpoint has addresses only if the host of its name comes from the record" do
    records = [srv(1, "n.test", [{10, 0, 0, 2}, {10, 0, 0, 1}])]

    assert {%{"app-1@n.test" => %Endpoint{ports: [], addresses: addresses}}, []} =
             Endpoint.from_records(records, :srv, ["app"], config())

    assert addresses == [{10, 0, 0, 2}, {10, 0, 0, 1}]

    fixed = config(node_name: "{name}-{port}@localhost")

    assert {%{"app-1@localhost" => %Endpoint{ports: [], addresses: []}}, []} =
             Endpoint.from_records(records, :srv, ["app"], fixed)

    ip = {0xFDAA, 0, 0, 0, 0, 0, 0, 1}

    assert {%{"app@fdaa::1" => %Endpoint{ports: [], addresses: [^ip]}}, []} =
             Endpoint.from_records([ip], :aaaa, ["app"], config(type: :aaaa))
  end

  test "addresses of several records of one name are merged, each once, in the order of the answer" do
    [a, b, c] = for n <- 1..3, do: {10, 0, 0, n}
    records = [srv(1, "n.test", [c, a]), srv(1, "n.test", [a, b])]

    assert {%{"app-1@n.test" => endpoint}, []} =
             Endpoint.from_records(records, :srv, ["app"], config())

    assert endpoint.addresses == [c, a, b]
  end

  test "the order of addresses makes no difference, the addresses and ports do" do
    [a, b] = for n <- 1..2, do: {10, 0, 0, n}
    endpoint = %Endpoint{ports: [1], addresses: [a, b]}
    assert Endpoint.same?(endpoint, %{endpoint | addresses: [b, a]})
    refute Endpoint.same?(endpoint, %{endpoint | addresses: [a]})
    refute Endpoint.same?(endpoint, %{endpoint | ports: [1, 2]})
  end

  test "the reason why a record is left out is returned" do
    assert {names, [reason]} =
             Endpoint.from_records([srv(1, "a@b"), srv(2, "n.test")], :srv, ["app"], config())

    assert Map.keys(names) == ["app-2@n.test"]
    assert reason =~ "is not a valid node name"
  end
end
