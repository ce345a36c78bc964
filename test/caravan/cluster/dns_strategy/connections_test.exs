defmodule Caravan.Cluster.DnsStrategy.ConnectionsTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.DnsStrategy.Connections

  @name "app-4001@node1.test"

  # Returns what is logged at the end of the diagnosis of a node that is not connected.
  defp logged(finding) do
    # A node that was dialled has an atom.
    _ = String.to_atom(@name)
    config = Config.new!(query: "app.test", node_sname: "app")

    capture_log(fn ->
      assert [] ==
               Connections.finished(
                 {:diagnose, @name, :unreachable},
                 {:ok, finding},
                 0,
                 config,
                 fn @name -> false end
               )
    end)
  end

  test "a diagnosis of a failed handshake is logged" do
    assert logged({:accepted, "10.0.0.1:4001"}) =~
             "10.0.0.1:4001 accepts, but the handshake fails"
  end

  test "a diagnosis does not repeat what the probe of another address logs" do
    for finding <- [{:refused, "10.0.0.2:4001"}, {:no_reply, "10.0.0.2:4001"}] do
      log = logged(finding)
      assert log =~ "cannot connect to #{@name}: not reachable, or it refused the connection"
      refute log =~ "10.0.0.2"
    end
  end
end
