defmodule Caravan.DnsClient do
  @moduledoc """
  The behaviour of a DNS client of your own. The option `:dns_client` of `Caravan.Cluster.DnsStrategy` takes the module.

  The strategy calls the client in a separate process. A lookup fails if the client raises, takes longer than the option
  `:lookup_timeout`, or returns anything but a list of `{port, host}`. The failure is logged, and no node is disconnected.
  """

  @doc """
  Looks up `name`. Returns the port and the host of each node.

  The host becomes part of the node name as it is, so it must be in lower case and have no trailing dot. An empty list
  removes no member.
  """
  @callback get_nodes(name :: String.t()) :: [{port :: :inet.port_number(), host :: String.t()}]
end
