defmodule Caravan.Dns.Service do
  @moduledoc """
  One SRV record (RFC 2782).

  `:target` is a host name, in lower case and without the trailing dot, as node names need it.
  """

  @enforce_keys [:priority, :weight, :port, :target]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          priority: 0..65_535,
          weight: 0..65_535,
          port: :inet.port_number(),
          target: String.t()
        }
end
