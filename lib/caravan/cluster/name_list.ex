defmodule Caravan.Cluster.NameList do
  # Pure. Writes lists of names for log lines.
  @moduledoc false

  @doc "Returns the first `most` names, separated by commas, and how many more there are."
  @spec text([String.t()], most :: pos_integer) :: String.t()
  def text(names, most \\ 10) do
    {first, rest} = Enum.split(names, most)
    more = if rest == [], do: "", else: " and #{length(rest)} more"
    Enum.join(first, ", ") <> more
  end

  @doc "Sorts the names, and returns the first ten as `text/2` does."
  @spec sorted([String.t()]) :: String.t()
  def sorted(names), do: names |> Enum.sort() |> text()
end
