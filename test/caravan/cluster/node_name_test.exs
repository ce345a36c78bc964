defmodule Caravan.Cluster.NodeNameTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.NodeName
  alias Caravan.Dns.Service

  defp build(template, type, record) do
    {:ok, template} = NodeName.parse_template(template, type)
    NodeName.build(template, "app", record)
  end

  defp service(port, target), do: %Service{priority: 0, weight: 0, port: port, target: target}

  test "an SRV record has values for {port}, {host} and {host_label}" do
    record = service(4001, "node1.example.com")
    default = NodeName.default_template(:srv, :name)

    assert build(default, :srv, record) == {:ok, "app-4001@node1.example.com"}
    assert build("{name}@{host}", :srv, record) == {:ok, "app@node1.example.com"}
    assert build("{host_label}@{host}", :srv, record) == {:ok, "node1@node1.example.com"}
    assert build("{name}-{port}@127.0.0.1", :srv, record) == {:ok, "app-4001@127.0.0.1"}
    assert build("{name}@{host_label}", :srv, service(1, "node1")) == {:ok, "app@node1"}
  end

  test "own_basename/2 removes the port from the own name only if the template has {port}" do
    own = fn self, text ->
      {:ok, template} = NodeName.parse_template(text, :srv)
      NodeName.own_basename(self, template)
    end

    for self <- ["app-4001@a", "app4001@a", "app@a", "app-1@a"] do
      assert own.(self, "{name}-{port}@{host}") == "app"
    end

    assert own.("app-4001@a", "{name}@{host}") == "app-4001"
    assert own.("my-app2-4001@a", "{name}-{port}@{host}") == "my-app2"
  end

  test "host_begins_with_target?/1 is true for a template whose host begins with {host} or {host_label}" do
    begins? = fn text ->
      {:ok, template} = NodeName.parse_template(text, :srv)
      NodeName.host_begins_with_target?(template)
    end

    for text <- ["{name}-{port}@{host}", "{name}@{host_label}", "a@{host_label}.internal"],
        do: assert(begins?.(text))

    for text <- ["{name}@n-{host_label}", "{host}@a.test", "{name}-{port}@a.test"],
        do: refute(begins?.(text))
  end

  test "an address of either family is the value of {ip}" do
    assert build(NodeName.default_template(:a, :name), :a, {10, 0, 0, 7}) == {:ok, "app@10.0.0.7"}

    assert build(NodeName.default_template(:aaaa, :name), :aaaa, {0xFDAA, 0, 1, 0, 0, 0, 0, 2}) ==
             {:ok, "app@fdaa:0:1::2"}
  end

  test "a name that is not a valid node name is an error" do
    targets = [
      "",
      "a@b",
      "a b",
      "a\0b",
      "a\nb",
      "node1.test\n",
      "n\\000de",
      "nöde",
      <<255>>,
      String.duplicate("a", 300)
    ]

    for target <- targets do
      assert {:error, text} = build("{name}-{port}@{host}", :srv, service(4001, target))
      assert String.valid?(text)
    end
  end

  test "a name may be as long as an atom" do
    target = String.duplicate("a", 255 - byte_size("app-4001@"))
    template = "{name}-{port}@{host}"
    assert {:ok, name} = build(template, :srv, service(4001, target))
    assert byte_size(name) == 255
    assert {:error, _} = build(template, :srv, service(4001, target <> "a"))
  end

  test "a name that is refused creates no atom" do
    {:error, _} = build("{name}@{host}", :srv, service(1, "refused by node-name-test"))

    assert_raise ArgumentError, fn ->
      String.to_existing_atom("app@refused by node-name" <> "-test")
    end
  end

  test "aliases/1 has the name with its host in lower case" do
    assert NodeName.aliases("App-1@Node1.Test") == ["App-1@Node1.Test", "App-1@node1.test"]
    assert NodeName.aliases("App-1@node1.test") == ["App-1@node1.test"]
    assert NodeName.aliases("nonode@nohost") == ["nonode@nohost"]
  end
end
