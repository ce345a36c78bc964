import Config

# Only this repository's own runs; a project that uses Caravan does not load this file.
config :logger, :console, format: "$time $metadata[$level] $message\n"
