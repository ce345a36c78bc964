defmodule Caravan.Cluster.Distribution.Setup do
  # Effect. Whether this VM runs on Caravan.Epmd, and what an operator adds if it does not.
  @moduledoc false

  @doc "Returns `:ok`, or an error with advice."
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
    this node is not alive: the VM runs without a node name, so it cannot join a cluster. In a release, \
    add to rel/env.sh.eex:

        export RELEASE_DISTRIBUTION=name
        export RELEASE_NODE="${RELEASE_NODE:-app-4001@$(hostname -f)}"

    The other nodes have to reach this node under the host after the @. They often cannot resolve the
    name of a container: there, use its address, $(hostname -i), or let the platform set RELEASE_NODE.
    Then add to rel/vm.args.eex and rel/remote.vm.args.eex:

        -epmd_module Elixir.Caravan.Epmd
        -start_epmd false

    Without a release, start the VM with: --name app-4001@127.0.0.1 --erl "#{flags()}"
    """
  end

  defp other_module do
    """
    this node runs on #{inspect(:net_kernel.epmd_module())} in place of Caravan.Epmd, so it ignores the ports \
    in the names of other nodes. In a release, add to rel/vm.args.eex and rel/remote.vm.args.eex:

        -epmd_module Elixir.Caravan.Epmd
        -start_epmd false

    Without a release, start the VM with: --erl "#{flags()}"
    """
  end

  # Without a release, distribution starts before Mix adds Caravan to the code path. Hence -pa.
  defp flags do
    "-pa #{:code.lib_dir(:caravan)}/ebin -epmd_module Elixir.Caravan.Epmd -start_epmd false"
  end
end
