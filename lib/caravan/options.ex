defmodule Caravan.Options do
  # Options in one place: name, check, default and documentation stand in a schema; a wrong option
  # raises an error that says what was expected and what came.
  @moduledoc false

  @typedoc "What a check makes of a value; an error says what was expected."
  @type checked :: {:ok, term} | {:error, expected :: String.t()}

  @typedoc """
  `:check` is a remote function, or a range for integers in it. `:default` may be absent: the option
  is then required.
  """
  @type schema :: [
          {atom,
           [
             check: (term -> checked) | Range.t(),
             default: term,
             type: String.t(),
             doc: String.t()
           ]}
        ]

  @doc """
  The values of all options of `schema`, defaults filled in. `owner` names in errors whose options
  these are.
  """
  @spec validate!(term, schema, String.t()) :: %{atom => term}
  def validate!(options, schema, owner) do
    unless Keyword.keyword?(options) do
      raise ArgumentError,
            "#{owner}: expected options as a keyword list, got: #{inspect(options)}"
    end

    for {key, value} <- options, not Keyword.has_key?(schema, key) do
      raise ArgumentError,
            "#{owner}: unknown option #{inspect(key)} (given #{inspect(value)}), expected one of: " <>
              Enum.map_join(schema, ", ", fn {key, _} -> inspect(key) end)
    end

    Map.new(schema, fn {key, option} -> {key, value!(options, key, option, owner)} end)
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

        "| `#{inspect(key)}` | #{option[:type]} | #{default} | #{option[:doc]} |"
      end)

    "| option | type | default | |\n|---|---|---|---|\n" <> rows
  end

  defp value!(options, key, option, owner) do
    case {Keyword.fetch(options, key), Keyword.fetch(option, :default)} do
      {{:ok, value}, _} ->
        check!(value, key, option, owner)

      {:error, {:ok, default}} ->
        default

      {:error, :error} ->
        raise ArgumentError,
              "#{owner}: required option #{inspect(key)} (#{option[:type]}) is missing, got: " <>
                inspect(options)
    end
  end

  defp check!(value, key, option, owner) do
    case check(option[:check], value) do
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

  defp check(check, value), do: check.(value)
end
