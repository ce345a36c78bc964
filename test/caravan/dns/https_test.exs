defmodule Caravan.Dns.HttpsTest do
  use ExUnit.Case, async: true

  # https:// (RFC 8484) with responses that are HTTP, but not what was asked for. tls_test.exs has the usual ones.

  alias Caravan.Dns
  alias Caravan.Dns.Error
  alias Caravan.Test.Certificates
  alias Caravan.Test.DnsServer.Wire
  alias Caravan.Test.HttpsServer
  alias Caravan.Test.Requirements

  @moduletag Requirements.tag(:openssl)

  @ip {127, 0, 0, 1}
  @message [{"content-type", "application/dns-message"}]
  # Milliseconds. No test waits that long.
  @patience 60_000

  setup_all do
    dir = Path.join(System.tmp_dir!(), "https-" <> Base.encode16(:rand.bytes(6), case: :lower))
    File.mkdir!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)
    ca_file = Certificates.authority!(dir, "ca")
    %{certificate: Certificates.server!(dir, "ca", "server", ["DNS:dns.test"]), ca_file: ca_file}
  end

  setup context do
    server = start_supervised!({HttpsServer, certificate: context.certificate})
    address = "https://127.0.0.1:#{HttpsServer.port(server)}/dns-query#dns.test"
    options = [nameservers: [address], ca_file: context.ca_file, timeout: @patience]
    %{server: server, options: options}
  end

  defp answer(query), do: Wire.response(query, answers: [Wire.a(:question, @ip)])

  defp lookup_soon(options) do
    {:ok, ref} = Dns.lookup_async("app.test", :a, options)
    # On a machine with a load of 40, a TLS handshake has taken over 10 s.
    assert_receive {^ref, result}, 40_000
    result
  end

  for {title, status, headers, body} <- [
        {"a message of a content type", 200, @message, :answer},
        {"a message without a content type", 200, [], :answer},
        # Media types are case-insensitive and may have parameters (RFC 9110, 8.3.1).
        {"a message whose content type has a parameter", 200,
         [{"content-type", "application/dns-message; charset=utf-8"}], :answer},
        {"a message whose content type has capital letters", 200,
         [{"content-type", "Application/DNS-Message"}], :answer}
      ] do
    test "#{title} is an answer", %{server: server, options: options} do
      put(server, unquote(status), unquote(Macro.escape(headers)), unquote(body))
      assert {:ok, %{records: [@ip], transport: :https}} = lookup_soon(options)
    end
  end

  # A redirect is not followed: the certificate of another server would be for another name.
  for {title, status, headers, body} <- [
        {"a redirect", 301, [{"location", "/elsewhere"}], nil},
        {"a redirect with an answer", 302, [{"location", "/elsewhere"} | @message], :answer},
        {"a status of 204", 204, [], nil},
        {"a status of 404", 404, [{"content-type", "text/html"}], "<html>not found</html>"},
        {"a status of 500 with an answer", 500, @message, :answer},
        {"another content type", 200, [{"content-type", "text/html"}], "<html>log in</html>"},
        {"another content type of an answer", 200, [{"content-type", "application/json"}],
         :answer},
        {"an empty body", 200, @message, ""},
        {"no body", 200, @message, nil},
        {"a body that is not a message", 200, @message, "nonsense"},
        {"a message that ends too early", 200, @message, :cut}
      ] do
    test "#{title} is the error :bad_response at once", %{server: server, options: options} do
      put(server, unquote(status), unquote(Macro.escape(headers)), unquote(body))
      assert {:error, %Error{reason: :bad_response}} = lookup_soon(options)

      # The next lookup is not affected.
      put(server, 200, @message, :answer)
      assert {:ok, %{records: [@ip]}} = lookup_soon(options)
    end
  end

  defp put(server, status, headers, body) do
    HttpsServer.put(server, fn query ->
      body =
        case body do
          :answer -> answer(query)
          :cut -> binary_part(answer(query), 0, 20)
          other -> other
        end

      {status, headers, body}
    end)
  end
end
