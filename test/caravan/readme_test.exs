defmodule Caravan.ReadmeTest do
  use ExUnit.Case, async: true

  test "the README has the options of the code" do
    docs = Caravan.Cluster.Config.docs()

    assert File.read!("README.md") =~ "<!-- options -->\n#{docs}\n<!-- /options -->",
           "put the output of this between the marks: " <>
             "mix run --no-start -e 'IO.puts(Caravan.Cluster.Config.docs())'"
  end
end
