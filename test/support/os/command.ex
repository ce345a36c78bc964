defmodule Caravan.Test.Command do
  @moduledoc """
  Runs a command of the operating system to its end, with a clean environment and a deadline.

  A command that misses its deadline is ended. Its status is then 124, or 137 if it needed SIGKILL, as `timeout` returns it.
  """

  import ExUnit.Assertions

  alias Caravan.Test.PeerNode

  @enforce_keys [:status, :stdout, :stderr, :crash_dump?]
  defstruct [:status, :stdout, :stderr, :crash_dump?]

  @type t :: %__MODULE__{
          status: non_neg_integer,
          stdout: String.t(),
          stderr: String.t(),
          crash_dump?: boolean
        }

  # Runs the command in /, so that a daemon that it starts keeps no other directory in use.
  @script ~S(cd / && exec "$@" 2>"$0/stderr" <"$0/stdin")

  @doc """
  Runs a command. Options: `env`, a list of `{name, value}`; `stdin`, a text; `timeout` in seconds, by default 120.
  """
  @spec run([String.t(), ...], keyword) :: t
  def run(command, opts \\ []) do
    opts = Keyword.validate!(opts, env: [], stdin: "", timeout: 120)
    dir = Path.join(System.tmp_dir!(), "command-" <> Base.encode16(:rand.bytes(6), case: :lower))
    crash_dump = Path.join(dir, "erl_crash.dump")
    File.mkdir!(dir)

    try do
      File.write!(Path.join(dir, "stdin"), opts[:stdin])
      env = PeerNode.clean_env([{"ERL_CRASH_DUMP", crash_dump} | opts[:env]])

      limited =
        ["timeout", "-k", "2", to_string(opts[:timeout]), "/usr/bin/env"] ++ env ++ command

      {stdout, status} = System.cmd("/bin/sh", ["-c", @script, dir | limited])

      %__MODULE__{
        status: status,
        stdout: stdout,
        stderr: File.read!(Path.join(dir, "stderr")),
        crash_dump?: File.exists?(crash_dump)
      }
    after
      File.rm_rf!(dir)
    end
  end

  @doc "Fails the test unless the command was a boot that Caravan refused with one line. Returns the line."
  @spec assert_refused(t) :: String.t()
  def assert_refused(result) do
    assert %{status: 1, stdout: "", crash_dump?: false, stderr: stderr} = result
    assert ["caravan: " <> _ = line] = String.split(stderr, "\n", trim: true)
    assert stderr == line <> "\n"
    line
  end
end
