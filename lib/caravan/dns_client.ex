defmodule Caravan.DnsClient do
  @moduledoc """
  A DNS client of your own for `Caravan.Cluster.DnsStrategy`, given as its option `:dns_client`.

  It runs in a process of its own, for no longer than the option `:lookup_timeout`. An exception, or
  anything but the list below, counts as a failed lookup: it is logged and disconnects nobody.
  """

  @doc """
  The nodes behind `name`: a list of `{port, host}`, which is what an SRV record would say.
  """
  @callback get_nodes(name :: String.t()) :: [{port :: :inet.port_number(), host :: String.t()}]
end
