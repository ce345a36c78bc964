:ets.new(Caravan.Test.DnsServer, [:named_table, :public])
ExUnit.start(capture_log: true)
