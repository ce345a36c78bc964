defmodule Caravan.Test.Property do
  @moduledoc """
  Property tests over lists of random commands, with shrinking.

      Property.check(200, 1..80, &command/0, fn commands -> run(commands) end)

  `command` uses `:rand`, which is seeded from the seed of the test run. So `mix test --seed` repeats a failure. A
  list that fails is shortened for at most 20 seconds, and then printed.
  """

  import ExUnit.Assertions, only: [flunk: 1]

  # Milliseconds.
  @shrink_time 20_000

  @doc "Runs `property` with `runs` lists of commands. `lengths` is the range of their lengths."
  @spec check(pos_integer, Range.t(), (() -> term), ([term] -> term)) :: :ok
  def check(runs, lengths, command, property) do
    seed = ExUnit.configuration()[:seed]

    for run <- 1..runs do
      :rand.seed(:exsss, {seed, run, 0})
      commands = for _ <- 1..Enum.random(lengths), do: command.()

      # The property gets the same random numbers each time.
      property = fn commands ->
        :rand.seed(:exsss, {seed, run, 1})
        property.(commands)
      end

      with {:failed, _message} <- attempt(property, commands) do
        deadline = System.monotonic_time(:millisecond) + @shrink_time
        shrunk = shrink(commands, div(length(commands) + 1, 2), property, deadline)
        {:failed, message} = attempt(property, shrunk)

        flunk("""
        run #{run} with seed #{seed} failed. The shortest list of commands that still fails (#{length(shrunk)} of #{length(commands)}):

        #{inspect(shrunk, limit: :infinity, pretty: true)}

        #{message}
        """)
      end
    end

    :ok
  end

  # Removes pieces of `size` commands while the rest still fails, then smaller pieces.
  defp shrink(commands, 0, _property, _deadline), do: commands

  defp shrink(commands, size, property, deadline) do
    starts = Enum.take_every(0..max(0, length(commands) - 1), size)

    shorter =
      starts
      |> Stream.take_while(fn _ -> System.monotonic_time(:millisecond) < deadline end)
      |> Stream.map(&(Enum.take(commands, &1) ++ Enum.drop(commands, &1 + size)))
      |> Enum.find(&(&1 != commands and match?({:failed, _}, attempt(property, &1))))

    if shorter,
      do: shrink(shorter, min(size, max(1, length(shorter))), property, deadline),
      else: shrink(commands, div(size, 2), property, deadline)
  end

  defp attempt(property, commands) do
    property.(commands)
    :ok
  rescue
    error -> {:failed, Exception.format(:error, error, __STACKTRACE__)}
  end
end
