defmodule Caravan.ReadmeTest do
  use ExUnit.Case, async: true

  test "the options in the README are those of the code" do
    assert File.read!("README.md") =~ Caravan.Cluster.Config.docs()
  end
end
