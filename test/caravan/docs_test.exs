defmodule Caravan.DocsTest do
  @moduledoc """
  Checks all that the README, the guides and the documentation in the code tell a reader to type.

  A block after the comment `<!-- generated: mix caravan.gen.release ARGUMENTS: FILE -->` has the content of FILE as this command
  writes it for a new project. After a change of the generator, write all such blocks again:

      CARAVAN_WRITE_DOCS=1 mix test test/caravan/docs_test.exs
  """
  use ExUnit.Case, async: true

  alias Caravan.Test.Blocks
  alias Caravan.Test.Command
  alias Caravan.Test.DocumentedCode
  alias Caravan.Test.Requirements

  @languages ~w(elixir erlang iex sh text vm.args dockerfile yaml hcl json toml dns)

  @repository "https://github.com/uberbrodt/caravan/blob/HEAD/"

  # The files of the tests that run the commands of the troubleshooting guide.
  @doctor_tests [
    "test/caravan/doctor/**/*_test.exs",
    "test/caravan/*_test.exs",
    "test/mix/tasks/*_test.exs"
  ]

  defp blocks, do: Enum.flat_map(Blocks.files(), &Blocks.of_file/1) ++ Blocks.of_docs()

  defp each(language, check) do
    for %{language: ^language} = block <- blocks() do
      try do
        check.(block.text)
      rescue
        error -> flunk("#{place(block)}: #{Exception.message(error)}\n\n#{block.text}")
      end
    end
  end

  defp place(block), do: "#{block.source}, line #{block.line}"

  test "each block has a language" do
    assert [] ==
             for(
               block <- blocks(),
               block.language not in @languages,
               do: {place(block), block.language}
             )
  end

  test "Elixir code parses, and the options and functions of Caravan in it exist" do
    assert [_ | _] = each("elixir", &DocumentedCode.check_elixir!/1)
  end

  @tag Requirements.tag(:shellcheck)
  test "shellcheck finds no fault in the shell scripts" do
    each("sh", fn script ->
      assert %{status: 0, stdout: ""} =
               Command.run(["shellcheck", "--shell=sh", "-"], stdin: script)
    end)
  end

  test "the tasks, options and functions of Caravan in shell scripts exist" do
    assert [_ | _] = each("sh", &DocumentedCode.check_commands!/1)
  end

  test "VM arguments in the documentation have the values that the generator writes" do
    flags =
      flags(
        DocumentedCode.generate(
          "mix caravan.gen.release --platform plain --query app.example.com",
          "rel/vm.args.eex"
        )
      )

    assert map_size(flags) == 2

    each("vm.args", fn text ->
      for {flag, value} <- flags(text), do: assert(Map.get(flags, flag, value) == value)
    end)
  end

  defp flags(text),
    do:
      for([_, flag, value] <- Regex.scan(~r/^(-\S+) (\S+)/m, text), into: %{}, do: {flag, value})

  test "generated blocks have the content that the generator writes" do
    if System.get_env("CARAVAN_WRITE_DOCS") == "1",
      do: Enum.each(Blocks.files(), &write_generated/1)

    for file <- Blocks.files() do
      generated =
        for %{marker: {command, path}} = block <- Blocks.of_file(file), do: {block, command, path}

      # A comment that is not directly before its block would go unnoticed.
      assert length(generated) == length(String.split(File.read!(file), "<!-- generated:")) - 1,
             file

      for {block, command, path} <- generated do
        assert block.text == DocumentedCode.generate(command, path),
               "#{place(block)}: run CARAVAN_WRITE_DOCS=1 mix test test/caravan/docs_test.exs"
      end
    end
  end

  defp write_generated(file) do
    text =
      Regex.replace(
        ~r/^<!-- generated: (.+): (\S+) -->\n```(\S+)\n(?:.*\n)*?```$/m,
        File.read!(file),
        fn _, command, path, language ->
          "<!-- generated: #{command}: #{path} -->\n```#{language}\n#{DocumentedCode.generate(command, path)}```"
        end
      )

    File.write!(file, text)
  end

  test "the lines for the Dockerfile of Phoenix are those that the generator prints" do
    notes = Enum.join(Caravan.Gen.Dockerfile.notes("RUN mix release", "rel"))

    assert [_, _] =
             texts =
             for(
               %{language: "dockerfile", text: text} <- Blocks.of_file("guides/phoenix.md"),
               do: text
             )

    for text <- texts, do: assert(String.replace(notes, ~r/^    /m, "") =~ text)
  end

  test "links and pictures exist" do
    for file <- Blocks.files() ++ ~w(ARCHITECTURE.md CONTRIBUTING.md SECURITY.md CHANGELOG.md),
        [_, target] <- Regex.scan(~r/\]\(([^)\s]+)\)/, Blocks.prose(File.read!(file))),
        not String.starts_with?(target, "http") or String.starts_with?(target, @repository) do
      {path, anchor} = path_and_anchor(file, target)
      assert File.exists?(path), "#{file}: there is no #{target}"
      if anchor, do: assert(anchor in anchors(path), "#{file}: there is no heading for #{target}")
    end
  end

  defp path_and_anchor(file, target) do
    {path, anchor} =
      case String.split(target, "#") do
        [path] -> {path, nil}
        [path, anchor] -> {path, anchor}
      end

    case path do
      "" -> {file, anchor}
      # ExDoc has no page for these files.
      @repository <> path -> {path, anchor}
      path -> {file |> Path.dirname() |> Path.join(path), anchor}
    end
  end

  # Headings whose anchor is the same on GitHub and in ExDoc.
  defp anchors(path) do
    for [_, heading] <- Regex.scan(~r/^#+ (.+)$/m, Blocks.prose(File.read!(path))),
        github =
          heading
          |> String.downcase()
          |> String.replace(~r/[^\w\- ]/u, "")
          |> String.replace(" ", "-"),
        ex_doc =
          heading |> String.downcase() |> String.replace(~r/\W+/u, "-") |> String.trim("-"),
        github == ex_doc,
        do: github
  end

  test "functions and modules in the text exist" do
    documents =
      for(file <- Blocks.files(), do: {file, Blocks.prose(File.read!(file))}) ++ Blocks.docs()

    for {source, text} <- documents,
        [code] <- Regex.scan(~r/(?<=`)Caravan(?:\.\w+)*[.\w!?\/]*(?=`)/, text) do
      case Regex.run(~r/^(.+)\.([a-z_]+[!?]?)\/([\d,]+)$/, code, capture: :all_but_first) do
        [module, name, arities] ->
          exports = Module.concat([module]).module_info(:exports)

          for arity <- String.split(arities, ","),
              do:
                assert(
                  {String.to_atom(name), String.to_integer(arity)} in exports,
                  "#{source}: there is no #{code}"
                )

        nil ->
          if code =~ ~r/^[A-Z.\w]+$/ and code =~ ~r/\.[A-Z]\w*$/,
            do:
              assert(Code.ensure_loaded?(Module.concat([code])), "#{source}: there is no #{code}")
      end
    end
  end

  test "each command of the troubleshooting guide is also in a test" do
    tests =
      for(
        pattern <- @doctor_tests,
        file <- Path.wildcard(pattern),
        not String.ends_with?(file, "docs_test.exs"),
        into: "",
        do: File.read!(file)
      )

    script =
      for %{language: "sh", text: text} <- Blocks.of_file("guides/troubleshooting.md"),
          into: "",
          do: text

    assert [_ | _] = codes = DocumentedCode.codes(script)
    for code <- codes, do: assert(tests =~ code, "no test has #{code}")

    for [task | _] <- DocumentedCode.tasks(script),
        do: assert(tests =~ task, "no test has #{task}")
  end

  test "the cheat sheet has all tasks of Mix and all functions for operators" do
    sheet = File.read!("guides/cheatsheet.cheatmd")

    for task <- Path.wildcard("lib/mix/tasks/*.ex"),
        do: assert(sheet =~ "mix " <> Path.basename(task, ".ex"))

    for module <- [Caravan, Caravan.Cluster], {name, _arity} <- module.__info__(:functions) do
      assert sheet =~ "#{inspect(module)}.#{name}",
             "the cheat sheet lacks #{inspect(module)}.#{name}"
    end
  end

  test "guides/options.md has the options of the code" do
    docs = Caravan.Cluster.Config.docs()

    assert File.read!("guides/options.md") =~ "<!-- options -->\n#{docs}\n<!-- /options -->",
           "put the output of this between the marks: " <>
             "mix run --no-start -e 'IO.puts(Caravan.Cluster.Config.docs())'"
  end

  test "each guide is part of the documentation and of the package" do
    project = Mix.Project.config()
    files = Enum.flat_map(project[:package][:files], &Path.wildcard/1)

    for path <- Blocks.files() do
      assert path in project[:docs][:extras], path
      assert Enum.any?(files, &(path == &1 or String.starts_with?(path, &1 <> "/"))), path
    end
  end

  test "each public function has a text, types and an example, and other modules are hidden" do
    blocks = Blocks.of_docs()

    lacking =
      for module <- Blocks.modules(),
          {:docs_v1, _, _, _, moduledoc, _, docs} = Code.fetch_docs(module),
          lack <- lacking(module, moduledoc, docs, blocks),
          do: lack

    assert lacking == []
  end

  defp lacking(_module, :hidden, _docs, _blocks), do: []
  defp lacking(module, :none, _docs, _blocks), do: ["#{inspect(module)}: @moduledoc"]

  defp lacking(module, _moduledoc, docs, blocks) do
    {:ok, specs} = Code.Typespec.fetch_specs(module)

    for {{:function, name, arity}, _, _, doc, _} <- docs,
        doc != :hidden,
        function = "#{inspect(module)}.#{name}/#{arity}",
        {lack, true} <- [
          {"@doc", not is_map(doc)},
          {"@spec", not List.keymember?(specs, {name, arity}, 0)},
          {"an example", not example?(blocks, module, name, function)}
        ],
        do: "#{function}: #{lack}"
  end

  defp example?(blocks, module, name, function) do
    call = "#{module |> Module.split() |> List.last()}.#{name}"
    Enum.any?(blocks, &(&1.source in [function, inspect(module)] and &1.text =~ call))
  end
end
