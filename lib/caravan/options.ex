defmodule Caravan.Options do
  # Pure. Validates options against a schema, which has the type, the default and the documentation of each option. A
  # wrong option raises an error with the expected values. The keys and types are those of NimbleOptions. Caravan does
  # not use NimbleOptions itself, because Caravan must build where Hex is not installed.
  @moduledoc false

  @typedoc """
  What values an option takes. `{:in, range}` takes the integers of the range. `{:custom, module,
  function, arguments}` calls the function with the value before the arguments.
  """
  @type type ::
          :boolean
          | :mfa
          | {:in, Range.t() | [term]}
          | {:or, [type | nil]}
          | {:custom, module, atom, [term]}

  @typedoc "What a custom type returns: the value to use, or what was expected."
  @type checked :: {:ok, term} | {:error, expected :: String.t()}

  @typedoc """
  Each option has a `:default` or is `required: true`. `:type_doc` is the type as the documentation shows
  it. For the integers of a range it is their unit. Where `:default` is `nil`, `:doc` says what that means.
  """
  @type schema :: [
          {atom,
           [
             type: type,
             type_doc: String.t(),
             default: term,
             required: boolean,
             doc: String.t()
           ]}
        ]

  @doc """
  Returns the values of all options of `schema`, with defaults for those that are not given.

  Raises `ArgumentError` for an unknown, missing or wrong option. `owner` is the module or function in the message.
  """
  @spec validate!(term, schema, String.t()) :: %{atom => term}
  def validate!(options, schema, owner), do: validate!(options, schema, defaults(schema), owner)

  @doc "As `validate!/3`, for callers that have computed `defaults(schema)` before."
  @spec validate!(term, schema, defaults :: %{atom => term}, String.t()) :: %{atom => term}
  def validate!(options, schema, defaults, owner) do
    unless Keyword.keyword?(options) do
      raise ArgumentError,
            "#{owner}: expected options as a keyword list, got: #{inspect(options)}"
    end

    # If a key is given twice, its first value counts, as in `Keyword.get/2`.
    values =
      options
      |> :lists.reverse()
      |> Enum.reduce(defaults, fn {key, value}, values ->
        Map.put(values, key, cast!(value, key, option!(schema, key, value, owner), owner))
      end)

    if map_size(values) < length(schema), do: missing!(options, values, schema, owner)
    values
  end

  @doc "Returns the defaults of a schema."
  @spec defaults(schema) :: %{atom => term}
  def defaults(schema) do
    for {key, option} <- schema, {:ok, default} <- [Keyword.fetch(option, :default)], into: %{} do
      {key, default}
    end
  end

  @doc "Returns the documentation of a schema as a Markdown list."
  @spec docs(schema) :: String.t()
  def docs(schema) do
    Enum.map_join(schema, "\n", fn {key, option} ->
      required = if option[:required], do: "Required. ", else: ""

      "* `#{inspect(key)}` (#{type_doc(option[:type], option[:type_doc])}) - " <>
        required <> option[:doc] <> default_doc(option)
    end)
  end

  defp default_doc(option) do
    case option[:default] do
      nil -> ""
      number when is_integer(number) -> " Defaults to `#{grouped(number, "_")}`."
      default -> " Defaults to `#{inspect(default)}`."
    end
  end

  ## Errors

  defp option!(schema, key, value, owner) do
    case List.keyfind(schema, key, 0) do
      {^key, option} ->
        option

      nil ->
        raise ArgumentError,
              "#{owner}: unknown option #{inspect(key)} (given #{inspect(value)}), expected one of: " <>
                Enum.map_join(schema, ", ", fn {key, _} -> inspect(key) end) <>
                similar(schema, key)
    end
  end

  # The similarity that Elixir's compiler requires for its suggestions.
  @similar 0.77

  defp similar(schema, key) do
    similar =
      for {known, _option} <- schema,
          similarity = String.jaro_distance("#{known}", "#{key}"),
          similarity > @similar,
          do: {-similarity, inspect(known)}

    case Enum.sort(similar) do
      [] -> ""
      similar -> ". Did you mean #{Enum.map_join(similar, " or ", &elem(&1, 1))}?"
    end
  end

  @spec missing!(keyword, map, schema, String.t()) :: no_return
  defp missing!(options, values, schema, owner) do
    {key, option} = Enum.find(schema, fn {key, _option} -> not is_map_key(values, key) end)

    raise ArgumentError,
          "#{owner}: required option #{inspect(key)} (#{type_doc(option[:type], option[:type_doc])}) is missing, got: " <>
            inspect(options)
  end

  defp cast!(value, key, option, owner) do
    case cast(option[:type], value, option[:type_doc]) do
      {:ok, value} ->
        value

      {:error, expected} ->
        raise ArgumentError,
              "#{owner}: expected #{inspect(key)} to be #{expected}, got: #{inspect(value)}"
    end
  end

  ## Types

  defp cast(:boolean, value, _doc) when is_boolean(value), do: {:ok, value}
  defp cast(:boolean, _value, _doc), do: {:error, "true or false"}

  # length/1 is a guard that fails for improper lists.
  defp cast(:mfa, {module, function, arguments} = mfa, _doc)
       when is_atom(module) and is_atom(function) and length(arguments) >= 0,
       do: {:ok, mfa}

  defp cast(:mfa, _value, _doc),
    do: {:error, "{module, function, arguments} with a proper list of arguments"}

  defp cast({:in, first..last//_}, value, _unit)
       when is_integer(value) and value >= first and value <= last,
       do: {:ok, value}

  defp cast({:in, first..last//_}, _value, unit) do
    unit = if unit, do: " (#{unit})", else: ""
    {:error, "an integer from #{grouped(first, "_")} to #{grouped(last, "_")}#{unit}"}
  end

  defp cast({:in, choices}, value, _doc) do
    if value in choices,
      do: {:ok, value},
      else: {:error, "one of " <> Enum.map_join(choices, ", ", &inspect/1)}
  end

  # A nil is checked first, because a strategy gives all its options to each lookup, also those that are nil. The next
  # clause would first build the text of an error, which takes longer than the check.
  defp cast({:or, [_type, nil]}, nil, _doc), do: {:ok, nil}

  defp cast({:or, [type, nil]}, value, doc) do
    with {:error, expected} <- cast(type, value, doc), do: {:error, expected <> " or nil"}
  end

  defp cast({:custom, module, function, arguments}, value, _doc),
    do: apply(module, function, [value | arguments])

  # The documentation does not mention nil, because it means the same as leaving the option out.
  defp type_doc({:or, [type, nil]}, doc), do: type_doc(type, doc)

  defp type_doc({:in, first..last//_}, unit),
    do: "#{unit || "integer"}, #{grouped(first, ",")} to #{grouped(last, ",")}"

  defp type_doc(_type, doc) when is_binary(doc), do: doc
  defp type_doc(:boolean, nil), do: "boolean"
  defp type_doc(:mfa, nil), do: "`{module, function, arguments}`"
  defp type_doc({:in, choices}, nil), do: Enum.map_join(choices, " or ", &"`#{inspect(&1)}`")

  # 5000 as 5_000 or 5,000.
  defp grouped(number, separator),
    do: Regex.replace(~r/\B(?=(\d{3})+$)/, Integer.to_string(number), separator)
end
