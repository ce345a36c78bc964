unless Code.ensure_loaded?(:telemetry) do
  defmodule :telemetry do
    @moduledoc """
    A double of `:telemetry`, so that the tests need no package of Hex. It keeps the handlers in a persistent term.
    """

    @spec attach_many(term, [[atom]], function, term) :: :ok
    def attach_many(id, events, function, config),
      do: :persistent_term.put(__MODULE__, Map.put(handlers(), id, {events, function, config}))

    @spec detach(term) :: :ok
    def detach(id), do: :persistent_term.put(__MODULE__, Map.delete(handlers(), id))

    @spec execute([atom], map, map) :: :ok
    def execute(event, measurements, metadata) do
      for {_id, {events, function, config}} <- handlers(), event in events do
        function.(event, measurements, metadata, config)
      end

      :ok
    end

    defp handlers, do: :persistent_term.get(__MODULE__, %{})
  end
end
