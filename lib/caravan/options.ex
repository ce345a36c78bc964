defmodule Caravan.Options do
  # Options in one place: name, check, default and documentation stand in a schema; a wrong option
  # raises an error that says what was expected and what came.
  @moduledoc false

  @typedoc "What a check makes of a value; an error says what was expected."
  @type checked :: {:ok, term} | {:error, expected :: String.t()}

  @typedoc """
  `:type` is a remote function, or a range for integers in it. `:default` may be absent: the option
  is then required.
  """
  @type schema :: [
          {atom,
           [
             type: (term -> checked) | Range.t(),
             default: term,
             type_doc: String.t(),
             doc: String.t()
           ]}
        ]

  @doc """
  The values of all options of `schema`, defaults filled in. `owner` names in errors whose options
  these are.
  """
  @spec validate!(term, schema, String.t()) :: %{atom => term}
  def validate!(options, schema, owner), do: validate!(options, schema, defaults(schema), owner)

  @doc "The same, with the schema's defaults at hand, for where it has to be fast."
  @spec validate!(term, schema, defaults :: %{atom => term}, String.t()) :: %{atom => term}
  def validate!(options, schema, defaults, owner) do
    unless Keyword.keyword?(options) do
      raise ArgumentError,
            "#{owner}: expected options as a keyword list, got: #{inspect(options)}"
    end

    # Of a key that stands twice, the first value counts, as everywhere.
    values =
      options
      |> :lists.reverse()
      |> Enum.reduce(defaults, fn {key, value}, values ->
        Map.put(values, key, check!(value, key, option!(schema, key, value, owner), owner))
      end)

    if map_size(values) < length(schema), do: missing!(options, values, schema, owner)
    values
  end

  @doc "What `validate!/4` fills in."
  @spec defaults(schema) :: %{atom => term}
  def defaults(schema) do
    for {key, option} <- schema, {:ok, default} <- [Keyword.fetch(option, :default)], into: %{} do
      {key, default}
    end
  end

  @doc "The schema as a Markdown table."
  @spec docs(schema) :: String.t()
  def docs(schema) do
    rows =
      Enum.map_join(schema, "\n", fn {key, option} ->
        default =
          case Keyword.fetch(option, :default) do
            {:ok, default} -> "`#{inspect(default)}`"
            :error -> "required"
          end

        "| `#{inspect(key)}` | #{option[:type_doc]} | #{default} | #{option[:doc]} |"
      end)

    "| option | type | default | |\n|---|---|---|---|\n" <> rows
  end

  defp option!(schema, key, value, owner) do
    case List.keyfind(schema, key, 0) do
      {^key, option} ->
        option

      nil ->
        raise ArgumentError,
              "#{owner}: unknown option #{inspect(key)} (given #{inspect(value)}), expected one of: " <>
                Enum.map_join(schema, ", ", fn {key, _} -> inspect(key) end)
    end
  end

  @spec missing!(keyword, map, schema, String.t()) :: no_return
  defp missing!(options, values, schema, owner) do
    {key, option} = Enum.find(schema, fn {key, _option} -> not is_map_key(values, key) end)

    raise ArgumentError,
          "#{owner}: required option #{inspect(key)} (#{option[:type_doc]}) is missing, got: " <>
            inspect(options)
  end

  defp check!(value, key, option, owner) do
    case check(option[:type], value) do
      {:ok, value} ->
        value

      {:error, expected} ->
        raise ArgumentError,
              "#{owner}: expected #{inspect(key)} to be #{expected}, got: #{inspect(value)}"
    end
  end

  defp check(first..last//_, value) do
    if is_integer(value) and value in first..last,
      do: {:ok, value},
      else: {:error, "an integer from #{first} to #{last}"}
  end

  defp check(type, value), do: type.(value)
end
