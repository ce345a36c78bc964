defmodule Caravan.Test.Requirements do
  @moduledoc """
  Skips tests that need a program or a right that this machine lacks.

      @moduletag Requirements.tag([:knot, :kdig])

  Each missing requirement is printed once for the whole test run.
  """

  alias Caravan.Test.Daemon
  alias Caravan.Test.Netns
  alias Caravan.Test.SystemFiles

  @typedoc "A program of the operating system, or a kind of namespace that this user must be able to make."
  @type requirement ::
          :cargo
          | :erl_call
          | :kdig
          | :knotd
          | :openssl
          | :script
          | :unbound
          | :netns
          | :system_files

  # Each program with the Debian package that has it.
  @packages %{
    cargo: nil,
    erl_call: "erlang-base",
    kdig: "knot-dnsutils",
    knotd: "knot",
    openssl: "openssl",
    script: "bsdutils",
    unbound: "unbound"
  }

  @doc """
  For `@moduletag` and `@tag`: returns a `:skip` tag if one of the requirements is missing, else an
  empty list.
  """
  @spec tag(requirement | [requirement]) :: [skip: String.t()]
  def tag(requirements) do
    # Test files are loaded in parallel. Without the lock, two of them would print the same line.
    missing =
      :global.trans({__MODULE__, self()}, fn -> missing(List.wrap(requirements)) end, [node()])

    if missing == [], do: [], else: [skip: Enum.join(missing, "; ")]
  end

  defp missing(requirements),
    do: for(name <- requirements, reason = reason(name), do: reason)

  defp reason(name) do
    with :unknown <- :persistent_term.get({__MODULE__, name}, :unknown) do
      reason = check(name)
      if reason, do: IO.puts("Skipping tests that need #{name}: #{reason}")
      :persistent_term.put({__MODULE__, name}, reason)
      reason
    end
  end

  defp check(:netns), do: Netns.obstacle()
  defp check(:system_files), do: SystemFiles.obstacle()

  defp check(program) do
    package = Map.fetch!(@packages, program)
    package = if package, do: " (Debian package #{package})"
    unless Daemon.find(to_string(program)), do: "it is not installed#{package}"
  end
end
