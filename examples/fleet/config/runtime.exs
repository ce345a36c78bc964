import Config

# This file is read when a node starts, so that one release works in every environment.
config :fleet, Caravan.Cluster.DnsStrategy,
  topology: :fleet,
  query: System.get_env("FLEET_QUERY", "_fleet._tcp.fleet.test"),
  node_sname: "app",
  # With nil, the default of Caravan: "{name}-{port}@{host}".
  node_name: System.get_env("FLEET_NODE_NAME"),
  # With [], the nameservers of the system.
  nameservers: "FLEET_NAMESERVER" |> System.get_env("") |> String.split(",", trim: true),
  poll_interval: 1_000
