defmodule Caravan.Cluster.NameList do
  # Pure. Names in a sentence.
  @moduledoc false

  @doc "Returns the first `most` names, separated by commas, and how many more there are."
  @spec text([String.t()], most :: pos_integer) :: String.t()
  def text(names, most \\ 10) do
    {first, rest} = Enum.split(names, most)
    more = if rest == [], do: "", else: " and #{length(rest)} more"
    Enum.join(first, ", ") <> more
  end

  @doc "Does the same with the sorted names."
  @spec sorted([String.t()]) :: String.t()
  def sorted(names), do: names |> Enum.sort() |> text()
end
