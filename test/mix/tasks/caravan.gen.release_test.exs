defmodule Mix.Tasks.Caravan.Gen.ReleaseTest do
  # Not async, because the output of the whole VM is captured.
  use ExUnit.Case

  import ExUnit.CaptureIO

  alias Mix.Tasks.Caravan.Gen.Release

  test "an error goes to stderr and ends the task with status 2" do
    stderr =
      capture_io(:stderr, fn ->
        assert catch_exit(Release.run(["--platform", "x"])) == {:shutdown, 2}
      end)

    assert stderr =~ "--platform: expected one of kubernetes"
    assert stderr =~ "Nothing was written."
  end

  test "--dry-run ends the task with status 1 if something would change, and writes nothing" do
    argv = ["--platform", "kubernetes", "--dry-run"]
    stdout = capture_io(fn -> assert catch_exit(Release.run(argv)) == {:shutdown, 1} end)
    # The name is that of this project.
    assert stdout =~ "caravan@$caravan_host"
    refute File.exists?("rel/env.sh.eex")
  end

  test "the documentation has the switches of the options" do
    {:docs_v1, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(Release)

    for switch <- ~w(platform query sname port ipv6 tls release yes dry-run),
        do: assert(doc =~ "`--#{switch}`")
  end
end
