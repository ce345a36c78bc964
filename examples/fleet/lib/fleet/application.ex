defmodule Fleet.Application do
  @moduledoc false

  use Application

  @impl true
  def start(_type, _args) do
    children = [
      {Caravan.Cluster.DnsStrategy, Application.fetch_env!(:fleet, Caravan.Cluster.DnsStrategy)}
    ]

    Supervisor.start_link(children, strategy: :one_for_one, name: Fleet.Supervisor)
  end
end
