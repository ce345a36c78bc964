defmodule Caravan.Test.Soak.Sample do
  @moduledoc "Measures the VM in which it is called."

  @typedoc """
  Counts, and `:rss`, the bytes of the VM that are in RAM.

  The process, the port and the descriptor of each connection are left out, because connections come and go. The
  processes of OTP's `global` are left out for the same reason.

  `:global_backlog` is the length of the longest message queue of these processes. A fault of `global` shows there:
  after a reconnection, two nodes may send each other messages without end (erlang/otp#9117).
  """
  @type t :: %{
          atoms: pos_integer,
          processes: pos_integer,
          ports: pos_integer,
          descriptors: pos_integer,
          rss: pos_integer,
          global_backlog: non_neg_integer
        }

  @doc "Collects the garbage of all processes, and measures."
  @spec take() :: t
  def take do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    connections = length(Node.list(:connected))

    %{
      atoms: :erlang.system_info(:atom_count),
      processes: Enum.count(Process.list(), &(not of_global?(&1))) - connections,
      ports: :erlang.system_info(:port_count) - connections,
      descriptors: length(File.ls!("/proc/self/fd")) - connections,
      rss: rss(),
      global_backlog: global_backlog()
    }
  end

  defp of_global?(pid),
    do: match?({_, {:global, _name, _arity}}, Process.info(pid, :current_function))

  defp rss do
    [_, kilobytes] = Regex.run(~r/^VmRSS:\s+(\d+) kB$/m, File.read!("/proc/self/status"))
    String.to_integer(kilobytes) * 1_024
  end

  # The processes of `global` are linked to its server, global_name_server.
  defp global_backlog do
    {:links, links} = :global_name_server |> Process.whereis() |> Process.info(:links)

    lengths =
      for pid <- links, is_pid(pid), {_, length} <- [Process.info(pid, :message_queue_len)] do
        length
      end

    Enum.max(lengths, fn -> 0 end)
  end
end
