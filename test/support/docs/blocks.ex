defmodule Caravan.Test.Blocks do
  @moduledoc "The code blocks of the guides and of the documentation in the code."

  @enforce_keys [:source, :line, :language, :text]
  defstruct @enforce_keys ++ [marker: nil]

  @typedoc """
  `source` is a file, a module or a function. `marker` is the command and the file after `generated:` in the comment on the
  line before the block.
  """
  @type t :: %__MODULE__{
          source: String.t(),
          line: pos_integer,
          language: String.t(),
          text: String.t(),
          marker: {command :: String.t(), file :: Path.t()} | nil
        }

  @doc "Returns the paths of the README and of the guides."
  @spec files() :: [Path.t()]
  def files, do: ["README.md" | Enum.sort(Path.wildcard("guides/*.{md,cheatmd}"))]

  @doc "Returns the fenced blocks of a file."
  @spec of_file(Path.t()) :: [t]
  def of_file(path), do: path |> File.read!() |> fences(path)

  @doc "Returns the blocks of all moduledocs and docs of the application."
  @spec of_docs() :: [t]
  def of_docs,
    do:
      Enum.flat_map(docs(), fn {source, text} ->
        fences(text, source) ++ indented(text, source)
      end)

  @doc "Returns the moduledocs and docs of the application, without the hidden ones."
  @spec docs() :: [{source :: String.t(), text :: String.t()}]
  def docs do
    # The tests call this for each option in the guides.
    with nil <- :persistent_term.get(__MODULE__, nil) do
      docs = fetch_docs()
      :persistent_term.put(__MODULE__, docs)
      docs
    end
  end

  defp fetch_docs do
    for module <- modules(),
        {:docs_v1, _, _, _, moduledoc, _, docs} = Code.fetch_docs(module),
        {source, %{"en" => text}} <-
          [{inspect(module), moduledoc}] ++
            for(
              {{_, name, arity}, _, _, doc, _} <- docs,
              do: {"#{inspect(module)}.#{name}/#{arity}", doc}
            ) do
      {source, text}
    end
  end

  @doc "Returns the modules of the application that are not those of the tests."
  @spec modules() :: [module]
  def modules do
    {:ok, modules} = :application.get_key(:caravan, :modules)
    Enum.filter(modules, &(inspect(&1) =~ ~r/^(?:Caravan|Mix)\b(?!\.Test\b)/))
  end

  @doc "Returns the text without its fenced blocks and its comments."
  @spec prose(String.t()) :: String.t()
  def prose(text) do
    text
    |> String.replace(~r/^ *```.*?^ *```$/ms, "")
    |> String.replace(~r/<!--.*?-->/s, "")
  end

  defp fences(text, source) do
    ~r/(?:^<!-- generated: (?<command>.+): (?<file>\S+) -->\n)?^(?<indent> *)```(?<language>\S*).*\n(?<text>(?:.*\n)*?)^ *```$/m
    |> Regex.scan(text, capture: :all_names, return: :index)
    |> Enum.map(fn indexes ->
      [command, file, indent, language, block] =
        for {start, length} <- indexes,
            do: if(start < 0, do: "", else: binary_part(text, start, length))

      {start, _length} = List.last(indexes)

      %__MODULE__{
        source: source,
        line: text |> binary_part(0, start) |> String.split("\n") |> length(),
        language: language,
        text: String.replace(block, ~r/^#{indent}/m, ""),
        marker: if(command != "", do: {command, file})
      }
    end)
  end

  # A block of four spaces comes after a blank line. Lists and tables can be indented too.
  defp indented(text, source) do
    for [block] <- Regex.scan(~r/(?<=\n\n|\A)    (?![*|]).*\n?(?:    .*\n?|\n(?=    ))*/, text) do
      text = String.replace(block, ~r/^    /m, "")
      %__MODULE__{source: source, line: 1, language: language(text), text: text}
    end
  end

  defp language("iex>" <> _), do: "iex"
  defp language("-" <> _), do: "vm.args"
  defp language(text), do: if(text =~ ~r/\A(?:bin\/|mix )/, do: "sh", else: "elixir")
end
