defmodule Caravan.Cluster.Discovery.TargetAddressesTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Discovery.TargetAddresses
  alias Caravan.Dns.Service

  @ip {10, 0, 0, 1}

  defp service(target, addresses, ttl \\ nil) do
    %Service{
      priority: 0,
      weight: 0,
      port: 4001,
      target: target,
      addresses: addresses,
      addresses_ttl: ttl
    }
  end

  defp add(targets, services, now), do: TargetAddresses.add(targets, services, now)
  defp known(targets, now), do: targets |> TargetAddresses.known(now) |> Enum.sort()

  # Two targets, looked up at the time 0, with TTLs of 60 and 20 seconds.
  defp two do
    services = [service("a.test", [@ip], 60), service("b.test", [@ip], 20)]
    {^services, targets} = add(TargetAddresses.new(), services, 0)
    targets
  end

  test "a target needs no lookup until its own TTL is over" do
    targets = two()
    assert known(targets, 19_999) == ["a.test", "b.test"]
    assert known(targets, 20_000) == ["a.test"]
    assert known(targets, 60_000) == []
  end

  test "a record without addresses gets those of an earlier answer" do
    {services, targets} = add(two(), [service("a.test", []), service("c.test", [])], 1_000)
    assert [%{addresses: [@ip]}, %{addresses: []}] = services
    # The TTL counts from the lookup.
    assert known(targets, 59_999) == ["a.test"]
    assert known(targets, 60_000) == []
  end

  test "addresses of an answer replace the earlier ones" do
    {[service], targets} = add(two(), [service("b.test", [{10, 0, 0, 2}], 5)], 1_000)
    assert service.addresses == [{10, 0, 0, 2}]
    assert "b.test" in known(targets, 5_999)
    refute "b.test" in known(targets, 6_000)
  end

  test "the version grows when an address changes, comes or goes, and is nil when an address must be added again" do
    targets = two()
    version = TargetAddresses.version(targets, 0)

    for same <- [service("a.test", [@ip], 5), service("a.test", []), service("c.test", [])] do
      {_, targets} = add(targets, [same], 1_000)
      assert TargetAddresses.version(targets, 1_000) == version
    end

    for change <- [service("a.test", [{10, 0, 0, 2}], 60), service("c.test", [@ip], 60)] do
      {_, targets} = add(targets, [change], 1_000)
      assert TargetAddresses.version(targets, 1_000) == version + 1
    end

    # 30 seconds after the TTL of b.test, which is 20 seconds.
    assert TargetAddresses.version(targets, 49_999) == version
    assert TargetAddresses.version(targets, 50_000) == nil
    {_, targets} = add(targets, [service("a.test", [])], 80_000)
    assert TargetAddresses.version(targets, 80_000) == version + 1
  end

  test "addresses are used for 60 seconds after their TTL while lookups fail, and not longer" do
    {[service], targets} = add(two(), [service("b.test", [])], 79_999)
    assert service.addresses == [@ip]
    assert known(targets, 79_999) == []
    {[service], _targets} = add(targets, [service("b.test", [])], 80_000)
    assert service.addresses == []
  end

  test "the target of a node that cannot be reached is looked up again after ten seconds" do
    targets = TargetAddresses.unreachable(two(), "a.test")
    assert "a.test" in known(targets, 9_999)
    refute "a.test" in known(targets, 10_000)

    # An answer without its address changes nothing.
    {_, targets} = add(targets, [service("a.test", [])], 11_000)
    refute "a.test" in known(targets, 11_000)

    # After its lookup the TTL counts again.
    {_, targets} = add(targets, [service("a.test", [@ip], 60)], 12_000)
    assert "a.test" in known(targets, 71_999)
  end

  test "a host that has only the first label of a target means this target" do
    for host <- ["a", "a.internal"] do
      assert two() |> TargetAddresses.unreachable(host) |> known(10_000) == ["b.test"]
    end
  end

  test "a TTL is at most a minute" do
    {_, targets} = add(TargetAddresses.new(), [service("a.test", [@ip], 86_400)], 0)
    assert known(targets, 59_999) == ["a.test"]
    assert known(targets, 60_000) == []
  end

  test "the hosts of unreachable nodes are forgotten if they belong to no target" do
    hosts = for n <- 1..100, do: "other#{n}.test"
    targets = Enum.reduce(hosts, two(), &TargetAddresses.unreachable(&2, &1))
    {_, targets} = add(targets, [service("a.test", [@ip], 60)], 90_000)
    {_, only} = add(TargetAddresses.new(), [service("a.test", [@ip], 60)], 90_000)
    assert %{targets | version: only.version} == only
    assert TargetAddresses.unreachable(TargetAddresses.new(), "x") == TargetAddresses.new()
  end

  test "there are at most as many targets as an answer has records" do
    many = for n <- 1..4_096, do: service("n#{n}.test", [@ip], 60)
    {_, targets} = add(TargetAddresses.new(), many, 0)
    assert length(known(targets, 0)) == 4_096
    {_, targets} = add(targets, [service("a.test", [@ip], 60)], 1)
    assert known(targets, 1) == ["a.test"]
  end
end
