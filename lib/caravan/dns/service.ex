defmodule Caravan.Dns.Service do
  @moduledoc """
  One SRV record (RFC 2782).

  `:target` is a host name, in lower case and without the trailing dot, as node names need it.
  `:addresses` are the target's, where the option `:addresses` asked for them; `[]` when it has none, or
  none that could be found in time.
  """

  @enforce_keys [:priority, :weight, :port, :target]
  defstruct @enforce_keys ++ [addresses: []]

  @type t :: %__MODULE__{
          priority: 0..65_535,
          weight: 0..65_535,
          port: :inet.port_number(),
          target: String.t(),
          addresses: [:inet.ip_address()]
        }
end
