# What a thousand strategies, with the default options, ask of the one DNS server that they share, on a
# simulated clock. They start in the same millisecond, DNS fails for a minute, and a node goes down that
# all of them were connected to.
#
#   mix run bench/fleet.exs

Code.require_file("../test/support/simulation/fleet.ex", __DIR__)

alias Caravan.Test.Fleet

limits = Caravan.Cluster.Config.new!(query: "app.test", node_sname: "app")
options = [size: 1_000, seconds: 300, ttl: 60_000, limits: limits, outage: 60..119, nodedown: 200]
load = Fleet.load(options)

IO.puts("""
1,000 strategies, :poll_interval #{limits.poll_interval} ms; DNS fails from 60 s to 120 s, a node goes down at 200 s.
Lookups in the busiest second of each five; the first second is that of the start:

#{Fleet.histogram(load, 5)}

mean #{round(Fleet.mean(tl(load)))} a second; busiest second after the start #{Enum.max(tl(load))}, which is \
#{Float.round(Fleet.peak(load), 2)} times the mean (wanted: at most 2)\
""")
