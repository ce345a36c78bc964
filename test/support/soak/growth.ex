defmodule Caravan.Test.Soak.Growth do
  @moduledoc """
  Pure. Checks that the counts and the memory of one VM have stopped growing.

  Only samples of the last half of the VM's life count. The median of the first third of these samples is compared
  with the median of the last third. A count may grow by 1 %, or by a fixed number if that is more.
  """

  alias Caravan.Test.Soak.Sample

  @typedoc "The age of the VM in milliseconds, and what was measured then. Oldest first."
  @type samples :: [{non_neg_integer, Sample.t()}]

  # The fixed numbers by which the counts may grow. `:rss` is in bytes. Connection attempts in progress have processes
  # and ports. While answers come without addresses, the resolver keeps about two sockets for each node.
  @allowed %{atoms: 100, rss: 2 * 1_048_576, processes: 8, ports: 8, descriptors: 32}

  # More messages than this wait only if OTP's `global` has the fault that `t:Sample.t/0` describes.
  @most_global_backlog 5_000

  # A VM with a shorter life, in milliseconds, or with fewer samples in the last half of it is not checked.
  @shortest_life 80_000
  @fewest_samples 6

  @doc """
  Returns a text for each count that grew.

  Returns `:too_short` if the VM did not live long enough, and `:global_fault` if the fault of `global` took memory.
  """
  @spec check(samples) :: [String.t()] | :too_short | :global_fault
  def check(samples) do
    last_half = last_half(samples)

    cond do
      length(last_half) < @fewest_samples or age(samples) < @shortest_life ->
        :too_short

      Enum.any?(samples, fn {_age, sample} -> sample.global_backlog > @most_global_backlog end) ->
        :global_fault

      true ->
        for {count, allowed} <- @allowed, text = grown(last_half, count, allowed), do: text
    end
  end

  @doc "Returns the count in the first, the middle and the last sample, or `nil` if there is no sample."
  @spec first_middle_last(samples, count :: atom) :: {integer, integer, integer} | nil
  def first_middle_last([], _count), do: nil

  def first_middle_last(samples, count) do
    values = values(samples, count)
    {hd(values), Enum.at(values, div(length(values), 2)), List.last(values)}
  end

  @doc "Returns the age of the VM at the last sample, in milliseconds."
  @spec age(samples) :: non_neg_integer
  def age([]), do: 0
  def age(samples), do: samples |> List.last() |> elem(0)

  defp last_half(samples) do
    middle = div(age(samples), 2)
    Enum.filter(samples, fn {age, _sample} -> age >= middle end)
  end

  defp grown(samples, count, allowed) do
    values = values(samples, count)
    third = div(length(values), 3)
    {first, last} = {median(Enum.take(values, third)), median(Enum.take(values, -third))}

    if last - first > max(allowed, first / 100),
      do: "#{count} grew from #{first} to #{last} in the last half of the VM's life"
  end

  defp values(samples, count), do: for({_age, sample} <- samples, do: sample[count])

  defp median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))
end
