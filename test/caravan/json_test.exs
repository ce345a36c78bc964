defmodule Caravan.JsonTest do
  use ExUnit.Case, async: true

  alias Caravan.Test.Cluster
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag(:jq)
  @moduletag if Code.ensure_loaded?(:json), do: [], else: [skip: "OTP 27 has the module :json"]

  test "the report, the status and the map are JSON that jq reads" do
    node = Cluster.start_alone(name: PeerNode.name("app"))
    strategy = [query: ["a.test", "b.test"], node_sname: "app", nameservers: ["127.0.0.1:9"]]
    :ok = PeerNode.call(node, Cluster, :run_strategy, [strategy])

    report = PeerNode.call(node, Caravan.Doctor, :report, [[]])
    {:ok, status} = PeerNode.call(node, Caravan.Cluster, :status, [:caravan])
    map = PeerNode.call(node, Caravan, :map, [[format: :data]])

    alive = ~S/.checks[] | select(.id == "node.alive") | [.seen, .topology, .status]/
    assert jq(report, alive) == ~s(["#{node.name}",null,"ok"]\n)

    assert jq(report, ".counts | add") == "#{length(report.checks)}\n"
    assert jq(status, "[.topology, .drained, (.sources | length)]") == ~s(["caravan",false,2]\n)
    assert jq(map, "[.node, .nodes[0].replied]") == ~s(["#{node.name}",true]\n)
  end

  defp jq(term, filter) do
    # The module :json is called by apply/3, because OTP 25 and 26 do not have it. By itself, it encodes nil as "nil".
    encoder = fn
      nil, _encoder -> "null"
      other, encoder -> apply(:json, :encode_value, [other, encoder])
    end

    file = Path.join(System.tmp_dir!(), "json-" <> Base.encode16(:rand.bytes(6), case: :lower))
    on_exit(fn -> File.rm(file) end)
    File.write!(file, apply(:json, :encode, [term, encoder]))
    {output, 0} = System.cmd("jq", ["-c", filter, file], stderr_to_stdout: true)
    output
  end
end
