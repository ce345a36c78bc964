defmodule Caravan.Cluster.OwnNameTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.OwnName

  @address {10, 0, 0, 5}
  @dns "app-4001@node1.example.com"

  defp own(name, port \\ 4001),
    do: %{name: name, port: port, addresses: [@address, {127, 0, 0, 1}]}

  # In the tests, the digits of a name are its port.
  defp port_of(name) do
    [digits | _] = Regex.run(~r/\d+(?=@)/, name) || ["4370"]
    String.to_integer(digits)
  end

  defp endpoints(names) when is_list(names), do: Map.new(names, &{&1, %Endpoint{}})

  defp endpoints(names),
    do: Map.new(names, fn {name, ips} -> {name, %Endpoint{addresses: ips}} end)

  defp compare(own, endpoints) do
    assert own |> OwnName.others(endpoints, &port_of/1) |> Enum.take(1) ==
             (case OwnName.compare(own, endpoints, &port_of/1) do
                {called, name} when called in [:called, :also_called] -> [name]
                _ -> []
              end)

    OwnName.compare(own, endpoints, &port_of/1)
  end

  test "a node with a record of its name is named" do
    assert compare(own(@dns), endpoints([@dns, "app-4001@node2.example.com"])) == :named
    # A capital letter is reported when the strategy starts.
    assert compare(own("app-4001@Node1.example.com"), endpoints([@dns])) == :named
  end

  test "a record with the address and the port of this node calls it by another name" do
    record = endpoints(%{@dns => [@address]})

    for name <- ["app-4001@localhost", "app-4001@127.0.0.1", "app-4001@other.example.com"],
        do: assert(compare(own(name), record) == {:called, @dns})

    assert compare(own("app-4001@localhost"), endpoints(%{@dns => [{10, 0, 0, 6}]})) == :not_named
  end

  test "a record with the host and the port of this node calls it by another name" do
    for name <- [
          "myapp-4001@node1.example.com",
          "app-4001@node1",
          "app-4001@node1.example.com.",
          "myapp-4001@NODE1"
        ],
        do: assert(compare(own(name), endpoints([@dns])) == {:called, @dns})

    assert compare(own("app-4001@node"), endpoints([@dns])) == :not_named
  end

  test "the port of an SRV record counts before the one of the name" do
    record = %{"app@node1" => %Endpoint{ports: [25_017]}}
    assert compare(own("myapp@node1", 25_017), record) == {:called, "app@node1"}
    assert compare(own("myapp@node1", 4370), record) == {:perhaps, "app@node1"}
  end

  test "a record with another port on this host may be meant for this node, or for another one" do
    assert compare(own("app-4001@10.0.0.5"), endpoints(%{"app@10.0.0.5" => [@address]})) ==
             {:perhaps, "app@10.0.0.5"}

    assert compare(own(@dns), endpoints(["app-4002@node1.example.com"])) ==
             {:perhaps, "app-4002@node1.example.com"}

    # Without Caravan.Epmd, ports are not known.
    assert compare(own("web@node1", nil), endpoints(["app@node1"])) == {:perhaps, "app@node1"}
  end

  test "if DNS has the name of this node and another one for it, the other one is found" do
    both = endpoints(%{@dns => [@address], "app-4001@10.0.0.5" => [@address]})
    assert compare(own(@dns), both) == {:also_called, "app-4001@10.0.0.5"}
    assert compare(own("app-4001@10.0.0.5"), both) == {:also_called, @dns}
    # Another node on this host.
    assert compare(own(@dns), endpoints([@dns, "app-4002@node1.example.com"])) == :named
  end

  test "the most similar name comes first" do
    names = ["web-4001@node1.example.com", "myapp-4001@node1.example.com", "myapp-4001@node1"]
    own = own("myapp-4001@node1.")
    assert compare(own, endpoints(names)) == {:called, "myapp-4001@node1"}
  end

  test "a node that is not registered is not named" do
    assert compare(own(@dns), %{}) == :not_named
    assert compare(own(@dns), endpoints(["app-4001@node2.example.com"])) == :not_named
  end

  test "differences/2 returns in what two names differ" do
    for {other, differences} <- [
          {"app-4001@node1.example.com", []},
          {"myapp-4001@node1.example.com", [:basename]},
          {"app4002@node1.example.com", [:port]},
          {"app@node1.example.com", [:port]},
          {"app-4001@node2.example.com", [:host]},
          {"app-4001@Node1.example.com", [:case]},
          {"app-4001@node1.example.com.", [:trailing_dot]},
          {"web-1@localhost", [:basename, :port, :host]}
        ],
        do: assert(OwnName.differences(@dns, other) == differences)
  end

  test "the text names both names and the fix" do
    own = own("myapp-4001@node1.example.com")

    assert OwnName.text({:called, @dns}, own) ==
             "DNS calls this node app-4001@node1.example.com, but its name is myapp-4001@node1.example.com. Peers dial " <>
               "the first name and are refused. Set RELEASE_NODE=app-4001@node1.example.com, or node_sname: \"myapp\" " <>
               "on all nodes"

    text = OwnName.text({:called, @dns}, own("app-4001@localhost"))
    # With a short name, the node would not start.
    assert text =~
             ~r/are refused\. Set RELEASE_DISTRIBUTION=name and RELEASE_NODE=app-4001@node1\.example\.com$/

    text = OwnName.text({:perhaps, "app@10.0.0.5"}, own("app-4001@10.0.0.5"))

    assert text =~
             "Set RELEASE_NODE=app@10.0.0.5, or let the SRV record or :node_name give the port"

    assert OwnName.text(:not_named, own) =~
             "DNS does not name this node, myapp-4001@node1.example.com."

    assert OwnName.text({:also_called, @dns}, own) =~
             "DNS calls this node app-4001@node1.example.com, too."
  end
end
