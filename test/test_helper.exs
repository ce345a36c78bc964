# The ports that a DnsServer of this test run has had.
:ets.new(Caravan.Test.DnsServer, [:named_table, :public])

# These two timeouts limit waits that normally end at once. On a busy machine, ExUnit's defaults (100 ms and 60 s) are too
# short.
ExUnit.start(
  assert_receive_timeout: 10_000,
  timeout: 600_000,
  capture_log: true,
  formatters: [ExUnit.CLIFormatter, Caravan.Test.FailuresAtEnd]
)
