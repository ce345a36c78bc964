defmodule Caravan.Dns.Answer do
  @moduledoc """
  The answer of a lookup. It has at least one record.

    * `:name` and `:type`: as they were looked up.
    * `:records`: at most 4,096, in the order of the nameserver. `Caravan.Dns.Service` structs for `:srv`, or
      `t::inet.ip_address/0` tuples for `:a` and `:aaaa`.
    * `:ttl`: the smallest TTL of the answer, in seconds. For `/etc/hosts`, a day.
    * `:nameserver`: the nameserver that answered, such as `"127.0.0.1:8600"`, or `nil` for `/etc/hosts`.
    * `:transport`: the transport of the answer.
    * `:time`: the duration of the lookup, in microseconds.
    * `:dropped`: the number of addresses that the option `:allow` dropped.
    * `:secure`: whether DNSSEC proved the answer (option `:dnssec`).
  """

  @enforce_keys [:name, :type, :records, :ttl]
  defstruct @enforce_keys ++
              [
                nameserver: nil,
                transport: :hosts,
                time: 0,
                dropped: 0,
                secure: false
              ]

  @type t :: %__MODULE__{
          name: String.t(),
          type: Caravan.Dns.type(),
          records: [Caravan.Dns.Service.t()] | [:inet.ip_address()],
          ttl: non_neg_integer,
          nameserver: String.t() | nil,
          transport: :udp | :tcp | :tls | :https | :hosts,
          time: non_neg_integer,
          dropped: non_neg_integer,
          secure: boolean
        }
end
