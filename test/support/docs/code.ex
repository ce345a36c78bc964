defmodule Caravan.Test.DocumentedCode do
  @moduledoc "Checks Elixir code and commands that the documentation shows."

  alias Caravan.Cluster.Config
  alias Caravan.Gen.Options
  alias Caravan.Gen.Plan
  alias Caravan.Gen.RuntimeExs
  alias Caravan.Test.Blocks

  @project %{app: :app, releases: [], umbrella?: false}

  @doc """
  Raises if the code does not parse, if a function of Caravan that it calls does not exist, or if options of a strategy are
  wrong.
  """
  @spec check_elixir!(String.t()) :: :ok
  def check_elixir!(text) do
    {_, :ok} =
      text
      |> Code.string_to_quoted!()
      |> Macro.prewalk(:ok, fn node, :ok -> {check(node), :ok} end)

    :ok
  end

  @doc "Raises if a task of Caravan in the shell script, one of its options, or Elixir code for a release is wrong."
  @spec check_commands!(String.t()) :: :ok
  def check_commands!(script) do
    for code <- codes(script), do: check_elixir!(code)
    for [name | arguments] <- tasks(script), do: check_task!(name, arguments)
    :ok
  end

  @doc "Returns the Elixir code that a script gives to `bin/app rpc` and `bin/app eval`."
  @spec codes(String.t()) :: [String.t()]
  def codes(script),
    do: for([_, code] <- Regex.scan(~r/\b(?:rpc|eval)\s+'([^']*)'/, script), do: code)

  @doc "Returns the tasks of Caravan in a script, with their arguments."
  @spec tasks(String.t()) :: [[String.t()]]
  def tasks(script) do
    for [_, task] <- Regex.scan(~r/(?:^|&& )mix (caravan\.[^#\n|>;]+)/m, script),
        do: OptionParser.split(task)
  end

  @doc "Returns a file as `mix caravan.gen.release` writes it into a new project named `app`."
  @spec generate(String.t(), Path.t()) :: String.t()
  def generate("mix caravan.gen.release " <> arguments, file) do
    {:ok, options} = arguments |> OptionParser.split() |> Options.parse(@project)

    case file do
      "config/runtime.exs" ->
        RuntimeExs.config(options)

      "lib/app/application.ex" ->
        RuntimeExs.child(options)

      file ->
        {:ok, plan} = Plan.new(options, Map.new(Plan.files(options), &{&1, nil}), false)
        {^file, nil, text} = List.keyfind(plan.changes, file, 0)
        text
    end
  end

  ## Elixir

  # What a user has before a migration.
  defp check({{:__aliases__, _, [:DNSCluster]}, _options}), do: nil

  defp check([{:strategy, {:__aliases__, _, [:Cluster | _]}} | _]), do: nil

  defp check(list) when is_list(list) do
    if Keyword.keyword?(list) and Keyword.has_key?(list, :query), do: check_options!(list)
    list
  end

  defp check(
         {{:., _, [{:__aliases__, _, [:Caravan | _] = names}, function]}, _, arguments} = call
       ) do
    check_call!(Module.concat(names), function, arguments)
    call
  end

  defp check({:__aliases__, _, [:Caravan | _] = names} = alias) do
    module = Module.concat(names)
    Code.ensure_loaded?(module) || raise "there is no module #{inspect(module)}"
    alias
  end

  defp check(node), do: node

  # The values of variables are not known.
  defp check_options!(list) do
    {options, _} = list |> Enum.reject(&variable?/1) |> Code.eval_quoted()
    Config.new!(options)
  end

  defp variable?({_key, {name, _, context}}), do: is_atom(name) and is_atom(context)
  defp variable?(_option), do: false

  # A pipe gives one argument more, and a capture such as &f/1 has none.
  defp check_call!(module, function, arguments) do
    count = length(arguments)
    Code.ensure_loaded!(module)

    Enum.any?(module.__info__(:functions), fn {name, arity} ->
      name == function and (count == 0 or arity in [count, count + 1])
    end) || raise "there is no function #{inspect(module)}.#{function}/#{count}"

    with options when is_list(options) <- List.last(arguments),
         true <- Keyword.keyword?(options) do
      for {key, _} <- options, do: documented!(inspect(key))
    end
  end

  defp documented!(key) do
    Enum.any?(Blocks.docs(), fn {_source, text} -> text =~ "`#{key}`" end) ||
      raise "there is no option #{key}"
  end

  ## Commands

  defp check_task!("caravan.gen.release", arguments) do
    {:ok, _options} = Options.parse(arguments, @project)
  end

  defp check_task!(name, arguments) do
    module = Mix.Task.get(name) || raise "there is no task #{name}"

    for "--" <> _ = switch <- arguments do
      Mix.Task.moduledoc(module) =~ "`#{switch}" ||
        raise "the task #{name} has no option #{switch}"
    end
  end
end
