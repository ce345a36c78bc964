defmodule Mix.Tasks.Caravan.Gen.Release do
  @shortdoc "Prepares the files of a release for a cluster on a platform"

  @moduledoc """
  Prepares the files of a release, so that its nodes form a cluster on a platform.

      mix caravan.gen.release --platform kubernetes

  The task adds to `rel/env.sh.eex`, `rel/vm.args.eex` and `rel/remote.vm.args.eex`, or creates them, writes a sample into a new
  directory `deploy`, and prints the lines for `config/runtime.exs` and the supervision tree. It shows the changes and asks before
  it writes. Existing lines stay as they are: the task adds a block between `# caravan: begin` and `# caravan: end`, and flags that
  are missing. A flag with another value is an error. A second run changes nothing.

    * `--platform` - Required. #{Enum.map_join(Caravan.Gen.Platform.names(), ", ", &"`#{&1}`")}. `docker` also writes a missing Dockerfile.
    * `--query` - The DNS name to look up. It is required for `plain`.
    * `--sname` - The name of the nodes up to the `@`. Defaults to the name of the release.
    * `--port` - The distribution port of all nodes. Defaults to 4370. On Nomad, the job chooses it.
    * `--ipv6` - The nodes use IPv6 addresses. Fly has no others.
    * `--tls` - The nodes use TLS, with the certificates that `rel/overlays/inet_tls.conf` names.
    * `--role` - Given twice or more, the nodes of one release have roles, which `CARAVAN_ROLE` names. The nodes of the first role
      connect to each other, and all others to three of them. `--role core --role edge` needs `-connect_all false`, which the task
      adds: see [Large clusters](large_clusters.md).
    * `--release` - The release, if `mix.exs` has several.
    * `--yes` - Writes without a question.
    * `--dry-run` - Writes nothing.

  The status is 0 if the files are as they should be, 1 if they were not written, and 2 after an error.
  """

  use Mix.Task

  @impl true
  def run(argv) do
    config = Mix.Project.config()
    releases = Keyword.get(config, :releases, [])
    project = %{app: config[:app], releases: releases, umbrella?: Mix.Project.umbrella?()}
    shell = Mix.shell()
    ask = %{info: &shell.info/1, error: &shell.error/1, yes?: &shell.yes?/1}
    status = Caravan.Gen.run(argv, project, File.cwd!(), ask)
    if status != 0, do: exit({:shutdown, status})
  end
end
