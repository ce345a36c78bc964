defmodule Caravan.Dns.MemoryTest do
  # Not async: it takes all the CPU there is for some seconds. bench/memory.exs does a million.
  use ExUnit.Case

  # However many lookups and however they end, the process does not grow. In a VM of its own, so that no
  # other test counts.

  alias Caravan.Test.Knot
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag(:knotd)

  @limit 5 * 1_048_576
  @warm_up 8_000
  # Of each kind: 300 octets lost in each lookup would be over the limit.
  @lookups 50_000

  # `numbers` is 1..n; the VM's processes are new each time, so what is left is the library's.
  @run """
  numbers
  |> Enum.chunk_every(div(Enum.count(numbers), 16))
  |> Enum.map(fn chunk -> Task.async(fn -> Enum.each(chunk, ask) end) end)
  |> Task.await_many(:infinity)

  Caravan.Test.OsResources.rss()
  """

  @kinds [
    answered:
      ~S[fn n -> {:ok, _} = Caravan.Dns.lookup("app#{rem(n, 100)}.memory.test", :srv, options) end],
    unanswered:
      ~S[fn n -> {:error, _} = Caravan.Dns.lookup("none#{n}.other.test", :srv, options) end],
    cancelled: ~S"""
    fn n ->
      {:ok, ref} = Caravan.Dns.lookup_async("app#{n}.memory.test", :srv, options)
      Caravan.Dns.cancel(ref) || receive do: ({^ref, _} -> :ok)
    end
    """,
    orphaned: ~S"""
    fn n ->
      {pid, ref} = spawn_monitor(fn -> Caravan.Dns.lookup_async("app#{n}.memory.test", :srv, options) end)
      receive do: ({:DOWN, ^ref, _, ^pid, _} -> :ok)
    end
    """
  ]

  setup_all do
    records = for n <- 1..3, do: "* 60 SRV 0 0 #{4_000 + n} node#{n}"
    knot = start_supervised!({Knot, zone: "memory.test", records: records})
    %{options: [nameservers: [Knot.address(knot)], timeout: 30_000]}
  end

  for {kind, ask} <- @kinds do
    test "of lookups that are #{kind}", %{options: options} do
      node = PeerNode.start!(epmd: false)
      run = &PeerNode.eval(node, "ask = #{unquote(ask)}\n" <> @run, options: options, numbers: &1)
      before = run.(1..@warm_up)
      samples = for part <- 1..5, do: run.(part_of(part))

      # A leak grows with every part. The VM itself takes a large piece at once, and gives it back.
      steps = Enum.zip_with(tl(samples), samples, &(&1 - &2))
      growth = Enum.sum(steps) - Enum.max(steps)
      assert growth < @limit, "grew by #{growth} bytes: #{inspect([before | samples])}"
    end
  end

  defp part_of(part) do
    size = div(@lookups, 5)
    first = @warm_up + (part - 1) * size + 1
    first..(first + size - 1)
  end
end
