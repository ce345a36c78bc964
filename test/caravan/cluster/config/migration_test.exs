defmodule Caravan.Cluster.Config.MigrationTest do
  @moduledoc "config_test.exs tests the error messages that have this advice."
  use ExUnit.Case, async: true

  alias Caravan.Cluster.Config.Migration
  alias Caravan.Cluster.Config.Schema

  test "an option of another strategy has advice" do
    assert Migration.advice(:polling_interval) == "Caravan calls this option :poll_interval"
  end

  test "no option of Caravan has advice, because options with advice are refused" do
    assert for({name, _option} <- Schema.schema(), Migration.advice(name), do: name) == []
  end

  test "the advice names options of Caravan only" do
    for option <- [:polling_interval, :resource_types, :application_name, :name, :log, :resolver],
        ":" <> name = hd(Regex.run(~r/:\w+/, Migration.advice(option))),
        do: assert(Keyword.has_key?(Schema.schema(), String.to_existing_atom(name)))
  end
end
