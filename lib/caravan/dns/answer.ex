defmodule Caravan.Dns.Answer do
  @moduledoc """
  What a lookup found: at least one record.

    * `:name` and `:type` as they were asked for;
    * `:records` in the order of the server: `Caravan.Dns.Service` structs for `:srv`,
      `t::inet.ip_address/0` tuples for `:a` and `:aaaa`; at most 4,096;
    * `:ttl`, in seconds: the smallest of the answer;
    * `:nameserver`, such as `"127.0.0.1:8600"`: which one answered; `nil`: `/etc/hosts` did;
    * `:transport`: what the answer came over;
    * `:time`, in microseconds: how long it took;
    * `:dropped`: how many addresses the option `:allow` left out;
    * `:secure`: whether DNSSEC proved it (option `:dnssec`).
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
