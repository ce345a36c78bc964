import Config

# bin/demo writes the log lines of all nodes to one file, so each line has its node.
format = "$time $node [$level] $message\n"
# Elixir 1.14
config :logger, :console, format: format
# Elixir 1.15 and later
config :logger, :default_formatter, format: format
