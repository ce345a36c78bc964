defmodule Caravan.DnsClient do
  @moduledoc """
  The behaviour of a custom DNS client for `Caravan.Cluster.DnsStrategy`, which takes it as its option `:dns_client`.

  The strategy calls the client in a separate process, at most as long as the option `:lookup_timeout`. If the client
  raises, or returns anything but a list of ports and hosts, the lookup has failed: that is logged, and no node is
  disconnected.
  """

  @doc """
  Looks up `name`. Returns the port and the host of each node, as an SRV record would have them.
  """
  @callback get_nodes(name :: String.t()) :: [{port :: :inet.port_number(), host :: String.t()}]
end
