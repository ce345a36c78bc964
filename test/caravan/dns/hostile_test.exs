defmodule Caravan.Dns.HostileTest do
  # Responses of a broken or hostile nameserver. Each lookup ends with the documented reason by its deadline, and leaks
  # nothing. Not async: it counts the resources of this VM.
  use ExUnit.Case

  alias Caravan.Dns
  alias Caravan.Dns.Error
  alias Caravan.Test.DnsServer
  alias Caravan.Test.DnsServer.Wire
  alias Caravan.Test.OsResources

  @ip {127, 0, 0, 1}
  # Milliseconds. The timeout of a lookup that ends at its deadline, and of one that ends before.
  @short 300
  @long 5_000
  # Milliseconds. It allows for a busy machine. bench/dns.exs measures how exactly lookups keep their deadlines.
  @margin 3_000
  @at_once 20

  setup_all do
    OsResources.warm_up()
  end

  setup do
    good = start_supervised!({DnsServer, []}, id: :good)
    DnsServer.put_default(good, [@ip])
    %{server: start_supervised!({DnsServer, []}), good: [nameservers: [DnsServer.address(good)]]}
  end

  describe "the lookup ignores" do
    for {title, reply} <- [
          {"a wrong id", :wrong_id},
          {"a wrong question", :wrong_question},
          {"another type in the question", :other_type},
          {"no question", :no_question},
          {"65,535 questions", :many_questions},
          {"a wrong source port", :other_port},
          {"the query itself", :echo},
          {"an update", :update},
          {"NXDOMAIN without a question", :bare_nxdomain},
          {"a packet that ends in its header", :short_header},
          {"an empty packet", :nothing}
        ] do
      test title, context do
        check(context, :udp, reply(unquote(reply)), :timeout, @short)

        # The lookup still waits for the right response.
        DnsServer.put_default(context.server, {:each, [reply(unquote(reply)), [@ip]]})
        options = [nameservers: [DnsServer.address(context.server)]]
        assert {:ok, %{records: [@ip]}} = Dns.lookup("app.test", :a, options)
      end
    end

    test "fifty forged packets before the right one", %{server: server} do
      # The server sends all packets from one socket, so they arrive in order.
      forge = fn query, _ ->
        Wire.response(query, id: 0, answers: [Wire.a(:question, {6, 6, 6, 6})])
      end

      DnsServer.put_default(server, {:each, List.duplicate({:raw, forge}, 50) ++ [[@ip]]})

      assert {:ok, %{records: [@ip]}} =
               Dns.lookup("app.test", :a, nameservers: [DnsServer.address(server)])
    end
  end

  for {transport, reason, timeout} <- [{:udp, :bad_response, 20_000}, {:tcp, :timeout, 300}] do
    # Over TCP, a response that cannot be parsed is ignored, because it may belong to another query.
    describe "over #{transport}, the reason is #{reason} for" do
      for {title, reply} <- [
            {"a response that ends within a record", :cut},
            {"a name that points to itself", :loop},
            {"two names that point to each other", :long_loop},
            {"a name that points beyond the end", :beyond},
            {"a label of a kind that does not exist", :reserved_label},
            {"a count of 65,535 answers, with one answer", :many_answers},
            {"a count of 65,535 records in each section", :many_records},
            {"a record longer than the message", :too_long},
            {"an address of three octets", :short_address}
          ] do
        test title, context do
          check(
            context,
            unquote(transport),
            reply(unquote(reply)),
            unquote(reason),
            unquote(timeout)
          )
        end
      end
    end

    describe "over #{transport}, endless CNAME records are a bad response:" do
      for {title, reply} <- [
            {"a CNAME to itself", :cname_to_itself},
            {"two CNAMEs that name each other", :cname_circle},
            {"another CNAME for each name", :endless_cname}
          ] do
        test title, context do
          check(context, unquote(transport), reply(unquote(reply)), :bad_response, @long)
        end
      end
    end

    describe "over #{transport}, the reason is no_records for" do
      test "a response whose count of answers is zero", context do
        reply = {:raw, fn query, _ -> answer(query, counts: [1, 0, 0, 0]) end}
        check(context, unquote(transport), reply, :no_records, @long)
      end

      test "an address of another class", context do
        chaos = <<0xC00C::16, 1::16, 3::16, 5::32, 4::16, 6, 6, 6, 6>>
        reply = {:raw, fn query, _ -> answer(query, answers: [chaos]) end}
        check(context, unquote(transport), reply, :no_records, @long)
      end

      test "an address of another name", context do
        reply =
          {:raw, fn query, _ -> answer(query, answers: [Wire.a(["other", "test"], @ip)]) end}

        check(context, unquote(transport), reply, :no_records, @long)
      end
    end
  end

  describe "over TCP" do
    test "a response with a wrong id is ignored", context do
      # One lookup at a time: a wrong id could be that of another query on the connection.
      DnsServer.put_default(context.server, :wrong_id)
      options = [nameservers: ["tcp://" <> DnsServer.address(context.server)], timeout: @short]

      for n <- 1..3,
          do: assert({:error, %Error{reason: :timeout}} = Dns.lookup("n#{n}.test", :a, options))
    end

    test "a response with a wrong question is a bad response", context do
      check(context, :tcp, :wrong_question, :bad_response, @long)
    end

    test "a lookup whose response comes octet by octet ends at the deadline", context do
      drip = fn query ->
        bytes = answer(query, answers: [Wire.a(:question, @ip)])
        steps = for <<(byte <- <<byte_size(bytes)::16, bytes::binary>>)>>, do: [<<byte>>, 50]
        List.flatten(steps)
      end

      check(context, :tcp, {:stream, drip}, :timeout, @short)
    end

    test "a closed connection is the error :connection", context do
      check(context, :tcp, :close, :connection, @long)
    end

    test "a connection that is closed within a response is the error :connection", context do
      check(context, :tcp, {:stream, &half/1}, :connection, @long)
    end

    test "more than 4,096 records are too many", context do
      # The smallest address record has 15 octets and the owner root. 4,096 records with the owner n1.test do not fit
      # into one message.
      records = List.duplicate(Wire.a([], @ip), 4_200)
      reply = {:raw, fn query, _ -> answer(query, answers: records) end}
      check(context, :tcp, reply, :too_many_records, @long)
    end

    test "10,000 records, which do not fit into one message, are the error :truncated", context do
      check(context, :tcp, for(_ <- 1..10_000, do: @ip), :truncated, @long)
    end

    test "a closed port is the error :connection", context do
      closed = "tcp://127.0.0.1:#{Caravan.Test.Host.free_port()}"
      check_address(context, closed, :connection, @long)
    end
  end

  describe "an answer that is truncated over UDP" do
    setup %{server: server},
      do: %{options: [nameservers: [DnsServer.address(server)], attempts: 1]}

    test "is queried over TCP, wherever it ends", %{server: server, options: options} do
      cut_in_a_record = fn bytes -> binary_part(bytes, 0, byte_size(bytes) - 5) end
      whole = &Wire.response(&1, answers: for(_ <- 1..300, do: Wire.a(:question, @ip)))

      for {name, over_udp} <- [
            {"record.test",
             &cut_in_a_record.(
               Wire.response(&1, flags: 0x8380, answers: [Wire.a(:question, @ip)])
             )},
            # Larger than the receive buffer, and without the flag TC.
            {"buffer.test", whole}
          ] do
        reply = fn query, transport ->
          if transport == :udp, do: over_udp.(query), else: whole.(query)
        end

        DnsServer.put(server, name, :a, {:raw, reply})
        assert {:ok, %{transport: :tcp, records: records}} = Dns.lookup(name, :a, options)
        assert length(records) == 300
      end
    end

    test "is queried over UDP again after a timeout over TCP", %{server: server, options: options} do
      # For example, a rate limiter truncates one response, and a firewall drops TCP.
      cut = {:fun, &if(&1.transport == :tcp, do: :silent, else: :truncated)}
      DnsServer.put(server, "app.test", :a, cut)

      assert {:error, %Error{reason: :truncated, transport: :tcp}} =
               Dns.lookup("app.test", :a, [timeout: @short] ++ options)

      DnsServer.put(server, "app.test", :a, [@ip])
      assert {:ok, %{transport: :udp}} = Dns.lookup("app.test", :a, [timeout: @long] ++ options)
    end

    test "is queried only over TCP after TCP had the answer", %{server: server, options: options} do
      DnsServer.put(server, "app.test", :a, for(n <- 1..200, do: {10, 0, 0, n}))
      for _ <- 1..3, do: assert({:ok, %{transport: :tcp}} = Dns.lookup("app.test", :a, options))
      transports = for query <- DnsServer.queries(server), do: query.transport
      assert transports == [:udp, :tcp, :tcp, :tcp]
    end
  end

  test "a nameserver that does not support EDNS is queried without it", %{server: server} do
    DnsServer.put_default(server, {:fun, &if(&1.edns, do: :formerr, else: [@ip])})
    options = [nameservers: [DnsServer.address(server)]]
    assert {:ok, %{records: [@ip]}} = Dns.lookup("app.test", :a, options)
    # This nameserver returns FORMERR for both queries.
    DnsServer.put_default(server, :formerr)
    assert {:error, %Error{reason: :formerr}} = Dns.lookup("other.test", :a, options)
  end

  test "randomize_case ignores an error without the question", %{server: server} do
    bare =
      {:raw,
       fn query, _ -> Wire.response(query, flags: 0x8182, counts: [0, 0, 0, 0], question: "") end}

    DnsServer.put_default(server, {:each, [bare, [@ip]]})
    options = [nameservers: [DnsServer.address(server)], attempts: 1]
    assert {:error, %Error{reason: :servfail}} = Dns.lookup("a.test", :a, options)
    assert {:ok, %{records: [@ip]}} = Dns.lookup("b.test", :a, [randomize_case: true] ++ options)
  end

  test "a TTL of over 68 years is read as zero", %{server: server} do
    reply = fn query, _ ->
      Wire.response(query, answers: [Wire.record(:question, :a, <<10, 0, 0, 1>>, 0xFFFFFFFF)])
    end

    DnsServer.put_default(server, {:raw, reply})
    assert {:ok, %{ttl: 0}} = Dns.lookup("app.test", :a, nameservers: [DnsServer.address(server)])
  end

  test "a caller whose deadline ends during the lookup gets an answer or :timeout, and no message afterwards",
       %{server: server} do
    answers = for n <- 1..2_000, do: Wire.srv(:question, n, ["n", "test"])
    additional = for n <- 1..16, do: Wire.a(["n", "test"], {10, 0, 0, n})

    DnsServer.put_default(
      server,
      {:raw, fn query, _ -> Wire.response(query, answers: answers, additional: additional) end}
    )

    options = [
      nameservers: ["tcp://" <> DnsServer.address(server)],
      addresses: true
    ]

    for timeout <- 1..60 do
      case Dns.lookup("app.test", :srv, [timeout: timeout] ++ options) do
        {:ok, answer} -> assert length(answer.records) == 2_000
        {:error, error} -> assert error.reason == :timeout
      end
    end

    assert {:ok, _} = Dns.lookup("app.test", :srv, [timeout: 20_000] ++ options)
    refute_received _
  end

  describe "an answer that is truncated over UDP is the error :truncated if, over TCP," do
    test "the connection is closed", context do
      check(context, :udp, :truncated, :truncated, @long)
    end

    test "the connection is closed within the response", context do
      check(context, :udp, {:stream, &half/1}, :truncated, @long)
    end

    test "the response is truncated too", context do
      check(context, :udp, for(_ <- 1..10_000, do: @ip), :truncated, @long)
    end

    test "the port is closed", context do
      {:ok, udp} = :gen_udp.open(0, [:binary, ip: @ip, active: false, recbuf: 1_048_576])
      {:ok, port} = :inet.port(udp)
      spawn_link(fn -> always_truncated(udp) end)
      check_address(context, "127.0.0.1:#{port}", :truncated, @long)
    end
  end

  test "targets of all bytes are returned as visible ASCII, and create no atoms", context do
    labels = for chunk <- Enum.chunk_every(0..255, 32), do: :erlang.list_to_binary(chunk)
    records = for label <- labels, do: Wire.srv(:question, 4001, [label, "test"])
    reply = {:raw, fn query, _ -> answer(query, answers: records) end}
    DnsServer.put_default(context.server, reply)
    options = [nameservers: ["tcp://" <> DnsServer.address(context.server)]]
    assert {:ok, %{records: services}} = Dns.lookup("app.test", :srv, options)
    before = OsResources.now()
    assert {:ok, %{records: ^services}} = Dns.lookup("other.test", :srv, options)
    assert OsResources.now().atoms == before.atoms

    assert Enum.map(services, &unescape(&1.target)) ==
             Enum.map(labels, &(String.downcase(&1, :ascii) <> ".test"))

    for %{target: target} <- services,
        byte <- :erlang.binary_to_list(target),
        do: assert(byte in ?!..?~)
  end

  test "records whose owners have all bytes are records of other names", context do
    owners = for chunk <- Enum.chunk_every(0..255, 32), do: :erlang.list_to_binary(chunk)
    records = for owner <- owners, do: Wire.a([owner, "test"], @ip)
    reply = {:raw, fn query, _ -> answer(query, answers: records) end}
    check(context, :udp, reply, :no_records, @long)
  end

  test "a chain of 8 CNAMEs is followed, in one response or in several",
       context do
    options = [nameservers: [DnsServer.address(context.server)]]
    chain = Enum.reduce(8..1//-1, [@ip], fn n, rest -> {:cname, "c#{n}.test", rest} end)
    DnsServer.put(context.server, "whole.test", :a, chain)
    assert {:ok, %{records: [@ip]}} = Dns.lookup("whole.test", :a, options)

    for n <- 0..7,
        do: DnsServer.put(context.server, "p#{n}.test", :a, {:cname, "p#{n + 1}.test", :empty})

    DnsServer.put(context.server, "p8.test", :a, [@ip])
    assert {:ok, %{records: [@ip]}} = Dns.lookup("p0.test", :a, options)
  end

  test "a chain of 9 CNAMEs is a bad response", context do
    chain = Enum.reduce(9..1//-1, [@ip], fn n, rest -> {:cname, "c#{n}.test", rest} end)
    check(context, :udp, chain, :bad_response, @long)
  end

  defp check(context, transport, reply, reason, timeout) do
    DnsServer.put_default(context.server, reply)
    address = DnsServer.address(context.server)
    address = if transport == :tcp, do: "tcp://" <> address, else: address
    check_address(context, address, reason, timeout)
  end

  # The first lookups load all code, which creates atoms. After the second ones, no count of resources may be higher.
  defp check_address(%{good: good}, address, reason, timeout) do
    before = OsResources.now()
    options = [nameservers: [address], timeout: timeout]
    assert reasons(1..@at_once, options) == [reason]
    assert {:ok, _} = Dns.lookup("app.test", :a, good)
    before = %{before | atoms: OsResources.now().atoms}

    assert reasons(101..(100 + @at_once), options) == [reason]
    assert {:ok, %{records: [@ip]}} = Dns.lookup("app.test", :a, good)
    OsResources.await_no_more(before)
  end

  defp reasons(numbers, options) do
    numbers
    |> Enum.map(fn n ->
      {:ok, ref} = Dns.lookup_async("n#{n}.test", :a, options)
      ref
    end)
    |> Enum.map(fn ref ->
      assert_receive {^ref, result}, options[:timeout] + @margin
      assert {:error, %Error{reason: reason}} = result
      reason
    end)
    |> Enum.uniq()
  end

  defp reply(name) when name in [:wrong_id, :wrong_question, :cut], do: name
  defp reply(:other_port), do: {:other_port, [@ip]}
  defp reply(name), do: {:raw, fn query, _transport -> bytes(name, query) end}

  defp bytes(:echo, query), do: query
  defp bytes(:short_header, query), do: binary_part(query, 0, 11)
  defp bytes(:nothing, _query), do: ""
  defp bytes(:no_question, query), do: answer(query, counts: [0, 1, 0, 0], question: "")
  defp bytes(:update, query), do: answer(query, flags: 0xA980)

  defp bytes(:bare_nxdomain, query),
    do: answer(query, flags: 0x8183, answers: [], counts: [0, 0, 0, 0], question: "")

  defp bytes(:many_answers, query), do: answer(query, counts: [1, 65_535, 0, 0])
  defp bytes(:many_records, query), do: answer(query, counts: [1, 65_535, 65_535, 65_535])
  defp bytes(:many_questions, query), do: answer(query, counts: [65_535, 1, 0, 0])
  defp bytes(:short_address, query), do: answers(query, [Wire.record(:question, :a, <<1, 2, 3>>)])
  defp bytes(:cname_to_itself, query), do: answers(query, [Wire.cname(:question, :question)])

  defp bytes(:other_type, query) do
    question = Wire.question(query)
    question = binary_part(question, 0, byte_size(question) - 4) <> <<28::16, 1::16>>
    answer(query, question: question)
  end

  defp bytes(:loop, query), do: answers(query, [Wire.a(pointer(first_record(query)), @ip)])

  defp bytes(:long_loop, query) do
    first = first_record(query)

    # The first record is a pointer (2 octets) and the other fields (14 octets). Then the second name begins.
    second = first + 2 + 14
    answers(query, [Wire.a(pointer(second), @ip), Wire.a(pointer(first), @ip)])
  end

  defp bytes(:beyond, query), do: answers(query, [Wire.a(pointer(0x3FFF), @ip)])
  defp bytes(:reserved_label, query), do: answers(query, [Wire.a({:bytes, <<0x80, 0>>}, @ip)])

  defp bytes(:too_long, query),
    do: answers(query, [<<0xC00C::16, 1::16, 1::16, 5::32, 65_535::16, 127, 0, 0, 1>>])

  defp bytes(:cname_circle, query) do
    other = ["other", "test"]
    answers(query, [Wire.cname(:question, other), Wire.cname(other, :question)])
  end

  defp bytes(:endless_cname, query) do
    [label | _] = Wire.labels(query)
    answers(query, [Wire.cname(:question, ["n#{:erlang.phash2(label)}", "test"])])
  end

  defp answers(query, records), do: answer(query, answers: records)

  defp answer(query, opts),
    do: Wire.response(query, Keyword.put_new(opts, :answers, [Wire.a(:question, @ip)]))

  defp half(query) do
    bytes = answer(query, [])
    [<<byte_size(bytes)::16>>, binary_part(bytes, 0, 20), :close]
  end

  defp first_record(query), do: 12 + byte_size(Wire.question(query))
  defp pointer(offset), do: {:bytes, <<0b11::2, offset::14>>}

  defp always_truncated(udp) do
    {:ok, {ip, port, query}} = :gen_udp.recv(udp, 0)
    :gen_udp.send(udp, ip, port, Wire.response(query, flags: 0x8380))
    always_truncated(udp)
  end

  # RFC 4343, 2.1: `\DDD` is an octet in decimal. A backslash before another character means that character.
  defp unescape(<<?\\, rest::binary>>) do
    case Integer.parse(binary_part(rest <> "   ", 0, 3)) do
      {octet, ""} -> <<octet>> <> unescape(binary_part(rest, 3, byte_size(rest) - 3))
      _ -> binary_part(rest, 0, 1) <> unescape(binary_part(rest, 1, byte_size(rest) - 1))
    end
  end

  defp unescape(<<byte, rest::binary>>), do: <<byte>> <> unescape(rest)
  defp unescape(""), do: ""
end
