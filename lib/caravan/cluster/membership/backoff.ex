defmodule Caravan.Cluster.Membership.Backoff do
  # Pure. The waits before a node is dialled again, in milliseconds. `random` is in [0, 1).
  #
  # A wait grows with the time for which the node has been gone, up to a maximum. So a node that returns early is dialled
  # early. A node that stays dead is dialled about every 30 seconds if it was connected before, and every 45 if it was not.
  # In large clusters, these waits are longer.
  @moduledoc false

  @typedoc """
  What has failed:

    * `:new`: a probe of a node that was never connected, or its first connect;
    * `:new_connect`: a later connect of such a node;
    * `:probe`: a probe of a node that was connected: it refuses, or does not reply;
    * `:connect`: a connect of a node that was connected. It hangs, or the handshake fails, or the connect failed where
      probes are not possible.
  """
  @type failure :: :new | :new_connect | :probe | :connect

  @typedoc """
  The number of members, and of connected nodes of the topology.

  With a limited number of links, all members without a failed connect count as connected (`State.backoff_counts/1`).
  """
  @type counts :: %{members: non_neg_integer, connected: non_neg_integer}

  # Milliseconds. The range of the wait after a nodedown. The first wait of a probe is at least @latest. When another lost
  # node is connected again (a sign), the wait is at least @soonest.
  @soonest 50
  @latest 200

  # By failure: the first wait in milliseconds, the share of the time since the node has been gone, the longest wait in
  # milliseconds. A quarter is taken off on average, so a node that stays lost gets an attempt each 30 seconds. The first
  # wait of a probe is spread/1.
  @waits %{
    new: {500, 1, 60_000},
    probe: {nil, 1 / 300, 40_000},
    connect: {500, 1 / 10, 40_000}
  }

  # Milliseconds. All members probe the same lost node, and one member may have lost all others. So the wait of a probe is
  # at least this times the number of members, before the random part is taken off. A lost node then gets, and a member
  # that lost all others sends, about 330 probes a second.
  @per_member 4

  # Milliseconds. The same for a connect that has failed. A handshake costs both nodes milliseconds of CPU, with TLS above
  # all. A node whose handshakes fail then gets about 130 of them a second.
  @per_member_connect 10

  # Milliseconds for each member that is not connected. DNS may name many nodes that never existed. So the first and the
  # longest wait of a new node are at least @per_missing and @per_missing_longest times the number of these members,
  # before the random part is taken off.
  @per_missing 10
  @per_missing_longest 120

  @doc """
  Returns the wait after a failure. `gone` is how long the node has been gone. The second half of the wait is random.
  """
  @spec wait(failure, gone :: non_neg_integer, counts, random :: float) :: pos_integer
  def wait(failure, gone, counts, random) do
    failure |> longest_wait(gone, counts) |> random_half(random)
  end

  @doc """
  Returns the time of the next attempt after a failure of a node that was never connected.

  The time is rounded down to a multiple of a power of two. This power is the largest one that is at most an eighth of the
  wait, before the random part is taken off. So many nodes are dialled together, and the VM wakes up less often. The clock
  of a VM begins when the VM starts, so two VMs are not in step.
  """
  @spec next_at_of_new(
          :new | :new_connect,
          now :: integer,
          gone :: non_neg_integer,
          counts,
          random :: float
        ) :: integer
  def next_at_of_new(failure, now, gone, counts, random) do
    wait = longest_wait(failure, gone, counts)
    at = now + random_half(wait, random)
    at - Integer.mod(at, power_of_two(div(wait, 8)))
  end

  defp longest_wait(failure, gone, counts) do
    {first, share, longest} = waits(failure, counts)
    max(first, min(trunc(gone * share), longest))
  end

  # Returns the largest power of two that is at most `number`.
  defp power_of_two(number), do: 2 ** (length(Integer.digits(number, 2)) - 1)

  defp waits(:new, %{members: members, connected: connected}) do
    {first, share, longest} = @waits.new
    missing = members - connected
    {max(first, missing * @per_missing), share, max(longest, missing * @per_missing_longest)}
  end

  defp waits(:new_connect, %{members: members} = counts) do
    {first, share, longest} = waits(:new, counts)
    {max(first, members * @per_member_connect), share, longest}
  end

  defp waits(:probe, counts) do
    {_first, share, longest} = @waits.probe
    {spread(counts), share, longest}
  end

  defp waits(:connect, %{members: members}) do
    {first, share, longest} = @waits.connect
    {max(first, members * @per_member_connect), share, longest}
  end

  @doc """
  Returns the wait after the first failed probe.

  All members saw the nodedown at the same moment. So the first wait is drawn as the remainder of a wait that is already
  running (residual life of a renewal process). The probes of all members are then evenly spread from the start.
  """
  @spec after_first_probe(counts, random :: float) :: pos_integer
  def after_first_probe(counts, random) do
    wait = spread(counts)

    rest =
      if random <= 2 / 3,
        do: 0.75 * wait * random,
        else: wait - wait / 2 * :math.sqrt(3 * (1 - random))

    max(1, trunc(rest))
  end

  @doc """
  Returns the wait after `flaps` consecutive connections that ended soon.

  It is 500 ms at first and doubles with each of them, up to `longest` or one minute, whichever is less, but never less than
  500 ms. The second half of the wait is random.
  """
  @spec after_flap(flaps :: pos_integer, longest :: pos_integer, random :: float) :: pos_integer
  def after_flap(flaps, longest, random) do
    {first, _share, minute} = @waits.new
    wait = min(first * 2 ** min(flaps - 1, 16), min(longest, minute))
    random_half(max(wait, first), random)
  end

  @doc "Returns the wait before a node is dialled that has announced that it leaves."
  @spec after_drain(random :: float) :: pos_integer
  def after_drain(random) do
    {_first, _share, longest} = @waits.new
    random_half(longest, random)
  end

  @doc "Returns the wait after the nodedown of a steady node. It is random, so that not all peers dial at once."
  @spec after_nodedown(random :: float) :: pos_integer
  def after_nodedown(random), do: between(@soonest, @latest, random)

  @doc """
  Returns the wait of a lost node after another lost node was connected again, because the network may be back.

  It is at most `after_sign_at_most/1`.
  """
  @spec after_sign(counts, random :: float) :: pos_integer
  def after_sign(counts, random), do: between(@soonest, spread(counts), random)

  @doc "Returns the longest wait that `after_sign/2` can return."
  @spec after_sign_at_most(counts) :: pos_integer
  def after_sign_at_most(counts), do: spread(counts)

  defp spread(%{members: members}) when is_integer(members),
    do: max(@latest, members * @per_member)

  defp between(low, high, random), do: low + trunc((high - low + 1) * random)

  defp random_half(wait, random), do: max(1, div(wait, 2) + trunc(wait / 2 * random))
end
