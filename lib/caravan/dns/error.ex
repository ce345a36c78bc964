defmodule Caravan.Dns.Error do
  @reasons [
    nxdomain: {
      "the name does not exist",
      "see that the query name is right; a Kubernetes headless service needs publishNotReadyAddresses: true to exist before its pods are ready"
    },
    no_records: {
      "the name has no record of this type",
      "see that the service is registered and that :type is right"
    },
    not_allowed: {
      "records were there, and all of them outside the networks of :allow",
      "see that :allow names the networks of the nodes"
    },
    timeout: {
      "no valid answer in time",
      "see that the nameserver is reachable over UDP and TCP, or raise :timeout (in a strategy, :lookup_timeout)"
    },
    servfail: {
      "the server failed",
      "look at the nameserver; Consul says so while it has no leader"
    },
    refused: {
      "the server refused the question",
      "see that the nameserver serves this zone to this client"
    },
    formerr: {"the server did not understand the question", "look at the nameserver"},
    bad_response: {
      "the server's answer breaks the protocol or is an error of another kind",
      "look at the nameserver, and at what stands between it and this node"
    },
    truncated: {
      "the answer was cut short, over TCP too",
      "allow DNS over TCP between this node and the nameserver"
    },
    too_many_records: {
      "the answer has more than 4,096 records",
      "ask for a name with fewer"
    },
    connection: {
      "no nameserver could be reached",
      "see that the addresses in :nameservers or /etc/resolv.conf are right and routed"
    },
    tls: {
      "the TLS handshake with the nameserver failed",
      "see that its certificate is valid, for the name behind the # (or the address), and from an issuer in :ca_file"
    },
    bogus: {
      "DNSSEC could not prove the answer",
      "see that the zone is signed and its keys lead to the root's or to :trust_anchors; if it was right before, somebody may be forging answers"
    },
    bad_file: {
      "the file of :ca_file or :trust_anchors cannot be used",
      "see that it exists, can be read, and holds certificates (PEM) or DNSKEY records"
    },
    busy: {"1,024 lookups are under way", "ask less often"},
    internal: {"Caravan itself failed", "report it, with what stands on stderr"}
  ]

  @moduledoc """
  Why a lookup has no answer.

    * `:name` and `:type` as they were asked for;
    * `:reason`, one of:

  | reason | meaning | what to do |
  |---|---|---|
  #{Enum.map_join(@reasons, "\n", fn {reason, {meaning, advice}} -> "| `#{inspect(reason)}` | #{meaning} | #{advice} |" end)}
  | `{:bad_name, text}` | the name cannot be asked for; `text` says why | mend the name |
  """

  defexception [:name, :type, :reason]

  @type reason ::
          :nxdomain
          | :no_records
          | :not_allowed
          | :timeout
          | :servfail
          | :refused
          | :formerr
          | :bad_response
          | :truncated
          | :too_many_records
          | :connection
          | :tls
          | :bogus
          | :bad_file
          | :busy
          | :internal
          | {:bad_name, String.t()}

  @type t :: %__MODULE__{name: String.t(), type: Caravan.Dns.type(), reason: reason}

  @impl true
  def message(%__MODULE__{name: name, type: type, reason: reason}) do
    "DNS lookup of #{inspect(name)} (#{type |> Atom.to_string() |> String.upcase()}) failed: " <>
      describe(reason)
  end

  defp describe({:bad_name, text}), do: "the name cannot be asked for: #{text}"

  for {reason, {meaning, advice}} <- @reasons do
    defp describe(unquote(reason)),
      do: unquote("#{meaning} (#{inspect(reason)}); #{advice}")
  end
end
