import Config

# One log for several nodes, as bin/demo keeps it: each line says whose it is.
format = "$time $node [$level] $message\n"
# Elixir 1.14
config :logger, :console, format: format
# Elixir 1.15 and later
config :logger, :default_formatter, format: format
