defmodule Caravan.Test.SystemFiles do
  @moduledoc """
  A VM with a private `/etc` and a private loopback interface, so that a test can set the resolver
  configuration of the system.

      node = SystemFiles.start!(resolv_conf: "nameserver 127.0.0.1\\n", hosts: "")
      SystemFiles.nameserver!(node, :first, ip: {127, 0, 0, 1}, answers: [{"app.test", :a, [{10, 0, 0, 1}]}])
      {:ok, answer} = SystemFiles.lookup(node, "app.test", :a)

  The VM runs in a mount namespace and in a network namespace of its own. The kernel removes both when the VM ends.
  """

  import ExUnit.Callbacks, only: [on_exit: 1]

  alias Caravan.Dns
  alias Caravan.Test.DnsServer
  alias Caravan.Test.PeerNode

  @enforce_keys [:node, :etc]
  defstruct [:node, :etc]

  @type t :: %__MODULE__{node: PeerNode.t(), etc: Path.t()}
  @type file :: :resolv_conf | :hosts

  @files %{resolv_conf: "resolv.conf", hosts: "hosts"}

  # Mounts the directory, because a file that is a mount point cannot be replaced by another file.
  @enter ~S(mount --bind "$0" /etc && ip link set lo up && exec "$@")

  @doc """
  Returns why this user cannot make such namespaces, or `nil`.

  Root can make them. Other users can make them if the kernel allows user namespaces for all users.
  """
  @spec obstacle() :: String.t() | nil
  def obstacle do
    [command | args] = unshare() ++ ["sh", "-c", @enter, "/etc", "true"]

    case System.cmd(command, args, stderr_to_stdout: true) do
      {_, 0} ->
        nil

      {output, _} ->
        "this user cannot make a namespace with a private /etc: #{String.trim(output)}"
    end
  end

  @doc """
  Starts a VM. Options: `resolv_conf` and `hosts`, the contents of the files. With `nil`, the file is missing. `node` has the
  options of `PeerNode.start!/1`. By default, the VM has no name.
  """
  @spec start!(keyword) :: t
  def start!(opts) do
    opts = Keyword.validate!(opts, [:resolv_conf, :hosts, node: [epmd: false]])
    dir = Path.join(System.tmp_dir!(), "etc-" <> Base.encode16(:rand.bytes(6), case: :lower))
    File.mkdir!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)
    etc = Path.join(dir, "etc")
    # The status does not count: only root can read all of /etc, and the VM needs no secrets.
    _ = System.cmd("cp", ["-a", "/etc", etc], stderr_to_stdout: true)

    for {file, name} <- @files,
        do:
          {File.rm(Path.join(etc, name)),
           opts[file] && File.write!(Path.join(etc, name), opts[file])}

    wrapper = unshare() ++ ["sh", "-c", @enter, etc]
    node = PeerNode.start!([wrapper: wrapper] ++ opts[:node])
    %__MODULE__{node: node, etc: etc}
  end

  @doc "Starts a `Caravan.Test.DnsServer` in the VM, by default on port 53."
  @spec nameserver!(t, atom, keyword) :: atom
  def nameserver!(%__MODULE__{node: node}, name, opts) do
    {:ok, _pid} =
      PeerNode.call(node, GenServer, :start, [DnsServer, [port: 53] ++ opts, [name: name]])

    name
  end

  @doc "Calls a function of `Caravan.Test.DnsServer` with a server that `nameserver!/3` started."
  @spec server(t, atom, atom, [term]) :: term
  def server(%__MODULE__{node: node}, name, function, args \\ []),
    do: PeerNode.call(node, DnsServer, function, [name | args])

  @spec lookup(t, String.t(), Dns.type(), keyword) ::
          {:ok, Dns.Answer.t()} | {:error, Dns.Error.t()}
  def lookup(%__MODULE__{node: node}, name, type, options \\ []),
    do: PeerNode.call(node, Dns, :lookup, [name, type, options])

  @doc "Writes a file in place, as `echo` in a shell does."
  @spec write!(t, file, String.t()) :: :ok
  def write!(%__MODULE__{etc: etc}, file, text),
    do: File.write!(Path.join(etc, @files[file]), text)

  @doc """
  Replaces a file by another file, as editors and kubelets do. With `keep_time: true`, the new file has the
  modification time of the old file.
  """
  @spec replace!(t, file, String.t(), keyword) :: :ok
  def replace!(%__MODULE__{etc: etc}, file, text, opts \\ []) do
    path = Path.join(etc, @files[file])
    File.write!(path <> ".new", text)
    if opts[:keep_time], do: {_, 0} = System.cmd("touch", ["-r", path, path <> ".new"])
    File.rename!(path <> ".new", path)
  end

  @spec remove!(t, file) :: :ok
  def remove!(%__MODULE__{etc: etc}, file), do: File.rm!(Path.join(etc, @files[file]))

  # Root needs no user namespace. In a chroot, the kernel does not allow one.
  defp unshare do
    {uid, 0} = System.cmd("id", ["-u"])
    user = if String.trim(uid) == "0", do: [], else: ["--map-root-user"]
    ["unshare"] ++ user ++ ["--mount", "--net", "--"]
  end
end
