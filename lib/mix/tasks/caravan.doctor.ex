defmodule Mix.Tasks.Caravan.Doctor do
  @shortdoc "Looks for the reasons why nodes of this project do not form a cluster"

  @moduledoc """
  Looks at the files in `rel`, at Caravan's library, and at the lookups of the topologies in the configuration, which includes
  `config/runtime.exs`. `Caravan.Doctor` describes the findings.

      MIX_ENV=prod mix caravan.doctor --topology app --verbose

    * `--topology` - the only topology to look at
    * `--timeout` - the timeout of all checks together, in milliseconds
    * `--strict` - a warning counts as a failure
    * `--verbose` - also the checks that are ok or skipped are printed

  The status is that of `Caravan.doctor!/1`, and 2 for wrong arguments.
  """

  use Mix.Task

  @switches [topology: :string, timeout: :integer, strict: :boolean, verbose: :boolean]

  @impl true
  def run(args) do
    Mix.Task.run("app.config")

    case OptionParser.parse(args, strict: @switches) do
      {options, [], []} ->
        options = Keyword.replace_lazy(options, :topology, &String.to_atom/1)
        Caravan.Doctor.print_and_exit(options, true)

      _wrong ->
        Mix.shell().error(
          "expected the options of mix help caravan.doctor, got: #{inspect(args)}"
        )

        exit({:shutdown, 2})
    end
  end
end
