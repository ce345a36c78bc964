defmodule Cluster.Strategy.State do
  @moduledoc """
  A double of libcluster's struct, which cannot be had without a hex registry: the same fields and
  defaults as in libcluster 3.5 (`lib/strategy/state.ex`).
  """

  defstruct topology: nil,
            connect: nil,
            disconnect: nil,
            list_nodes: nil,
            meta: nil,
            config: []
end
