defmodule Caravan.Test.Soak.LogCheck do
  @moduledoc """
  Pure. Checks the log of one VM. These are problems:

    * Caravan logged a line of level `:error` or above.
    * Caravan called the strategy's `:disconnect` function. Without `:prune` it must not.
    * Caravan logged "lost X" more often than the node X went down.
    * Caravan repeated a warning without a new cause. Two warnings are the same if they differ only in numbers of
      milliseconds.

  When a warning has a new cause:

    * "cannot connect to X": since the last one, Caravan logged "connected to X", or that X is no longer in DNS, or
      the address of X changed in DNS.
    * "DNS lookup of Q failed": since the last one, Caravan logged "DNS answers again".
    * All others: never, as long as the VM lives.
  """

  alias Caravan.Test.Soak.LogFile

  defstruct warnings: MapSet.new(), ups: %{}, downs: %{}, lost: %{}, connected: %{}

  @typedoc """
    * `:warnings`: the warnings so far that have had no new cause since, as `{subject, text}`. The subject is the name
      of a node, `:dns`, or `:other`.
    * `:ups`, `:downs`: how often each node went up and down
    * `:lost`, `:connected`: how often Caravan logged each node as lost and as connected
  """
  @type t :: %__MODULE__{
          warnings: MapSet.t(),
          ups: %{String.t() => pos_integer},
          downs: %{String.t() => pos_integer},
          lost: %{String.t() => pos_integer},
          connected: %{String.t() => pos_integer}
        }

  @typedoc "When the address of a node changed in DNS, in milliseconds of `System.os_time/1`, and its name."
  @type changes :: [{integer, name :: String.t()}]

  @doc "Adds new lines of the log. Returns the problems in them."
  @spec add_lines(t, [LogFile.line()], changes) :: {problems :: [String.t()], t}
  def add_lines(%__MODULE__{} = check, lines, changes) do
    changes = for {at, name} <- changes, do: %{at: at, changed: name}
    events = Enum.sort_by(changes ++ lines, & &1.at)
    {problems, check} = Enum.flat_map_reduce(events, check, &handle_event/2)

    # These counts are compared after the last line, because Caravan may log a loss before the nodedown is logged.
    # Afterwards `:lost` gets the values of `:downs`, so that the next call does not return the same problem again.
    {problems ++ losses_without_nodedown(check),
     %{check | lost: Map.take(check.downs, Map.keys(check.lost))}}
  end

  @doc "Returns whether Caravan logged a connection."
  @spec logged_connection?(t) :: boolean
  def logged_connection?(%__MODULE__{connected: connected}), do: connected != %{}

  @doc "Returns how many links of the VM were lost, and how many of these came back."
  @spec links(t) :: {lost :: non_neg_integer, restored :: non_neg_integer}
  def links(%__MODULE__{ups: ups, downs: downs}) do
    restored = for {_name, count} <- ups, do: count - 1
    {downs |> Map.values() |> Enum.sum(), Enum.sum(restored)}
  end

  defp losses_without_nodedown(check) do
    for {name, lost} <- check.lost, downs = Map.get(check.downs, name, 0), lost > downs do
      "logged \"lost #{name}\" #{lost} times, but it went down #{downs} times"
    end
  end

  defp handle_event(%{changed: name}, check), do: {[], new_cause(check, name)}

  defp handle_event(%{origin: :soak, text: text}, check),
    do: add_note(check, String.split(text, " "))

  defp handle_event(%{origin: :caravan, level: level} = line, check) do
    text = String.replace(line.text, ~r/^\[caravan:\w+\] /, "")

    cond do
      LogFile.severe?(line) -> {["error line: #{text}"], check}
      level == :warning -> add_warning(check, text)
      true -> {[], add_info(check, text)}
    end
  end

  defp handle_event(_line, check), do: {[], check}

  defp add_note(check, ["up", name | _]), do: {[], count(check, :ups, name)}
  defp add_note(check, ["down", name | _]), do: {[], count(check, :downs, name)}
  defp add_note(check, ["disconnect", name]), do: {["Caravan disconnected #{name}"], check}
  defp add_note(check, _other), do: {[], check}

  defp add_warning(check, "lost " <> name), do: {[], count(check, :lost, name)}

  defp add_warning(check, text) do
    warning = {subject(text), String.replace(text, ~r/\d+ ms/, "N ms")}

    if warning in check.warnings,
      do: {["repeated without a new cause: #{text}"], check},
      else: {[], %{check | warnings: MapSet.put(check.warnings, warning)}}
  end

  defp subject("cannot connect to " <> rest), do: rest |> String.split(": ") |> hd()
  defp subject("DNS lookup of " <> _), do: :dns
  defp subject(_text), do: :other

  defp add_info(check, "connected to " <> name),
    do: check |> count(:connected, name) |> new_cause(name)

  defp add_info(check, "DNS answers again" <> _), do: new_cause(check, :dns)

  defp add_info(check, "no longer in DNS: " <> names),
    do: names |> String.split([", ", " and "]) |> Enum.reduce(check, &new_cause(&2, &1))

  defp add_info(check, _text), do: check

  # Warnings about this subject may come again.
  defp new_cause(check, subject) do
    others = for {other, _text} = warning <- check.warnings, other != subject, do: warning
    %{check | warnings: MapSet.new(others)}
  end

  defp count(check, field, name),
    do: Map.update!(check, field, &Map.update(&1, name, 1, fn count -> count + 1 end))
end
