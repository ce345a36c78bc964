defmodule Caravan.Test.Release do
  @moduledoc """
  The release of `examples/fleet` or another project, and nodes that run it as in production.

      release = Release.build!()
      node = Release.start!(release, Release.node(release, "app-5101@127.0.0.1"))
      Release.run(node, ["rpc", "IO.inspect(Node.list())"])

  The release contains the Rust library that is being tested, so cargo builds nothing.
  """

  import ExUnit.Assertions, only: [assert: 2, flunk: 1]
  import ExUnit.Callbacks, only: [on_exit: 1]

  alias Caravan.Test.Command
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode

  @fleet Path.expand("../../../examples/fleet", __DIR__)

  @enforce_keys [:dir, :script]
  defstruct [:dir, :script]

  @type t :: %__MODULE__{dir: Path.t(), script: Path.t()}

  defmodule Node do
    @moduledoc """
    One node of the release: the environment of its script, and its directory. `name` is `nil` if the release names the
    node. `wrapper` are words to put before each command, such as those of `Caravan.Test.Netns.wrapper/2`, which run it on
    another host.
    """

    @enforce_keys [:script, :name, :dir, :env]
    defstruct [:script, :name, :dir, :env, :os_pid, wrapper: []]

    @type t :: %__MODULE__{
            script: Path.t(),
            name: String.t() | nil,
            wrapper: [String.t()],
            dir: Path.t(),
            env: [{String.t(), String.t()}],
            os_pid: String.t() | nil
          }
  end

  @doc "Builds the release. It is deleted after the test, or in `setup_all` after the tests of the module."
  @spec build!() :: t
  def build!, do: build!(@fleet, "fleet", "release")

  @doc """
  Builds the release of the application `app` in the directory `project`, with more `arguments` of `mix release`. Compiles
  it in the subdirectory `build` of the build directory of the tests, which is not deleted afterwards.
  """
  @spec build!(Path.t(), String.t(), String.t(), [String.t()]) :: t
  def build!(project, app, build, arguments \\ []) do
    dir = tmp_dir!("release")
    mix!(project, build, ["release" | arguments] ++ ["--overwrite", "--path", dir])
    %__MODULE__{dir: dir, script: Path.join([dir, "bin", app])}
  end

  @doc "Runs a Mix task in a project as `build!/3` does, and returns what it prints."
  @spec mix!(Path.t(), String.t(), [String.t()]) :: String.t()
  def mix!(project, build, arguments) do
    env = [
      {"MIX_ENV", "prod"},
      {"MIX_BUILD_PATH", Path.join(Mix.Project.build_path(), build)},
      {"CARAVAN_NIF", Application.app_dir(:caravan, "priv/native/caravan_nif.so")}
    ]

    mix = ["sh", "-c", ~S(cd "$0" && exec mix "$@"), project | arguments]
    ran = Command.run(mix, env: env, timeout: 300)
    assert ran.status == 0, "mix #{Enum.join(arguments, " ")} failed:\n#{ran.stdout}#{ran.stderr}"
    ran.stdout
  end

  @doc """
  Returns a node that is not started yet. `name` is its `RELEASE_NODE`, or `nil` for none. Each command of its script gets
  `env`, as in a container: `start`, `rpc` and the others.
  """
  @spec node(t, String.t() | nil, [{String.t(), String.t()}], [String.t()]) :: Node.t()
  def node(%__MODULE__{} = release, name, env \\ [], wrapper \\ []) do
    dir = tmp_dir!("node")
    named = if name, do: [{"RELEASE_NODE", name}], else: []
    env = named ++ [{"RELEASE_TMP", dir}] ++ env
    on_exit(fn -> end_all(dir) end)
    %Node{script: release.script, name: name, dir: dir, env: env, wrapper: wrapper}
  end

  @doc "Runs a command of the release's script to its end, such as `rpc`, `pid`, `stop`, or a `start` that fails."
  @spec run(Node.t(), [String.t()], keyword) :: Command.t()
  def run(%Node{} = node, arguments, opts \\ []),
    do: Command.run(node.wrapper ++ [node.script | arguments], [env: node.env] ++ opts)

  @doc "Starts the node in the foreground until the test ends. The node may still be booting when this returns."
  @spec start!(Node.t()) :: Node.t()
  def start!(%Node{} = node) do
    File.touch!(log_file(node))
    command = ["-c", ~S(exec "$@" >"$0" 2>&1 </dev/null), log_file(node), "/usr/bin/env"]
    arguments = command ++ PeerNode.clean_env(node.env) ++ node.wrapper ++ [node.script, "start"]
    # :exit_status keeps the port open when the command closes its stdout.
    port = Port.open({:spawn_executable, "/bin/sh"}, [:exit_status, args: arguments])
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    %{node | os_pid: to_string(os_pid)}
  end

  @doc """
  Runs a command on a new terminal, which `remote` needs. Returns a port: its messages are the output, and
  bytes sent to it are typed.
  """
  @spec on_terminal!(Node.t(), String.t()) :: port
  def on_terminal!(%Node{} = node, command) do
    script = ["script", "-qefc", "#{node.script} #{command}", "/dev/null"]
    env = PeerNode.clean_env([{"TERM", "xterm"} | node.env])
    Port.open({:spawn_executable, "/usr/bin/env"}, [:binary, args: env ++ node.wrapper ++ script])
  end

  @doc "Waits for a text on a terminal of `on_terminal!/2`."
  @spec await_output(port, String.t(), printed :: String.t()) :: true
  def await_output(terminal, text, printed \\ "") do
    receive do
      {^terminal, {:data, bytes}} ->
        printed = printed <> bytes
        printed =~ text or await_output(terminal, text, printed)
    after
      60_000 -> flunk("expected #{inspect(text)} on the terminal, got: #{printed}")
    end
  end

  @doc "Waits until Elixir code is true on a started node."
  @spec await(Node.t(), String.t()) :: :ok
  def await(%Node{} = node, condition \\ "true") do
    Host.await(fn -> rpc(node, condition) == "true" end, "#{node.name}: #{condition}", 120_000)
    :ok
  end

  @doc "Returns the inspected value of the code on the node, or `nil` if the node does not answer."
  @spec rpc(Node.t(), String.t()) :: String.t() | nil
  def rpc(%Node{} = node, code) do
    case run(node, ["rpc", "IO.inspect((#{code}))"]) do
      %{status: 0, stdout: stdout} -> String.trim_trailing(stdout)
      _ -> nil
    end
  end

  @doc "Returns the output of a started node."
  @spec log(Node.t()) :: String.t()
  def log(%Node{} = node), do: File.read!(log_file(node))

  defp log_file(node), do: Path.join(node.dir, "log")

  # Ends all processes that were started with this RELEASE_TMP: the node, its helpers and its daemon.
  defp end_all(dir) do
    for os_pid <- Host.pids_with_env("RELEASE_TMP=#{dir}") do
      System.cmd("kill", ["-KILL", os_pid], stderr_to_stdout: true)
      Host.await_exit(os_pid)
    end

    File.rm_rf!(dir)
  end

  defp tmp_dir!(name) do
    dir = Path.join(System.tmp_dir!(), "#{name}-" <> Base.encode16(:rand.bytes(6), case: :lower))
    File.mkdir_p!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)
    dir
  end
end
