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

  test "counts that stay, or grow before the middle of the VM's life, are flat" do
    assert Growth.judge(samples(20, fn _ -> %{} end)) == []
    assert Growth.judge(samples(20, &%{atoms: 20_000 + 1_000 * min(&1, 10)})) == []
  end

  test "a count that grows by more than it may is reported" do
    assert [text] = Growth.judge(samples(20, &%{atoms: 20_000 + 100 * &1}))
    assert text =~ ~r/^atoms grew from \d+ to \d+/
    assert ["rss grew" <> _] = Growth.judge(samples(20, &%{rss: 90_000_000 + 1_000_000 * &1}))
    assert Growth.judge(samples(20, &%{atoms: 20_000 + 10 * &1})) == []
  end

  test "one high sample is no growth" do
    assert Growth.judge(samples(20, &%{descriptors: if(&1 == 18, do: 5_000, else: 50)})) == []
  end

  test "a VM that did not live long enough is not judged" do
    assert Growth.judge([]) == :short
    assert Growth.judge(samples(8, &%{atoms: 20_000 + 1_000 * &1})) == :short
  end

  test "a VM in which OTP's global loops is not judged" do
    assert Growth.judge(
             samples(20, &%{rss: 90_000_000 + 1_000_000 * &1, global_backlog: 10_000 * &1})
           ) == :otp
  end

  test "the course of a count is its first, middle and last value" do
    assert Growth.course(samples(5, &%{atoms: &1}), :atoms) == {0, 2, 4}
    assert Growth.course([], :atoms) == nil
  end
end
