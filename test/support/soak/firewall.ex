defmodule Caravan.Test.Soak.Firewall do
  @moduledoc """
  Drops packets between nodes with addresses in 127.0.0.0/8.

  It writes rules of nftables, so it needs root, and the network namespace that `.ci/soak` makes.
  """

  @typedoc "All addresses of one node."
  @type addresses :: [:inet.ip4_address(), ...]

  @doc "Returns whether rules can be written. `.ci/soak` sets `SOAK_NETNS` if it made a network namespace."
  @spec possible?() :: boolean
  def possible?, do: System.get_env("SOAK_NETNS") == "1" and System.find_executable("nft") != nil

  @doc "Drops all packets between the nodes of each pair from now on. Replaces the pairs of earlier calls."
  @spec cut([{addresses, addresses}]) :: :ok
  def cut(pairs) do
    rules = for {one, other} <- pairs, do: [rule(one, other), rule(other, one)]

    # The first line lets the second one succeed if there is no table yet.
    nft!("""
    table ip soak
    delete table ip soak
    table ip soak {
      chain input {
        type filter hook input priority 0;
        #{rules}
      }
    }
    """)
  end

  defp rule(from, to), do: "ip saddr #{set(from)} ip daddr #{set(to)} drop\n"
  defp set(addresses), do: "{ #{Enum.map_join(addresses, ", ", &:inet.ntoa/1)} }"

  # The shell pipes the rules to nft, because System.cmd/3 cannot write to the stdin of a command.
  defp nft!(rules) do
    args = ["-c", ~S(printf %s "$0" | nft -f -), rules]
    {_, 0} = System.cmd("/bin/sh", args, stderr_to_stdout: true)
    :ok
  end
end
