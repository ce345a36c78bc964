defmodule Caravan.Dns.Answer do
  @moduledoc """
  What a lookup found: at least one record.

    * `:name` and `:type` as they were asked for;
    * `:records` in the order of the server: `Caravan.Dns.Service` structs for `:srv`,
      `t::inet.ip_address/0` tuples for `:a` and `:aaaa`; at most 4,096;
    * `:ttl`, in seconds: the smallest of the answer.
  """

  @enforce_keys [:name, :type, :records, :ttl]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          name: String.t(),
          type: Caravan.Dns.type(),
          records: [Caravan.Dns.Service.t()] | [:inet.ip_address()],
          ttl: non_neg_integer
        }
end
