defmodule Caravan.Test.MembershipEvents do
  @moduledoc """
  Hands events to `Caravan.Cluster.Membership`, without a process or a network.

  The functions take a membership, or the result of the event before. So events can follow each other in a pipe.
  """

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Membership

  @type state :: {[Membership.State.action()], Membership.t()}

  @source {"app.test", :srv}

  @doc "Returns a membership of the query app.test at the time 0."
  @spec membership(keyword) :: Membership.t()
  def membership(options \\ []) do
    defaults = [query: "app.test", node_sname: "app", poll_interval: 10_000]
    Membership.new(Config.new!(Keyword.merge(defaults, options)), 1, 0)
  end

  @doc "Handles an event at the time `now`. The name of this node is me@h. `options` replace values of the env."
  @spec handle(Membership.t() | state, Membership.event(), now :: integer, keyword) :: state
  def handle(state, event, now, options \\ [])

  def handle({_actions, membership}, event, now, options),
    do: handle(membership, event, now, options)

  def handle(membership, event, now, options) do
    env = %{
      now: now,
      self: "me@h",
      existing_atom?: fn _name -> false end,
      atoms_available: true
    }

    Membership.handle(membership, event, Map.merge(env, Map.new(options)))
  end

  @doc "Returns the event of a complete answer. `options` replace its values."
  @spec answer([name | {name, ports :: list, addresses :: list}], Config.source(), keyword) ::
          Membership.event()
        when name: String.t()
  def answer(names, source \\ @source, options \\ []) do
    endpoints =
      Map.new(names, fn
        {name, ports, addresses} -> {name, %Endpoint{ports: ports, addresses: addresses}}
        name -> {name, %Endpoint{}}
      end)

    answer = %{endpoints: endpoints, ttl: nil, complete: true}
    {:answer, source, Map.merge(answer, Map.new(options))}
  end

  @doc "Returns the members of a topology without a limit of links."
  @spec members(Membership.t()) :: [String.t()]
  def members(membership),
    do: for({name, {true, _status}} <- Membership.nodes(membership), do: name)

  @spec dialled(state) :: [String.t()]
  def dialled({actions, _membership}),
    do: Enum.sort(for {:connect, name, _probe} <- actions, do: name)

  @spec reports(state) :: [Membership.State.report()]
  def reports({actions, _membership}), do: for({:report, report} <- actions, do: report)

  @spec actions(state) :: [Membership.State.action()]
  def actions({actions, _membership}), do: actions
end
