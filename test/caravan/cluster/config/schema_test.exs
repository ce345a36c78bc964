defmodule Caravan.Cluster.Config.SchemaTest do
  @moduledoc "config_test.exs has the values that each option takes and refuses."
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Config.Schema
  alias Caravan.Options

  test "each option takes its own default" do
    options =
      for {name, option} <- Schema.schema(),
          {:ok, default} <- [Keyword.fetch(option, :default)],
          do: {name, default}

    given = Options.validate!([query: "app.test"] ++ options, Schema.schema(), "test")
    assert given == Options.validate!([query: "app.test"], Schema.schema(), "test")
  end
end
