defmodule Caravan.Test.Soak.LogCheck do
  @moduledoc """
  Pure. Checks the log of one VM. These are problems:

    * Caravan logged a line of level `:error` or above.
    * Caravan called the strategy's `:disconnect` function. Without `:prune` it must not.
    * Caravan logged more often that a node was lost than the VM saw the node go down.
    * Caravan repeated a warning without a new cause. Two warnings are the same if they differ only in numbers of
      milliseconds.

  When a warning has a new cause:

    * "cannot connect to X": since the last one, Caravan logged "connected to X", or that X is no longer in DNS, or
      the address of X changed in DNS.
    * "DNS lookup of Q failed": since the last one, Caravan logged "DNS answers again".
    * All others: never, as long as the VM lives.
  """

  alias Caravan.Test.Soak.LogFile

  defstruct warned: MapSet.new(), ups: %{}, downs: %{}, lost: %{}, joined: %{}

  @typedoc """
    * `:warned`: the warnings without a new cause so far, as `{node, text}`, `{:dns, text}` or `{:other, text}`
    * `:ups`, `:downs`: how often each node went up and down
    * `:lost`, `:joined`: how often Caravan logged that each node was lost and connected
  """
  @type t :: %__MODULE__{
          warned: MapSet.t(),
          ups: %{String.t() => pos_integer},
          downs: %{String.t() => pos_integer},
          lost: %{String.t() => pos_integer},
          joined: %{String.t() => pos_integer}
        }

  @doc """
  Judges new lines, and returns the problems in them.

  `changes` are the times at which the address of a node changed in DNS.
  """
  @spec judge(t, [LogFile.line()], changes :: [{integer, String.t()}]) :: {[String.t()], t}
  def judge(%__MODULE__{} = check, lines, changes) do
    changes = for {at, name} <- changes, do: %{at: at, changed: name}
    events = Enum.sort_by(changes ++ lines, & &1.at)
    {problems, check} = Enum.flat_map_reduce(events, check, &handle_event/2)

    {problems ++ unseen_losses(check),
     %{check | lost: Map.take(check.downs, Map.keys(check.lost))}}
  end

  @doc "Whether Caravan logged a connection. If it did so in no VM, the logs are not those of Caravan."
  @spec logged_connection?(t) :: boolean
  def logged_connection?(%__MODULE__{joined: joined}), do: joined != %{}

  @doc "Returns how many links of the VM were lost, and how many of these came back."
  @spec links(t) :: {lost :: non_neg_integer, restored :: non_neg_integer}
  def links(%__MODULE__{ups: ups, downs: downs}) do
    restored = for {_name, count} <- ups, do: count - 1
    {downs |> Map.values() |> Enum.sum(), Enum.sum(restored)}
  end

  # Compares counts at the end, because the strategy may log a loss before the witness does.
  defp unseen_losses(check) do
    for {name, count} <- check.lost, count > Map.get(check.downs, name, 0) do
      "logged \"lost #{name}\" #{count} times, but it went down #{Map.get(check.downs, name, 0)} times"
    end
  end

  defp handle_event(%{changed: name}, check), do: {[], forget(check, name)}

  defp handle_event(%{origin: :soak, text: text}, check),
    do: witnessed(check, String.split(text, " "))

  defp handle_event(%{origin: :caravan, level: level} = line, check) do
    text = String.replace(line.text, ~r/^\[caravan:\w+\] /, "")

    cond do
      LogFile.severe?(line) -> {["error line: #{text}"], check}
      level == :warning -> warned(check, text)
      true -> {[], informed(check, text)}
    end
  end

  defp handle_event(_line, check), do: {[], check}

  defp witnessed(check, ["up", name | _]), do: {[], count(check, :ups, name)}
  defp witnessed(check, ["down", name | _]), do: {[], count(check, :downs, name)}
  defp witnessed(check, ["disconnect", name]), do: {["Caravan disconnected #{name}"], check}
  defp witnessed(check, _other), do: {[], check}

  defp warned(check, "lost " <> name), do: {[], count(check, :lost, name)}

  defp warned(check, text) do
    warning = {subject(text), String.replace(text, ~r/\d+ ms/, "N ms")}

    if warning in check.warned,
      do: {["repeated without a new cause: #{text}"], check},
      else: {[], %{check | warned: MapSet.put(check.warned, warning)}}
  end

  defp subject("cannot connect to " <> rest), do: rest |> String.split(": ") |> hd()
  defp subject("DNS lookup of " <> _), do: :dns
  defp subject(_text), do: :other

  defp informed(check, "connected to " <> name),
    do: check |> count(:joined, name) |> forget(name)

  defp informed(check, "DNS answers again" <> _), do: forget(check, :dns)

  defp informed(check, "no longer in DNS: " <> names),
    do: names |> String.split([", ", " and "]) |> Enum.reduce(check, &forget(&2, &1))

  defp informed(check, _text), do: check

  defp forget(check, subject) do
    kept = for {other, _text} = warning <- check.warned, other != subject, do: warning
    %{check | warned: MapSet.new(kept)}
  end

  defp count(check, list, name),
    do: Map.update!(check, list, &Map.update(&1, name, 1, fn count -> count + 1 end))
end
