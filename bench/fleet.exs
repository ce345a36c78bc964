# Counts the lookups that many strategies with the default options send to one nameserver, on a simulated clock. All
# strategies start in the same millisecond. Later, DNS fails for a minute. Then a node goes down. All strategies were
# connected to it.
#
#   mix run bench/fleet.exs           # 1,000 strategies
#   mix run bench/fleet.exs 10000

Code.require_file("../test/support/simulation/fleet.ex", __DIR__)

alias Caravan.Test.Fleet

size = String.to_integer(List.first(System.argv()) || "1000")
limits = Caravan.Cluster.Config.new!(query: "app.test", node_sname: "app")
options = [size: size, seconds: 300, ttl: 60_000, limits: limits, outage: 60..119, nodedown: 200]
load = Fleet.load(options)

IO.puts("""
#{size} strategies, :poll_interval #{limits.poll_interval} ms. DNS fails from 60 s to 120 s. A node goes down at 200 s.
Each line is an interval of five seconds: its start, and the lookups in its busiest second. All strategies start at 0 s.

#{Fleet.histogram(load, 5)}

After the first second: #{round(Fleet.mean(tl(load)))} lookups per second on average, #{Enum.max(tl(load))} in the \
busiest second. That is #{Float.round(Fleet.peak(load), 2)} times the average (wanted: at most 2).\
""")
