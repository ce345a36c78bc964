defmodule Caravan.Test.Reload do
  @moduledoc "Reloads a module while processes call it. Runs on the node under test."

  @doc """
  Loads the code of `module` `times` times, with `pause` milliseconds after each.

  Like a release handler, it does not purge old code while a process is in it, and tries again.
  """
  @spec run(module, times :: non_neg_integer, pause :: non_neg_integer) :: :ok
  def run(module, times, pause \\ 0)
  def run(_module, 0, _pause), do: :ok

  def run(module, times, pause) do
    loaded? = :code.soft_purge(module) and :code.load_file(module) == {:module, module}
    Process.sleep(pause)
    run(module, if(loaded?, do: times - 1, else: times), pause)
  end
end
