defmodule Caravan.Soak.GrowthTest do
  use ExUnit.Case, async: true

  alias Caravan.Test.Soak.Growth

  @flat %{
    atoms: 20_000,
    rss: 90_000_000,
    processes: 50,
    ports: 5,
    descriptors: 50,
    global_backlog: 0
  }

  # A sample every ten seconds.
  defp samples(count, fun),
    do: for(number <- 0..(count - 1), do: {10_000 * number, Map.merge(@flat, fun.(number))})

  test "counts that stay, or grow in the first half of the VM's life only, are no problem" do
    assert Growth.check(samples(20, fn _ -> %{} end)) == []
    assert Growth.check(samples(20, &%{atoms: 20_000 + 1_000 * min(&1, 10)})) == []
  end

  test "a count that grows by more than it may is reported" do
    assert [text] = Growth.check(samples(20, &%{atoms: 20_000 + 100 * &1}))
    assert text =~ ~r/^atoms grew from \d+ to \d+/
    assert ["rss grew" <> _] = Growth.check(samples(20, &%{rss: 90_000_000 + 1_000_000 * &1}))
    assert Growth.check(samples(20, &%{atoms: 20_000 + 10 * &1})) == []
  end

  test "one high sample is no growth" do
    assert Growth.check(samples(20, &%{descriptors: if(&1 == 18, do: 5_000, else: 50)})) == []
  end

  test "a VM that did not live long enough is not checked" do
    assert Growth.check([]) == :too_short
    assert Growth.check(samples(8, &%{atoms: 20_000 + 1_000 * &1})) == :too_short
  end

  test "a VM in which OTP's global has a long message queue is not checked" do
    assert Growth.check(
             samples(20, &%{rss: 90_000_000 + 1_000_000 * &1, global_backlog: 10_000 * &1})
           ) == :global_fault
  end

  test "the first, the middle and the last value of a count are returned" do
    assert Growth.first_middle_last(samples(5, &%{atoms: &1}), :atoms) == {0, 2, 4}
    assert Growth.first_middle_last([], :atoms) == nil
  end
end
