defmodule Mix.Tasks.Caravan.Map do
  @shortdoc "Shows which nodes of a running cluster are connected"

  @moduledoc """
  Asks a running node for `Caravan.map/1`, and prints the result. The node has to run Caravan.

      mix caravan.map app-4001@10.0.0.1 --cookie "$COOKIE"
      mix caravan.map app-4001@10.0.0.1 --cookie "$COOKIE" --format svg > map.svg

    * `--cookie` - the cookie of the cluster, by default `RELEASE_COOKIE`, or else the one in `~/.erlang.cookie`
    * `--format` - `text` (the default) or `svg`

  The status is that of the call, and 2 for wrong arguments. In a release, use `bin/app rpc 'IO.puts(Caravan.map())'`.
  """

  use Mix.Task

  @switches [cookie: :string, format: :string]

  @impl true
  def run(args) do
    Mix.Task.run("compile")

    case OptionParser.parse(args, strict: @switches) do
      {options, [node], []} -> map(node, options[:format] || "text", options[:cookie])
      _ -> refuse("NODE [--cookie COOKIE] [--format text|svg]", Enum.join(args, " "))
    end
  end

  # Starts another VM, because the flags of distribution cannot be set in a running one.
  defp map(node, format, cookie) when format in ["text", "svg"] do
    flags =
      "-pa #{:code.lib_dir(:caravan)}/ebin -epmd_module Elixir.Caravan.Epmd -start_epmd false"

    # Four hexadecimal digits, as in the names of `bin/app rpc`: such a node listens on any free port.
    basename = "rpc-#{Base.encode16(:rand.bytes(2), case: :lower)}-map"

    domain =
      if node =~ ~r/@.*[.:]/,
        do: ["--name", basename <> "@127.0.0.1"],
        else: ["--sname", basename]

    cookie = cookie || System.get_env("RELEASE_COOKIE")
    cookie = if cookie, do: ["--cookie", cookie], else: []

    call = [
      "--hidden",
      "--erl",
      flags,
      "--rpc-eval",
      node,
      "IO.puts(Caravan.map(format: :#{format}))"
    ]

    {_, status} = System.cmd("elixir", domain ++ cookie ++ call, into: IO.stream())
    if status != 0, do: exit({:shutdown, status})
  end

  defp map(_node, format, _cookie), do: refuse("--format to be text or svg", format)

  @spec refuse(String.t(), String.t()) :: no_return
  defp refuse(expected, got) do
    Mix.shell().error("mix caravan.map: expected #{expected}, got: #{got}")
    exit({:shutdown, 2})
  end
end
