defmodule Caravan.Test.FailuresAtEnd do
  # Prints the failed tests again after the last test. So they can also be read if only the end of the log is kept.
  @moduledoc false

  use GenServer

  @impl true
  def init(_options), do: {:ok, []}

  @impl true
  def handle_cast({:test_finished, %ExUnit.Test{state: {:failed, failures}} = test}, failed),
    do: {:noreply, [{test, failures} | failed]}

  def handle_cast({:suite_finished, _times}, failed) do
    for {{test, failures}, number} <- failed |> Enum.reverse() |> Enum.with_index(1) do
      text =
        ExUnit.Formatter.format_test_failure(test, failures, number, 80, fn _, text -> text end)

      IO.puts(["\nfailed:", text])
    end

    {:noreply, failed}
  end

  def handle_cast(_event, failed), do: {:noreply, failed}
end
