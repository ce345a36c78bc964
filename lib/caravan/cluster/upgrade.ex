defmodule Caravan.Cluster.Upgrade do
  # State of an older version of the code, as this version has it: fields that a struct of ours had not
  # get their defaults, and those that it has no longer go. Where there is no default, or no such struct,
  # it raises, which OTP takes for a code_change that failed.
  @moduledoc false

  @spec term(term) :: term
  def term(%module{} = struct) do
    if String.starts_with?(Atom.to_string(module), "Elixir.Caravan."),
      do: upgrade(struct, module),
      else: struct
  end

  def term(map) when is_map(map), do: Map.new(map, fn {key, value} -> {key, term(value)} end)

  # Not Enum.map/2: the state of a random generator is an improper list.
  def term([head | tail]), do: [term(head) | term(tail)]
  def term(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> term() |> List.to_tuple()
  def term(other), do: other

  defp upgrade(struct, module) do
    fields = Map.take(struct, Map.keys(module.__struct__()) -- [:__struct__])
    struct!(module, term(fields))
  end
end
