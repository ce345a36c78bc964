# The ports that a DnsServer of this test run has had.
:ets.new(Caravan.Test.DnsServer, [:named_table, :public])
ExUnit.start(capture_log: true)
