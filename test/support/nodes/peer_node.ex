defmodule Caravan.Test.PeerNode do
  @moduledoc """
  BEAM nodes on `Caravan.Epmd`, each a VM of its own under OTP's `:peer`.

      a = PeerNode.start!(name: PeerNode.name("a"))
      b = PeerNode.start!(name: PeerNode.name("b"))
      true = PeerNode.call(a, :net_kernel, :connect_node, [b.name])

  They talk to the test over their stdin and stdout, so the test VM itself need not be distributed.
  A node ends with the test that started it, and the test is over when the node is gone.
  """

  import ExUnit.Callbacks, only: [on_exit: 1, start_supervised!: 1, stop_supervised!: 1]

  alias Caravan.Test.Host

  @enforce_keys [:id, :peer, :name, :os_pid]
  defstruct [:id, :peer, :name, :os_pid]

  @type t :: %__MODULE__{id: reference, peer: pid, name: node, os_pid: String.t()}

  @boot_timeout 60_000
  @call_timeout 30_000

  @doc """
  Starts a node and waits until it has booted.

    * `:name`: `"a-4001@127.0.0.1"`, or `"a-4001"` for a short one; without it the VM is not alive
    * `:epmd`: `false` leaves the flags of `Caravan.Epmd` out
    * `:path`: directories with beam files; without it, Elixir and Caravan as this VM has them
    * `:args`, `:env` (`[{"NAME", "value"}]`): more arguments and environment variables
    * `:wrapper`: a command that gets the node's as its last arguments and becomes it
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

    # `:peer` closes the node's stdin, and once in some hundred times, on a very busy machine, the node sat
    # there idle and did not notice. That is said, and no failure of a test that has passed.
    on_exit(fn -> Host.await_end(os_pid) end)
    %__MODULE__{id: id, peer: peer, name: name, os_pid: os_pid}
  end

  @doc "Ends the node; its port is free when this returns."
  @spec stop!(t) :: :ok
  def stop!(%__MODULE__{} = node) do
    stop_supervised!(node.id)
    Host.await_exit(node.os_pid)
  end

  @doc "Calls a function on the node, over stdin and stdout."
  @spec call(t, module, atom, [term]) :: term
  def call(%__MODULE__{} = node, module, function, args),
    do: :peer.call(node.peer, module, function, args, @call_timeout)

  @doc "Runs Elixir code on the node; `bindings` are its variables."
  @spec eval(t, String.t(), keyword) :: term
  def eval(%__MODULE__{} = node, code, bindings \\ []) do
    {value, _bindings} = call(node, Code, :eval_string, [code, bindings])
    value
  end

  @doc "A long name whose number is a free port."
  @spec name(String.t(), String.t()) :: String.t()
  def name(prefix, host \\ "127.0.0.1"), do: "#{prefix}-#{Host.free_port()}@#{host}"

  @doc "The port in a name made by `name/2`."
  @spec port(t | String.t()) :: :inet.port_number()
  def port(%__MODULE__{name: name}), do: name |> Atom.to_string() |> port()

  def port(name) do
    [digits] = Regex.run(~r/-(\d+)(?:@|$)/, name, capture: :all_but_first)
    String.to_integer(digits)
  end

  @doc "The VM arguments that the README asks for."
  @spec epmd_args() :: [String.t()]
  def epmd_args, do: ~w(-epmd_module Elixir.Caravan.Epmd -start_epmd false)

  @doc "The environment of a VM that inherits nothing from the one that runs the tests."
  @spec clean_env([{String.t(), String.t()}]) :: [String.t()]
  def clean_env(env \\ []) do
    # Erlang writes a cookie there, which VMs of other users of this machine could not read.
    home = Mix.Project.build_path()
    base = [{"PATH", System.get_env("PATH")}, {"HOME", home}, {"LANG", "C.UTF-8"}]
    ["-i" | Enum.map(base ++ env, fn {name, value} -> "#{name}=#{value}" end)]
  end

  defp options(opts) do
    epmd = if opts[:epmd], do: epmd_args(), else: ~w(-start_epmd false)
    # Reports of nodes that a test breaks on purpose would drown its own output.
    common = ~w(-setcookie caravan_test -kernel logger_level critical)
    paths = Enum.flat_map(opts[:path], &["-pa", &1])
    args = name_args(opts[:name]) ++ paths ++ epmd ++ common ++ opts[:args]
    exec = {~c"/usr/bin/env", charlists(clean_env(opts[:env]) ++ opts[:wrapper] ++ ["erl"])}

    %{connection: :standard_io, exec: exec, args: charlists(args), wait_boot: @boot_timeout}
  end

  defp path, do: Enum.map([:elixir, :logger, :caravan], &Application.app_dir(&1, "ebin"))

  defp name_args(nil), do: []

  defp name_args(name) do
    if String.contains?(name, "@"), do: ["-name", name], else: ["-sname", name]
  end

  defp charlists(texts), do: Enum.map(texts, &String.to_charlist/1)
end
