defmodule Caravan.Dns.MemoryTest do
  # Not async: it uses all CPUs for some seconds. bench/memory.exs makes a million lookups.
  use ExUnit.Case

  # Many lookups, with each way to end, do not increase the memory of the VM. They run in a separate VM, so that other
  # tests do not count.

  alias Caravan.Test.Knot
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag(:knotd)

  @limit 5 * 1_048_576
  @warm_up 8_000
  # Lookups of each kind. A leak of 300 octets per lookup exceeds the limit.
  @lookups 50_000

  # `numbers` is a range. Each run has new processes, so memory that stays belongs to the library.
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
    test "the VM does not grow by lookups that are #{kind}", %{options: options} do
      node = PeerNode.start!(epmd: false)
      run = &PeerNode.eval(node, "ask = #{unquote(ask)}\n" <> @run, options: options, numbers: &1)
      before = run.(1..@warm_up)
      samples = for part <- 1..5, do: run.(part_of(part))

      # A leak grows with every part. The VM itself allocates a large piece at once, and returns it later.
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
