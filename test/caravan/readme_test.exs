defmodule Caravan.ReadmeTest do
  @moduledoc "Follows \"Two nodes of your own\" in the README as a new user does, with the code and the commands that are there."
  use ExUnit.Case, async: true

  import Caravan.Test.Host, only: [forbid_epmd: 1]

  alias Caravan.Test.Blocks
  alias Caravan.Test.Command
  alias Caravan.Test.Eventually
  alias Caravan.Test.Netns
  alias Caravan.Test.Release
  alias Caravan.Test.Requirements

  # The ports of the two nodes may be in use on this host.
  @moduletag Requirements.tag(:netns)

  @caravan Path.expand("../..", __DIR__)

  setup :forbid_epmd

  test "two nodes of a new project find each other" do
    blocks = Blocks.of_file("README.md")
    [_lead, deps, child] = for %{language: "elixir", text: text} <- blocks, do: text
    [flags] = for %{language: "vm.args", text: text} <- blocks, do: text
    [new, start, look | _] = for %{language: "sh", text: text} <- blocks, do: text

    dir = Path.join(System.tmp_dir!(), "readme-" <> Base.encode16(:rand.bytes(6), case: :lower))
    File.mkdir_p!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)

    assert %{status: 0} = Command.run(["sh", "-c", "cd #{dir} && #{new}"])
    project = Path.join(dir, "app")
    deps = String.replace(deps, ~s(github: "uberbrodt/caravan"), ~s(path: "#{@caravan}"))
    replace!(project, "mix.exs", ~r/  defp deps do\n.*?\n  end\n/s, deps)
    replace!(project, "lib/app/application.ex", ~r/    children = \[\n.*?\n    \]\n/s, child)

    for file <- ~w(rel/vm.args.eex rel/remote.vm.args.eex),
        do: File.write!(Path.join(project, file), "\n" <> flags, [:append])

    assert start =~ "mix deps.get\nMIX_ENV=prod mix release\n"
    release = Release.build!(project, "app", "readme")

    net = start_supervised!({Netns, hosts: %{laptop: ["10.77.0.1/24"]}})
    [_, exports] = Regex.run(~r/^export (.+)$/m, start)
    env = for [_, name, value] <- Regex.scan(~r/(\w+)=(\S+)/, exports), do: {name, value}

    nodes =
      for [_, name] <- Regex.scan(~r/^RELEASE_NODE=(\S+) \S+ start &$/m, start),
          do: release |> Release.node(name, env, Netns.wrapper(net, :laptop)) |> Release.start!()

    assert [a, b] = nodes

    for {node, peer} <- [{a, b}, {b, a}] do
      assert Eventually.true?(fn -> Release.log(node) =~ "connected to #{peer.name}" end, 60_000),
             Release.log(node)
    end

    assert look =~ "export RELEASE_NODE=#{a.name}\n"

    for [_, code] <- Regex.scan(~r/rpc '(.+)'/, look) do
      assert %{status: 0, stdout: printed} = Release.run(a, ["rpc", code])

      assert printed =~
               if(code =~ "map", do: "2 nodes, 1 of 1 links", else: " 0 warnings, 0 failed")
    end

    assert [_, _] = Regex.scan(~r/ stop$/m, look)
    for node <- nodes, do: assert(%{status: 0} = Release.run(node, ["stop"]))
  end

  defp replace!(project, file, pattern, replacement) do
    path = Path.join(project, file)
    text = File.read!(path)
    assert text =~ pattern
    File.write!(path, String.replace(text, pattern, fn _ -> replacement end))
  end
end
