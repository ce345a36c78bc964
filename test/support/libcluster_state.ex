defmodule Cluster.Strategy.State do
  @moduledoc """
  A double of libcluster's struct, with the fields and defaults of libcluster 3.5 (`lib/strategy/state.ex`), so that
  the tests need no package of Hex.
  """

  defstruct topology: nil,
            connect: nil,
            disconnect: nil,
            list_nodes: nil,
            meta: nil,
            config: []
end
