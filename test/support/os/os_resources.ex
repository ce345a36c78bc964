defmodule Caravan.Test.OsResources do
  @moduledoc """
  What this VM holds of things that run out: file descriptors, atoms, lookups under way, memory.
  """

  import ExUnit.Assertions, only: [flunk: 1]

  alias Caravan.Dns
  alias Caravan.Native
  alias Caravan.Test.Eventually

  @typedoc """
  Counts: file descriptors, sockets among them, atoms, lookups in flight, tasks of tokio.
  """
  @type t :: %{
          descriptors: non_neg_integer,
          sockets: non_neg_integer,
          atoms: non_neg_integer,
          lookups: non_neg_integer,
          tasks: non_neg_integer
        }

  @doc """
  Loads the code of the counting, whose own atoms would be counted, and waits for the end of lookups of
  earlier tests, which is a moment after that of their processes.
  """
  @spec warm_up() :: :ok
  def warm_up do
    # The first lookup starts the runtime, which has descriptors of its own.
    _ = Dns.lookup("localhost", :a, nameservers: ["127.0.0.1:1"], timeout: 1)
    true = Eventually.true?(fn -> now().lookups == 0 end)
    :ok
  end

  @doc "The counts once the sockets that Caravan keeps for later are closed."
  @spec now() :: t
  def now do
    Dns.flush()
    held()
  end

  @doc "The counts as they are."
  @spec held() :: t
  def held do
    links =
      for path <- Path.wildcard("/proc/self/fd/*"),
          {:ok, link} <- [File.read_link(path)],
          do: link

    {lookups, tasks} = Native.dns_in_flight()

    %{
      descriptors: length(links),
      sockets: Enum.count(links, &String.starts_with?(&1, "socket:")),
      atoms: :erlang.system_info(:atom_count),
      lookups: lookups,
      tasks: tasks
    }
  end

  @doc """
  Waits until no lookup is under way and no other count of `before` is higher than it was; fails the test
  when that takes over `timeout` ms. Without `:atoms` in `before`, those may be more.
  """
  @spec await_no_more(map, pos_integer) :: :ok
  def await_no_more(before, timeout \\ 10_000) do
    before = Map.merge(before, %{lookups: 0})

    more = fn ->
      now = now()
      for {what, count} <- before, now[what] > count, do: {what, count, now[what]}
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
end
