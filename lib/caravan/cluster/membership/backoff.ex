defmodule Caravan.Cluster.Membership.Backoff do
  # Pure. The waits before a node is dialled again, in milliseconds. `random` is in [0, 1).
  #
  # A wait grows with the time for which the node has been gone. So a node that returns is connected after a fixed
  # part of its absence, and a node that is dead for a day costs little more than one that is dead for an hour.
  @moduledoc false

  @typedoc """
  What has failed:

    * `:new`: a probe or connect of a node that was never connected;
    * `:probe`: a probe of a node that was connected: it refuses, or does not reply;
    * `:connect`: a connect of a node that was connected, because it hangs or refuses the handshake, or because
      there are no probes.
  """
  @type failure :: :new | :probe | :connect

  @typedoc "The members of the topology, and how many nodes of it are connected."
  @type counts :: %{members: non_neg_integer, connected: non_neg_integer}

  # Milliseconds. The range of the wait after a nodedown.
  @soonest 50
  @latest 200

  # By failure: the wait at first, the share of the time for which the node has been gone, the longest wait. A quarter is
  # taken off on average, so a node that stays lost gets an attempt each 30 seconds.
  @waits %{
    new: {500, 1, 60_000},
    probe: {@latest, 1 / 300, 40_000},
    connect: {500, 1 / 10, 40_000}
  }

  # Milliseconds. All members probe the same lost node, and one member may have lost all others. So a wait has at least
  # this length for each member. A node then gets, or sends, about 330 probes a second.
  @per_member 4

  # Milliseconds. DNS may name many nodes that never existed. A wait for a new node has at least this length for each
  # node that is not connected, at first and at last.
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
  Returns the time of the next attempt after a failure of a new node.

  The time is rounded down to a multiple of up to an eighth of the wait, so that many nodes are dialled together. The VM
  then wakes up less often, and 100 attempts at a time take a third of the CPU time of 100 single ones. The clocks of two
  VMs begin when they start, so the VMs are not in step.
  """
  @spec next_at_of_new(now :: integer, gone :: non_neg_integer, counts, random :: float) ::
          integer
  def next_at_of_new(now, gone, counts, random) do
    wait = longest_wait(:new, gone, counts)
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

  defp waits(:probe, counts) do
    {_first, share, longest} = @waits.probe
    {spread(counts), share, longest}
  end

  defp waits(:connect, _counts), do: @waits.connect

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
  Returns the wait after the last one of `flaps` connections that ended soon after they were made.

  It doubles with each of them, up to `longest` or one minute.
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

  @doc "Returns the wait after a sign that the node can be reached, which `after_sign_at_most/1` limits."
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
