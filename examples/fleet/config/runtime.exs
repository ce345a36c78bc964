import Config

# Read when a node starts, so one release serves every environment.
config :fleet, Caravan.Cluster.DnsStrategy,
  topology: :fleet,
  query: System.get_env("FLEET_QUERY", "_fleet._tcp.fleet.test"),
  node_sname: "app",
  # nil: Caravan's own, "{name}-{port}@{host}".
  node_name: System.get_env("FLEET_NODE_NAME"),
  # None: those of the system.
  nameservers: "FLEET_NAMESERVER" |> System.get_env("") |> String.split(",", trim: true),
  poll_interval: 1_000
