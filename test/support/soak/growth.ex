defmodule Caravan.Test.Soak.Growth do
  @moduledoc """
  Pure. Whether the counts and the memory of one VM are flat.

  Only samples of the last half of the VM's life count. The median of the first third of these samples is compared
  with the median of the last third. A count may grow by 1 % or by the number of `allowed/0`, whichever is more.
  """

  alias Caravan.Test.Soak.Node

  @typedoc "Milliseconds since the VM was started, and what was measured then. Oldest first."
  @type samples :: [{non_neg_integer, Node.sample()}]

  # Connects that are in flight have processes and ports. The resolver keeps about two sockets for each node, as
  # long as answers come without addresses.
  @allowed %{atoms: 100, rss: 2 * 1_048_576, processes: 8, ports: 8, descriptors: 32}

  # Only the fault of OTP makes more messages wait.
  @most_global_backlog 5_000

  # Milliseconds, and a number of samples in the last half. A VM with less is not judged.
  @shortest_life 80_000
  @fewest_samples 6

  @doc "Returns how much each count may grow, if that is more than 1 %."
  @spec allowed() :: %{atom => pos_integer}
  def allowed, do: @allowed

  @doc """
  Returns a text for each count that is not flat.

  Returns `:short` for a VM that did not live long enough, and `:otp` if the fault of OTP took memory that
  `t:Caravan.Test.Soak.Node.sample/0` describes.
  """
  @spec judge(samples) :: [String.t()] | :short | :otp
  def judge(samples) do
    last_half = last_half(samples)

    cond do
      length(last_half) < @fewest_samples or age(samples) < @shortest_life -> :short
      Enum.any?(samples, fn {_at, s} -> s.global_backlog > @most_global_backlog end) -> :otp
      true -> for {count, allowed} <- @allowed, text = grown(last_half, count, allowed), do: text
    end
  end

  @doc "Returns the count in the first, the middle and the last sample, or `nil` if there is no sample."
  @spec course(samples, atom) :: {integer, integer, integer} | nil
  def course([], _count), do: nil

  def course(samples, count) do
    values = for {_at, sample} <- samples, do: sample[count]
    {hd(values), Enum.at(values, div(length(values), 2)), List.last(values)}
  end

  defp last_half(samples) do
    middle = div(age(samples), 2)
    Enum.filter(samples, fn {at, _sample} -> at >= middle end)
  end

  defp age([]), do: 0
  defp age(samples), do: samples |> List.last() |> elem(0)

  defp grown(samples, count, allowed) do
    values = for {_at, sample} <- samples, do: sample[count]
    third = div(length(values), 3)
    {first, last} = {median(Enum.take(values, third)), median(Enum.take(values, -third))}

    if last - first > max(allowed, first / 100),
      do: "#{count} grew from #{first} to #{last} in the last half of the VM's life"
  end

  defp median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))
end
