defmodule Caravan.ArchitectureTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO

  # ARCHITECTURE.md explains the kinds. The first comment line of a file names the kind, or the kinds,
  # of its module: "# Pure. …", "# NIF border, boot-safe. …". A module with a moduledoc is public.
  @kinds ["process", "owner-state", "pure", "effect", "boot-safe", "nif border"]

  # A pure module may call other pure modules, and all functions that match @pure unless they also match @impure.
  # Elixir 1.18 compiles `struct.field` to :elixir_erl_pass.no_parens_remote/2, and 1.20 a regular expression to
  # :re.import/1. Elixir 1.18 also compiles `& &1` to Function.identity/1.
  @pure ~r"""
  ^(Access|ArgumentError|Enum|Exception|Integer|Kernel|Keyword|List|Map|MapSet|Range|Regex)\.|
  ^(String|String\.Chars|Tuple|:binary|:erlang|:gb_sets|:gb_trees|:lists|:maps|:math|:queue|OptionParser)\.|
  ^Code\.ensure_loaded\?|^Function\.identity/|^:elixir_erl_pass\.no_parens_remote/|^:inet\.(ntoa|parse_|is_ip)|^:rand\.\w+_s/|^:re\.import/
  """x
  @impure ~r"""
  to_(existing_)?atom/|
  ^:erlang\.(nodes?|self|whereis|register|registered|put|get|make_ref|open_port)/|
  ^:erlang\.\w*(time|timer|unique|send|spawn|monitor|link|process)
  """x

  setup_all do
    {:ok, modules: for(file <- Path.wildcard("lib/**/*.ex"), do: read(file))}
  end

  defp read(file) do
    source = File.read!(file)
    [[name]] = Regex.scan(~r/^defmodule (\S+)/m, source, capture: :all_but_first)
    kinds = Regex.run(~r/^  # ([^.]+)\./m, source, capture: :all_but_first) || [""]
    kinds = kinds |> hd() |> String.downcase() |> String.split(", ")

    kinds = if Enum.all?(kinds, &(&1 in @kinds)), do: kinds, else: []
    public = if source =~ ~s(@moduledoc """), do: ["public"], else: []
    %{name: Module.concat([name]), file: file, kinds: public ++ kinds}
  end

  test "every module names its kind or is public", %{modules: modules} do
    assert for(module <- modules, module.kinds == [], do: module.file) == []
  end

  test "boot-safe modules call only the VM, kernel, stdlib and each other", %{modules: modules} do
    boot_safe = of_kind(modules, "boot-safe")
    # :erlang, :init and others are part of the VM itself.
    allowed = :erlang.pre_loaded() ++ modules_of(:kernel) ++ modules_of(:stdlib) ++ boot_safe

    for module <- boot_safe, {callee, function, arity} <- chunk(module, :imports) do
      assert callee in allowed,
             "#{inspect(module)} calls #{Exception.format_mfa(callee, function, arity)}"
    end
  end

  test "boot-safe modules have no on_load function", %{modules: modules} do
    for module <- of_kind(modules, "boot-safe") do
      # The compiler leaves no attribute behind, but an instruction.
      functions = module |> :code.which() |> :beam_disasm.file() |> elem(5)
      instructions = Enum.flat_map(functions, &elem(&1, 4))
      refute :on_load in instructions, inspect(module)
    end
  end

  test "pure modules call only pure functions", %{modules: modules} do
    pure = of_kind(modules, "pure")

    for module <- pure, {callee, function, arity} <- chunk(module, :imports) do
      call = Exception.format_mfa(callee, function, arity)

      assert callee in pure or (call =~ @pure and not (call =~ @impure)),
             "#{inspect(module)} calls #{call}"
    end
  end

  test "mix xref finds no cycle" do
    assert capture_io(fn -> Mix.Task.rerun("xref", ["graph", "--format", "cycles"]) end) ==
             "No cycles found\n"
  end

  defp of_kind(modules, kind), do: for(module <- modules, kind in module.kinds, do: module.name)

  defp modules_of(application) do
    _ = Application.load(application)
    Application.spec(application, :modules)
  end

  defp chunk(module, id) do
    {:ok, {^module, [{^id, chunk}]}} = :beam_lib.chunks(:code.which(module), [id])
    chunk
  end
end
