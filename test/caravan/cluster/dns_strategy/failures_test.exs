defmodule Caravan.Cluster.DnsStrategy.FailuresTest do
  use ExUnit.Case, async: true

  alias Caravan.Cluster.DnsStrategy.Failures

  @name "app-4001@node1.test"
  @where "10.0.0.1:4001"

  defp failed(failures \\ Failures.new(), reason),
    do: Failures.connect_failed(failures, @name, reason)

  test "the last failure of a node counts, with the id and the text of its check" do
    assert Failures.of(Failures.new(), @name) == nil
    failures = failed(:timeout)
    assert {"peer.connected", "no result within :connect_timeout"} = Failures.of(failures, @name)
    failures = failed(failures, {:probe, {:refused, @where}, 0})
    assert {"peer.refused", text} = Failures.of(failures, @name)
    assert text =~ @where
    assert {"peer.connected", _text} = failures |> failed(:unreachable) |> Failures.of(@name)
  end

  test "a failed handshake that a diagnosis has found stays, unless a later attempt says more" do
    failures = Failures.diagnosed(Failures.new(), @name, {:cookie, @where})
    assert {"peer.cookie", _text} = Failures.of(failures, @name)
    for reason <- [:unreachable, :timeout], do: assert(failed(failures, reason) == failures)

    assert {"peer.refused", _} =
             Failures.of(failed(failures, {:probe, {:refused, @where}, 0}), @name)

    assert {"node.alive", _} = Failures.of(failed(failures, :not_distributed), @name)
  end

  test "only the failures of the nodes that are kept stay" do
    failures = Failures.connect_failed(failed(:timeout), "b@h", :timeout)
    assert failures |> Failures.keep(["b@h", "c@h"]) |> Failures.of(@name) == nil
    assert failures |> Failures.keep(["b@h", "c@h"]) |> Failures.of("b@h") != nil
  end
end
