defmodule Caravan.Test.Requirements do
  @moduledoc """
  Skips tests that need a program or a right that this machine lacks.

      @moduletag Requirements.tag([:knotd, :kdig])

  Each missing requirement is printed once for the whole test run.
  """

  alias Caravan.Test.Daemon
  alias Caravan.Test.Netns
  alias Caravan.Test.SystemFiles

  @typedoc """
  A program of the operating system, a kind of namespace that this user must be able to make, or `/dev/fuse`, which this
  user must be able to open.
  """
  @type requirement ::
          :cargo
          | :curl
          | :erl_call
          | :fuse
          | :gcc
          | :jq
          | :kdig
          | :knotd
          | :openssl
          | :python3_yaml
          | :script
          | :shellcheck
          | :unbound
          | :netns
          | :system_files

  # Debian's packages. Debian has no cargo that is new enough.
  @packages %{
    "curl" => "curl",
    "erl_call" => "erlang-base",
    "gcc" => "gcc",
    "ip" => "iproute2",
    "jq" => "jq",
    "kdig" => "knot-dnsutils",
    "knotd" => "knot",
    "nft" => "nftables",
    "nsenter" => "util-linux",
    "openssl" => "openssl",
    "script" => "bsdutils",
    "shellcheck" => "shellcheck",
    "unbound" => "unbound",
    "unshare" => "util-linux"
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
      if reason, do: IO.puts("\nSkipping some tests: #{reason}")
      :persistent_term.put({__MODULE__, name}, reason)
      reason
    end
  end

  defp check(:netns),
    do: Enum.find_value(~w(unshare nsenter ip nft), &not_installed/1) || Netns.obstacle()

  defp check(:system_files),
    do: Enum.find_value(~w(unshare ip), &not_installed/1) || SystemFiles.obstacle()

  defp check(:fuse) do
    case System.cmd("sh", ["-c", "exec 3<>/dev/fuse"], stderr_to_stdout: true) do
      {_, 0} -> nil
      {output, _} -> "this user cannot open /dev/fuse: #{String.trim(output)}"
    end
  end

  defp check(:python3_yaml) do
    case System.cmd("sh", ["-c", "python3 -c 'import tomllib, yaml'"], stderr_to_stdout: true) do
      {_, 0} -> nil
      _ -> "Python 3.11 with PyYAML is not installed (Debian package python3-yaml)"
    end
  end

  defp check(program), do: not_installed(to_string(program))

  defp not_installed(program) do
    package = if package = @packages[program], do: " (Debian package #{package})"
    unless Daemon.find(program), do: "#{program} is not installed#{package}"
  end
end
