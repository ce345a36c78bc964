defmodule Caravan.Dns.Service do
  @moduledoc """
  One SRV record (RFC 2782).

    * `:target`: the host name, in lower case and without the trailing dot, as node names need it.
    * `:addresses`: the addresses of the target if the option `:addresses` is set. It is `[]` if the target has no
      addresses, or if their lookup did not end in time.
    * `:addresses_ttl`: the smallest TTL of these addresses, in seconds, or `nil` if there are none.
  """

  @enforce_keys [:priority, :weight, :port, :target]
  defstruct @enforce_keys ++ [addresses: [], addresses_ttl: nil]

  @type t :: %__MODULE__{
          priority: 0..65_535,
          weight: 0..65_535,
          port: :inet.port_number(),
          target: String.t(),
          addresses: [:inet.ip_address()],
          addresses_ttl: non_neg_integer | nil
        }
end
