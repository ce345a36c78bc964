defmodule Caravan.Test.Eventually do
  @moduledoc false

  @doc "Polls `condition` for at most `timeout` milliseconds. Returns whether it held."
  @spec true?((() -> as_boolean(term)), timeout :: pos_integer) :: boolean
  def true?(condition, timeout \\ 20_000) do
    poll(condition, System.monotonic_time(:millisecond) + timeout)
  end

  defp poll(condition, deadline) do
    cond do
      condition.() -> true
      System.monotonic_time(:millisecond) >= deadline -> false
      true -> Process.sleep(10) && poll(condition, deadline)
    end
  end
end
