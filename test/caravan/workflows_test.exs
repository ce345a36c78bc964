defmodule Caravan.WorkflowsTest do
  @moduledoc "Checks the workflows of GitHub Actions. No test can run them here."
  use ExUnit.Case, async: true

  alias Caravan.Test.Requirements

  # Checks the fields of each job and step, and prints the commands of each step.
  @read """
  import sys, yaml
  workflow = yaml.safe_load(open(sys.argv[1]))
  for name, job in workflow["jobs"].items():
      needs = job.get("needs", [])
      for need in [needs] if isinstance(needs, str) else needs:
          assert need in workflow["jobs"], need
      assert job["timeout-minutes"] and job["runs-on"], name
      for step in job["steps"]:
          assert ("run" in step) != ("uses" in step), step
          sys.stdout.write(step.get("run", "") + "\\0")
  """

  for file <- Path.wildcard(".github/workflows/*.yml") do
    @tag Requirements.tag(:python3_yaml)
    test "#{file} is valid, and so are its commands" do
      assert {scripts, 0} =
               System.cmd("python3", ["-c", @read, unquote(file)], stderr_to_stdout: true)

      scripts = String.split(scripts, "\0", trim: true)
      assert scripts != []

      for script <- scripts do
        assert {_, 0} = System.cmd("bash", ["-n", "-c", script], stderr_to_stdout: true)

        for program <- Regex.scan(~r"^(?:bin|\.ci)/\S+"m, script),
            do: assert(File.exists?(hd(program)))
      end
    end
  end
end
