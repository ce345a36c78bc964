# The ports that a DnsServer of this test run has had.
:ets.new(Caravan.Test.DnsServer, [:named_table, :public])

# Both times only bound waits that normally end at once. On a busy machine, ExUnit's own (100 ms, 60 s) are too short.
ExUnit.start(
  assert_receive_timeout: 10_000,
  timeout: 600_000,
  capture_log: true,
  formatters: [ExUnit.CLIFormatter, Caravan.Test.FailuresAtEnd]
)
