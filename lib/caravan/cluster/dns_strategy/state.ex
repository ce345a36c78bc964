defmodule Caravan.Cluster.DnsStrategy.State do
  # Owner-state. The state of the strategy: what Membership knows, and the terms of the owner-state modules.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery
  alias Caravan.Cluster.DnsStrategy.Departure
  alias Caravan.Cluster.DnsStrategy.Jobs
  alias Caravan.Cluster.DnsStrategy.NodeList
  alias Caravan.Cluster.DnsStrategy.OwnRecord
  alias Caravan.Cluster.DnsStrategy.Status
  alias Caravan.Cluster.DnsStrategy.Tick
  alias Caravan.Cluster.DnsStrategy.Waiters
  alias Caravan.Cluster.DnsStrategy.Warnings
  alias Caravan.Cluster.Membership

  @enforce_keys ~w(config key membership discovery jobs nodes own_record waiters departure warnings status tick)a
  defstruct @enforce_keys

  @typedoc "`:key` is the registered name of the strategy. It names its table and its entries of `Caravan.Epmd.Peers`."
  @type t :: %__MODULE__{
          config: Config.t(),
          key: atom,
          membership: Membership.t(),
          discovery: Discovery.t(),
          jobs: Jobs.t(),
          nodes: NodeList.t(),
          own_record: OwnRecord.t(),
          waiters: Waiters.t(),
          departure: Departure.t(),
          warnings: Warnings.t(),
          status: Status.t(),
          tick: Tick.t()
        }

  @spec new(Config.t(), key :: atom) :: t
  def new(%Config{} = config, key) do
    %__MODULE__{
      config: config,
      key: key,
      membership: new_membership(config),
      discovery: Discovery.new(config),
      jobs: Jobs.new(),
      nodes: NodeList.new(config),
      own_record: OwnRecord.new(config),
      waiters: Waiters.new(),
      departure: Departure.new(key),
      warnings: Warnings.new(config, key),
      status: Status.new(key, config),
      tick: Tick.new()
    }
  end

  @doc "Returns a membership that has seen no events."
  @spec new_membership(Config.t()) :: Membership.t()
  def new_membership(config),
    do: Membership.new(config, :rand.uniform(1_000_000_000), System.monotonic_time(:millisecond))

  @doc "Replaces the value of one field by what `fun` makes of it."
  @spec update(t, field :: atom, (term -> term)) :: t
  def update(%__MODULE__{} = state, field, fun), do: Map.update!(state, field, fun)
end
