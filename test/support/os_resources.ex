defmodule Caravan.Test.OsResources do
  @moduledoc """
  What this VM holds of things that run out: file descriptors, atoms, lookups under way, memory.
  """

  import ExUnit.Assertions, only: [flunk: 1]

  alias Caravan.Test.Eventually

  @typedoc "Counts: file descriptors, sockets among them, atoms, lookups under way."
  @type t :: %{
          descriptors: non_neg_integer,
          sockets: non_neg_integer,
          atoms: non_neg_integer,
          lookups: non_neg_integer
        }

  @spec now() :: t
  def now do
    links =
      for path <- Path.wildcard("/proc/self/fd/*"),
          {:ok, link} <- [File.read_link(path)],
          do: link

    %{
      descriptors: length(links),
      sockets: Enum.count(links, &String.starts_with?(&1, "socket:")),
      atoms: :erlang.system_info(:atom_count),
      lookups: lookups()
    }
  end

  @doc """
  Waits until no count is over what it was `before`; fails the test when that takes over `timeout` ms.
  """
  @spec await_no_more(t, pos_integer) :: :ok
  def await_no_more(before, timeout \\ 10_000) do
    more = fn ->
      for {what, count} <- now(), count > before[what], do: {what, before[what], count}
    end

    if Eventually.true?(fn -> more.() == [] end, timeout),
      do: :ok,
      else: flunk("left behind (what, before, now): #{inspect(more.())}")
  end

  @doc """
  The memory of this process that is in RAM, in bytes (proc(5): VmRSS), with all garbage of the VM's own
  collected.
  """
  @spec rss() :: pos_integer
  def rss do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    [_, kilobytes] = Regex.run(~r/^VmRSS:\s+(\d+) kB$/m, File.read!("/proc/self/status"))
    String.to_integer(kilobytes) * 1_024
  end

  if function_exported?(Caravan.Native, :dns_in_flight, 0) do
    defp lookups, do: Caravan.Native.dns_in_flight()
  else
    defp lookups, do: 0
  end
end
