defmodule Caravan.Doctor.Checks.Node do
  # Effect. The checks of whether the node has a name, of Caravan's library and of the VM arguments.
  @moduledoc false

  alias Caravan.Doctor.Check
  alias Caravan.Doctor.Context
  alias Caravan.Native

  @vm_args "in rel/vm.args.eex and rel/remote.vm.args.eex:\n"

  # The ids of the checks of the files that have the VM arguments.
  @vm_args_files ["release.rel_missing", "release.vm_args"]

  @spec checks(Context.t()) :: [Check.t()]
  def checks(%Context{mode: :project}), do: [Check.new("node.nif", &nif/0)]

  def checks(context) do
    [
      Check.new("node.alive", fn -> alive(context) end),
      Check.new("node.nif", &nif/0),
      check("node.epmd_module", fn -> epmd_module(context.mode) end),
      check("node.epmd_started", fn -> epmd_started(context.mode) end)
    ]
  end

  defp check(id, run), do: Check.new(id, [grounds: ["node.alive" | @vm_args_files]], run)

  defp alive(%{name: nil, mode: mode}) do
    seen =
      if mode == :eval,
        do: "RELEASE_DISTRIBUTION is #{inspect(System.get_env("RELEASE_DISTRIBUTION"))}",
        else: "this VM runs without a node name"

    {:failed, seen, "a node name",
     """
     in rel/env.sh.eex:
     export RELEASE_DISTRIBUTION=name
     export RELEASE_NODE="${RELEASE_NODE:-app-4001@$(hostname -f)}"
     Without a release, start the VM with: --name app-4001@127.0.0.1
     """}
  end

  defp alive(%{mode: :eval, name: name}), do: {:ok, "bin/app start would start #{name}"}
  defp alive(%{name: name}), do: {:ok, name}

  ## The library

  defp nif do
    case Native.load() do
      :ok ->
        {:ok, "Caravan's library is loaded, #{features()}"}

      {:error, message} ->
        message = IO.chardata_to_string(message)
        [seen, _advice] = String.split(message, ". Build it for this machine", parts: 2)
        {:failed, seen, "a library for this machine", library_fix(seen)}
    end
  end

  # The features of the library that cargo built.
  defp features do
    features = Native.dns_features()

    Enum.map_join([tls: "TLS", dnssec: "DNSSEC"], ", ", fn {feature, name} ->
      if feature in features, do: "with " <> name, else: "without " <> name
    end)
  end

  # The text comes from the loader (dlopen). It says "no such file" also if the file is for another CPU.
  defp library_fix(text) do
    [path] = Regex.run(~r/library (.+\.so) cannot be loaded/, text, capture: :all_but_first)

    cond do
      not File.exists?(path) ->
        "build the release again. The library is #{path}"

      text =~ ~r/version .+ not found/ ->
        "build the release on the system of the image that runs it, or on an older one"

      missing = missing_library(text, path) ->
        "install the library #{missing} in the image (libgcc_s.so.1: apt-get install libgcc-s1, or apk add libgcc)"

      true ->
        "build the release for the CPU and the system of this machine: docker build --platform …, or CARAVAN_NIF=/path/to/FILE mix deps.compile caravan --force && mix release"
    end
  end

  defp missing_library(text, path) do
    case Regex.run(~r/([^\s':]+\.so[^\s':]*): cannot open shared object file/, text,
           capture: :all_but_first
         ) do
      [^path] -> nil
      [library] -> library
      nil -> nil
    end
  end

  ## VM arguments

  defp epmd_module(mode) do
    case if(mode == :node, do: inspect(:net_kernel.epmd_module()), else: module_argument()) do
      "Caravan.Epmd" ->
        {:ok, "Caravan.Epmd"}

      other ->
        {:failed, "the epmd module is #{other}", "Caravan.Epmd",
         @vm_args <> "-epmd_module Elixir.Caravan.Epmd\n-start_epmd false"}
    end
  end

  # The node of a release gets the same VM arguments as `bin/app eval`. Of several values, OTP uses the first one
  # (net_kernel:epmd_module/0). Creates no atom.
  defp module_argument do
    case argument(:epmd_module, &List.first/1) do
      nil -> ":erl_epmd"
      ~c"Elixir." ++ module -> List.to_string(module)
      module -> ":#{module}"
    end
  end

  # If a VM has a name among its arguments, the program erl starts an epmd daemon before the VM, unless -start_epmd false
  # is there (erts/etc/common/erlexec.c).
  defp epmd_started(mode) do
    named = mode == :eval or last_argument(:name) != nil or last_argument(:sname) != nil

    if not named or last_argument(:start_epmd) == ~c"false" do
      {:ok, "the start of the node starts no epmd daemon"}
    else
      {:warning, "the start of the node starts an epmd daemon", "-start_epmd false",
       @vm_args <> "-start_epmd false"}
    end
  end

  defp last_argument(flag), do: argument(flag, &List.last/1)

  defp argument(flag, choose) do
    with {:ok, values} <- :init.get_argument(flag), [value | _] <- choose.(values) do
      value
    else
      _ -> nil
    end
  end
end
