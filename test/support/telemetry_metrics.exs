defmodule Telemetry.Metrics do
  @moduledoc """
  A double of `Telemetry.Metrics`, so that the tests need no package of Hex. It has the functions that
  `Caravan.Telemetry.metrics/0` calls.

  As in version 1.1 of the real module, a metric without `:event_name` and `:measurement` takes them from its name.
  """

  defstruct [
    :type,
    :name,
    :event_name,
    :measurement,
    :tags,
    :tag_values,
    :unit,
    :reporter_options
  ]

  for type <- [:counter, :last_value, :distribution] do
    def unquote(type)(name, options) do
      name = name |> String.split(".") |> Enum.map(&String.to_atom/1)
      {event, [measurement]} = Enum.split(name, -1)
      defaults = [event_name: event, measurement: measurement, tags: [], tag_values: & &1]
      fields = [type: unquote(type), name: name] ++ defaults
      struct!(__MODULE__, Keyword.merge(fields, options))
    end
  end
end
