defmodule Caravan do
  @moduledoc """
  Clusters of BEAM nodes in clouds.

    * `Caravan.Epmd`: distribution without an epmd daemon; a node's port follows from its name.
    * `Caravan.Cluster.DnsStrategy`: finds the nodes in DNS and connects to them, under libcluster or
      any supervisor.
    * `Caravan.Dns`: the lookups under it, for other uses.

  The README shows how to set a project up.
  """

  @doc """
  Whether this VM runs on `Caravan.Epmd`; if not, what to add.

      case Caravan.check() do
        :ok -> :ok
        {:error, {_reason, advice}} -> IO.puts(advice)
      end
  """
  @spec check() :: :ok | {:error, {:not_alive | :other_epmd_module, advice :: String.t()}}
  def check do
    cond do
      not Node.alive?() -> {:error, {:not_alive, not_alive()}}
      :net_kernel.epmd_module() != Caravan.Epmd -> {:error, {:other_epmd_module, other_module()}}
      true -> :ok
    end
  end

  defp not_alive do
    """
    this node is not alive, so it cannot join a cluster. In a release, set in rel/env.sh.eex:

        export RELEASE_DISTRIBUTION=name
        export RELEASE_NODE=app-4001@$(hostname -f)

    and in rel/vm.args.eex and rel/remote.vm.args.eex:

        -epmd_module Elixir.Caravan.Epmd
        -start_epmd false

    Elsewhere, start it with: --name app-4001@127.0.0.1 --erl "#{flags()}"
    """
  end

  defp other_module do
    """
    this node finds the ports of others through #{inspect(:net_kernel.epmd_module())}, not through \
    Caravan.Epmd, so the ports in their names mean nothing to it. In a release, add to \
    rel/vm.args.eex and rel/remote.vm.args.eex:

        -epmd_module Elixir.Caravan.Epmd
        -start_epmd false

    Elsewhere, start it with: --erl "#{flags()}"
    """
  end

  # Outside releases, distribution starts before Mix has put Caravan on the code path.
  defp flags do
    "-pa #{:code.lib_dir(:caravan)}/ebin -epmd_module Elixir.Caravan.Epmd -start_epmd false"
  end
end
