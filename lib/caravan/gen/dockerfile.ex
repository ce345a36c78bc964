defmodule Caravan.Gen.Dockerfile do
  # Pure. What a Dockerfile of the user lacks to build a release with Caravan.
  @moduledoc false

  @doc """
  Returns what to add to the Dockerfile, if there is one that builds a release. `rel` is the directory to copy. `library?` is
  whether Caravan's package carries the library, so that no Rust is needed.
  """
  @spec notes(String.t() | nil, Path.t(), library? :: boolean) :: [String.t()]
  def notes(contents, rel, library? \\ false)
  def notes(nil, _rel, _library?), do: []

  def notes(contents, rel, library?) do
    # `mix release`, or `mix do` with it. What comes before it in the same instruction counts too.
    build = ~r/\bmix\s+(do\s[^\n&;]*[\s,])?release(?![\w.])/

    case contents |> instructions() |> String.split(build, parts: 2) do
      [before, _rest] ->
        before = String.split(before, "\n")
        copy_notes(before, rel) ++ rust_notes(before, library?)

      [_no_release] ->
        []
    end
  end

  defp copy_notes(before, rel) do
    if Enum.any?(before, &copies?(&1, rel)),
      do: [],
      else: [
        "Dockerfile: `mix release` runs without the files in #{rel}. Add this line before it:\n\n    COPY #{rel} #{rel}\n"
      ]
  end

  defp copies?(line, rel) do
    with [_, arguments] <- Regex.run(~r/^(?:COPY|ADD)\s+(.*)$/i, line),
         words = String.split(arguments, ~r/[\s\[\]",]+/, trim: true),
         false <- Enum.any?(words, &String.starts_with?(&1, "--from=")),
         {sources, [target]} <- Enum.split(words, -1) do
      Enum.any?(sources, &copies?(normal(&1), normal(target), rel))
    else
      _ -> false
    end
  end

  defp copies?(".", _target, _rel), do: true

  # COPY copies what is in a directory, so the target needs the same name.
  defp copies?(source, target, rel),
    do:
      String.starts_with?(rel <> "/", source <> "/") and
        String.ends_with?("/" <> target, "/" <> source)

  defp normal(path) do
    case path |> String.trim_leading("./") |> String.trim_trailing("/") do
      "" -> "."
      path -> path
    end
  end

  defp rust_notes(before, library?) do
    if library? or Enum.any?(before, &(&1 =~ ~r/(?<![a-z])(rust|cargo)|CARAVAN_NIF/i)),
      do: [],
      else: [
        "Dockerfile: the build stage has no Rust, which builds Caravan's library. Add these lines before " <>
          "`mix deps.compile`:\n\n" <>
          "    RUN apt-get update && apt-get install -y curl gcc libc6-dev \\\n" <>
          "     && curl --proto '=https' -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal\n" <>
          "    ENV PATH=/root/.cargo/bin:$PATH\n"
      ]
  end

  # The lines without comments. A line that ends with a backslash goes on in the next one.
  defp instructions(contents) do
    contents
    |> String.split("\n")
    |> Enum.map(&String.trim/1)
    |> Enum.reject(&String.starts_with?(&1, "#"))
    |> Enum.join("\n")
    |> String.replace("\\\n", " ")
  end
end
