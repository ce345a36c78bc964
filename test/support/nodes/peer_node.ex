defmodule Caravan.Test.PeerNode do
  @moduledoc """
  BEAM nodes on `Caravan.Epmd`. OTP's `:peer` starts each in a separate VM.

      a = PeerNode.start!(name: PeerNode.name("a"))
      b = PeerNode.start!(name: PeerNode.name("b"))
      true = PeerNode.call(a, :net_kernel, :connect_node, [b.name])

  The nodes talk to the test over stdin and stdout, so the test VM need not be distributed. A node ends with
  the test that started it, and the test waits for the end of the node.
  """

  import ExUnit.Callbacks, only: [on_exit: 1, start_supervised!: 1, stop_supervised!: 1]

  alias Caravan.Test.Host

  @enforce_keys [:id, :peer, :name, :os_pid]
  defstruct [:id, :peer, :name, :os_pid]

  @type t :: %__MODULE__{id: reference, peer: pid, name: node, os_pid: String.t()}

  # Milliseconds. They only bound waits that normally end at once.
  @boot_timeout 120_000
  @call_timeout 120_000

  @doc """
  Starts a node and waits until it has booted.

    * `:name`: `"a-4001@127.0.0.1"`, or `"a-4001"` for a short name. Without it, the VM is not alive.
    * `:epmd`: with `false`, the flags of `Caravan.Epmd` are left out.
    * `:path`: the directories with beam files. By default, they are Elixir's and Caravan's in this VM.
    * `:args`, `:env` (`[{"NAME", "value"}]`): additional VM arguments and environment variables.
    * `:wrapper`: a command that gets the command of the node as its last arguments and executes it.
  """
  @spec start!(keyword) :: t
  def start!(opts \\ []) do
    opts =
      Keyword.validate!(opts, [:name, epmd: true, path: path(), args: [], env: [], wrapper: []])

    id = make_ref()

    start = {:peer, :start_link, [options(opts)]}
    peer = start_supervised!(%{id: id, start: start, restart: :temporary})

    name = :peer.call(peer, :erlang, :node, [], @call_timeout)
    os_pid = peer |> :peer.call(:os, :getpid, [], @call_timeout) |> to_string()

    # `:peer` closes the node's stdin. On a very busy machine, about one node in some hundred did not notice and
    # stayed idle. await_end/1 prints that and kills the node. It does not fail a test that has passed.
    on_exit(fn -> Host.await_end(os_pid) end)
    %__MODULE__{id: id, peer: peer, name: name, os_pid: os_pid}
  end

  @doc "Ends the node. Its port is free when this function returns."
  @spec stop!(t) :: :ok
  def stop!(%__MODULE__{} = node) do
    stop_supervised!(node.id)
    Host.await_exit(node.os_pid)
  end

  @doc "Calls a function on the node, over stdin and stdout."
  @spec call(t, module, atom, [term]) :: term
  def call(%__MODULE__{} = node, module, function, args),
    do: :peer.call(node.peer, module, function, args, @call_timeout)

  @doc "Evaluates Elixir code on the node, with `bindings` as variables, and returns the value."
  @spec eval(t, String.t(), keyword) :: term
  def eval(%__MODULE__{} = node, code, bindings \\ []) do
    {value, _bindings} = call(node, Code, :eval_string, [code, bindings])
    value
  end

  @doc "Returns a long node name whose number is a free port."
  @spec name(String.t(), String.t()) :: String.t()
  def name(prefix, host \\ "127.0.0.1"), do: "#{prefix}-#{Host.free_port()}@#{host}"

  @doc "Returns the port in a name that `name/2` made."
  @spec port(t | String.t()) :: :inet.port_number()
  def port(%__MODULE__{name: name}), do: name |> Atom.to_string() |> port()

  def port(name) do
    [digits] = Regex.run(~r/-(\d+)(?:@|$)/, name, capture: :all_but_first)
    String.to_integer(digits)
  end

  @doc "Returns the VM arguments that the README requires."
  @spec epmd_args() :: [String.t()]
  def epmd_args, do: ~w(-epmd_module Elixir.Caravan.Epmd -start_epmd false)

  @doc "Returns VM arguments for distribution over TLS between nodes on 127.0.0.1 that verify each other."
  @spec tls_args() :: [String.t()]
  def tls_args, do: ~w(-proto_dist inet_tls -ssl_dist_optfile #{tls_options()})

  # Writes a CA, a certificate for 127.0.0.1 that it has signed, and options that require such a certificate.
  # It does so in another VM, because Mix may have removed public_key from the code path of this one.
  defp tls_options do
    maker = start!()
    key = [key: {:namedCurve, :secp256r1}, digest: :sha256]

    # OTP 25 compares the host of a node with the DNS names of the certificate, even if it is an address.
    names = [dNSName: ~c"127.0.0.1", iPAddress: <<127, 0, 0, 1>>]
    extensions = [{:Extension, {2, 5, 29, 17}, false, names}]
    chain = %{root: key, intermediates: [], peer: [extensions: extensions] ++ key}
    chains = %{server_chain: chain, client_chain: chain}
    made = call(maker, :public_key, :pkix_test_data, [chains])
    stop!(maker)

    file = Path.join(System.tmp_dir!(), "tls-" <> Base.encode16(:rand.bytes(6), case: :lower))
    on_exit(fn -> File.rm!(file) end)

    server = [verify: :verify_peer, fail_if_no_peer_cert: true] ++ made.server_config
    client = [verify: :verify_peer] ++ made.client_config
    File.write!(file, :io_lib.format("~p.~n", [[server: server, client: client]]))
    file
  end

  @doc "Returns arguments of `env` for a VM that inherits nothing from the VM that runs the tests."
  @spec clean_env([{String.t(), String.t()}]) :: [String.t()]
  def clean_env(env \\ []) do
    # Erlang writes a cookie into HOME. In a directory that users share, the others could not read it.
    home = Mix.Project.build_path()
    base = [{"PATH", System.get_env("PATH")}, {"HOME", home}, {"LANG", "C.UTF-8"}]
    ["-i" | Enum.map(base ++ env, fn {name, value} -> "#{name}=#{value}" end)]
  end

  defp options(opts) do
    epmd = if opts[:epmd], do: epmd_args(), else: ~w(-start_epmd false)
    # Tests break nodes on purpose. The reports of these nodes would hide the output of the tests.
    common = ~w(-setcookie caravan_test -kernel logger_level critical)
    paths = Enum.flat_map(opts[:path], &["-pa", &1])
    args = name_args(opts[:name]) ++ paths ++ epmd ++ common ++ opts[:args]
    exec = {~c"/usr/bin/env", charlists(clean_env(opts[:env]) ++ opts[:wrapper] ++ ["erl"])}

    %{connection: :standard_io, exec: exec, args: charlists(args), wait_boot: @boot_timeout}
  end

  defp path, do: Enum.map([:elixir, :logger, :caravan], &Application.app_dir(&1, "ebin"))

  defp name_args(nil), do: []

  # OTP starts no node with a short name if its host has a dot or a colon (kernel/src/net_kernel.erl).
  defp name_args(name), do: if(name =~ ~r/@.*[.:]/, do: ["-name", name], else: ["-sname", name])

  defp charlists(texts), do: Enum.map(texts, &String.to_charlist/1)
end
