defmodule Caravan.Doctor.Checks.Release do
  # Effect. The checks of the files of a release, or of a project from which one is built.
  @moduledoc false

  alias Caravan.Doctor.Check
  alias Caravan.Doctor.Context
  alias Caravan.Doctor.TextFile

  @flags ["-epmd_module Elixir.Caravan.Epmd", "-start_epmd false"]

  # Arguments also come from these variables: before those of the file, or after them (erl(1), bin/elixir).
  @before ["ERL_AFLAGS", "ELIXIR_ERL_OPTIONS"]
  @behind ["ERL_FLAGS", "ERL_ZFLAGS"]

  @doc "Returns the checks of the release, or with the mode `:project` those of the files from which it is built."
  @spec checks(Context.t()) :: [Check.t()]
  def checks(%Context{mode: :project}) do
    {vm_args, remote} = {"rel/vm.args.eex", "rel/remote.vm.args.eex"}

    [
      Check.new("release.rel_missing", fn -> project_rel(vm_args) end)
      | flags_checks(vm_args, remote)
    ]
  end

  def checks(%Context{}) do
    case {System.get_env("RELEASE_ROOT"), System.get_env("RELEASE_VSN")} do
      {root, vsn} when root in [nil, ""] or vsn in [nil, ""] ->
        result = {:skipped, "this VM is not of a release (no RELEASE_ROOT or no RELEASE_VSN)"}
        [Check.new("release.rel_missing", fn -> result end)]

      {root, vsn} ->
        checks(root, Path.join([root, "releases", vsn]))
    end
  end

  defp checks(root, dir) do
    vm_args = System.get_env("RELEASE_VM_ARGS") || Path.join(dir, "vm.args")
    remote = System.get_env("RELEASE_REMOTE_VM_ARGS") || Path.join(dir, "remote.vm.args")

    [
      Check.new("release.rel_missing", fn ->
        rel_missing([vm_args, remote, Path.join(dir, "env.sh")])
      end),
      Check.new("release.cookie", fn -> cookie(Path.join([root, "releases", "COOKIE"])) end)
      | flags_checks(vm_args, remote)
    ]
  end

  defp flags_checks(vm_args, remote) do
    grounds = ["release.rel_missing"]

    [
      Check.new("release.vm_args", [grounds: grounds, subject: vm_args], fn ->
        flags(vm_args, "rel/vm.args.eex", "the node")
      end),
      Check.new("release.remote_vm_args", [grounds: grounds, subject: remote], fn ->
        flags(remote, "rel/remote.vm.args.eex", "the VM that bin/app rpc, remote or stop starts")
      end)
    ]
  end

  defp project_rel(vm_args) do
    if File.exists?(vm_args),
      do: {:ok, "the project has the file #{vm_args}"},
      else:
        {:failed, "the project has no file #{vm_args}", "the files of the directory rel",
         "mix release.init"}
  end

  # Without the directory rel, `mix release` writes files that have comments only. missing_flags([]) returns the flags
  # that the environment does not set.
  defp rel_missing(files) do
    if missing_flags([]) != [] and Enum.all?(files, &(TextFile.lines(&1) == {:ok, []})) do
      {:failed, "vm.args, remote.vm.args and env.sh of the release are Mix's defaults",
       "the files of the directory rel, which was missing when the release was built",
       "in the Dockerfile, before RUN mix release:\nCOPY rel rel\nIf the project has no rel: mix release.init"}
    else
      {:ok, "the release has files of the directory rel, or the environment has both flags"}
    end
  end

  defp flags(path, source, vm) do
    with {:ok, lines} <- TextFile.lines(path), [_ | _] = missing <- missing_flags(lines) do
      {:failed, "#{vm} runs without #{Enum.join(missing, " and ")}", Enum.join(@flags, " "),
       "in #{Enum.join([source | overriding(missing)], " and ")}, in place of other values of these flags, then build the " <>
         "release again:\n" <> Enum.join(missing, "\n")}
    else
      [] ->
        {:ok, "both flags are set, in the file or in the environment"}

      {:error, reason} ->
        {:failed, "the file cannot be read: #{:file.format_error(reason)}", "a readable file",
         "build the release again"}
    end
  end

  # Of several values, OTP uses the first of -epmd_module (net_kernel:epmd_module/0) and the last of -start_epmd
  # (erlexec).
  defp missing_flags(lines) do
    texts = variables(@before) ++ lines ++ variables(@behind)
    arguments = texts |> Enum.join(" ") |> String.split() |> Enum.chunk_every(2, 1)

    Enum.reject(@flags, fn text ->
      [flag, value] = String.split(text)
      values = for [^flag, value] <- arguments, do: value
      if(flag == "-epmd_module", do: List.first(values), else: List.last(values)) == value
    end)
  end

  # The variables that have other values of these flags.
  defp overriding(missing) do
    names = for text <- missing, do: text |> String.split() |> hd()

    Enum.filter(@before ++ @behind, fn variable ->
      words = variable |> System.get_env("") |> String.split()
      Enum.any?(names, &(&1 in words))
    end)
  end

  defp variables(names), do: Enum.map(names, &System.get_env(&1, ""))

  # Connected nodes have the same cookie, so the cookie is no problem for them. Hidden nodes do not count, because the node
  # of `bin/app rpc` is one.
  defp cookie(path) do
    with [] <- Node.list(:visible),
         {:ok, [cookie]} <- TextFile.lines(path),
         true <- cookie == System.get_env("RELEASE_COOKIE"),
         true <- random?(cookie) do
      {:warning, "the cookie is the random one of this build",
       "a cookie that all nodes share, also those of another build",
       "RELEASE_COOKIE=… in the environment of all nodes"}
    else
      _ -> {:ok, "the cookie is not the random one of a build, or nodes are connected"}
    end
  end

  # What `mix release` writes into releases/COOKIE if the project sets no cookie (Mix.Tasks.Release).
  defp random?(cookie), do: cookie =~ ~r/\A[A-Z2-7]{50,}={0,6}\z/
end
