defmodule Caravan.Test.OsResources do
  @moduledoc """
  Counts the limited resources that this VM holds: file descriptors, atoms, lookups in flight, memory. Needs Linux:
  it reads `/proc`.
  """

  import ExUnit.Assertions, only: [flunk: 1]

  alias Caravan.Dns
  alias Caravan.Native
  alias Caravan.Test.Eventually

  @typedoc """
  The numbers of file descriptors, of sockets among them, of atoms, of lookups in flight, and of tasks of tokio.
  """
  @type t :: %{
          descriptors: non_neg_integer,
          sockets: non_neg_integer,
          atoms: non_neg_integer,
          lookups: non_neg_integer,
          tasks: non_neg_integer
        }

  @doc """
  Prepares for counting. It loads the code that counts, whose atoms would be counted otherwise. Then it waits for
  the lookups of earlier tests, which end a moment after their processes.
  """
  @spec warm_up() :: :ok
  def warm_up do
    # The first lookup starts the runtime, which opens descriptors.
    _ = Dns.lookup("localhost", :a, nameservers: ["127.0.0.1:1"], timeout: 1)
    true = Eventually.true?(fn -> now().lookups == 0 end)
    :ok
  end

  @doc "Closes the sockets that Caravan keeps for later lookups, then returns the counts."
  @spec now() :: t
  def now do
    Dns.flush()
    held()
  end

  @doc "Returns the counts, with the sockets that Caravan keeps."
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
  Waits until no lookup is in flight and no other count is higher than in `before`. Fails the test if that takes
  over `timeout` ms. Counts that are not in `before` may be higher.
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
      else: flunk("left behind (resource, before, now): #{inspect(more.())}")
  end

  @doc """
  Collects the garbage of all processes, then returns how many bytes of this VM are in RAM (VmRSS in proc(5)).
  """
  @spec rss() :: pos_integer
  def rss do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    [_, kilobytes] = Regex.run(~r/^VmRSS:\s+(\d+) kB$/m, File.read!("/proc/self/status"))
    String.to_integer(kilobytes) * 1_024
  end

  @doc "Opens sockets until no file descriptor is free, and returns them."
  @spec hold_descriptors([:gen_udp.socket()]) :: [:gen_udp.socket()]
  def hold_descriptors(held \\ []) do
    case :gen_udp.open(0) do
      {:ok, socket} -> hold_descriptors([socket | held])
      {:error, :emfile} -> held
    end
  end
end
