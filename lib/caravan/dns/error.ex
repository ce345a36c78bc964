defmodule Caravan.Dns.Error do
  @reasons [
    nxdomain: {
      "the name does not exist",
      "check the name; a Kubernetes headless service has no name before its pods are ready, unless it has publishNotReadyAddresses: true"
    },
    no_records: {
      "the name has no record of this type",
      "check that the service is registered, and that the record type is right"
    },
    not_allowed: {
      "all addresses of the answer are outside the networks of :allow",
      "check that :allow has the networks of the nodes"
    },
    timeout: {
      "no valid answer came in time",
      "check that the nameserver is reachable over UDP and TCP, or raise the option :timeout (in a strategy, :lookup_timeout)"
    },
    servfail: {
      "the nameserver failed",
      "look at the logs of the nameserver; Consul returns this while it has no leader"
    },
    refused: {
      "the nameserver refused the query",
      "check that the nameserver serves this zone to this client"
    },
    formerr: {
      "the nameserver did not understand the query",
      "look at the logs of the nameserver"
    },
    bad_response: {
      "the response violates the protocol, has an unexpected error code, or has too many CNAME records",
      "look at the logs of the nameserver, and at proxies and firewalls between it and this node"
    },
    truncated: {
      "the answer was truncated, and no complete answer came over TCP",
      "allow DNS over TCP between this node and the nameserver"
    },
    too_many_records: {
      "the answer has more than 4,096 records",
      "look up a name that has fewer"
    },
    connection: {
      "no nameserver could be reached",
      "check that the addresses in :nameservers or /etc/resolv.conf are right, and that there is a route to them"
    },
    tls: {
      "the TLS handshake with the nameserver failed",
      "check that its certificate is valid, is for the name after the # (or for the address), and is signed by a CA in :ca_file"
    },
    bogus: {
      "DNSSEC could not prove the answer",
      "check that the zone is signed, that its keys are signed by those of the root or of :trust_anchors, and that the clock of this host is right, because signatures expire; if this worked before, answers may be forged"
    },
    bad_file: {
      "the file of :ca_file or :trust_anchors is unusable",
      "check that it exists, is readable, and has certificates (PEM) or DNSKEY records"
    },
    busy: {"1,024 lookups are in flight", "start fewer lookups at the same time"},
    reloaded: {
      "Caravan.Native was reloaded each time that the lookup started",
      "reload it less often, and repeat the lookup"
    },
    internal: {"Caravan has a bug", "report it, with the output on stderr"}
  ]

  @moduledoc """
  The reason why a lookup has no answer. It is returned, and raised by `Caravan.Dns.lookup!/3`.

    * `:name` and `:type`: as they were looked up.
    * `:nameserver`: the nameserver that the reason is about, as in `Caravan.Dns.Answer`. After a timeout of several nameservers,
      it is the one that was asked last. It is `nil` if none was asked.
    * `:transport`: the transport over which this nameserver was asked last. After a truncated answer over UDP, it is `:tcp`. It is
      `nil` if no nameserver was asked, or if DNSSEC took several queries over UDP and TCP.
    * `:reason`: one of the following.

  | reason | meaning | what to do |
  |---|---|---|
  #{Enum.map_join(@reasons, "\n", fn {reason, {meaning, advice}} -> "| `#{inspect(reason)}` | #{meaning} | #{advice} |" end)}
  | `{:unreadable_file, text}` | a file that the lookup needs could not be read; `text` has its path and the reason | remove the cause; the next lookup reads the file again; a file over 16 MiB is never read |
  | `{:no_descriptors, text}` | no file descriptor is free; `text` is the reason of the operating system | raise the limit (`ulimit -n`), or find what holds the descriptors |
  | `{:no_threads, text}` | the operating system could not start a thread; `text` is its reason | raise the limit of threads or processes (`ulimit -u`, `pids.max` of the container) |
  | `{:bad_name, text}` | the name cannot be looked up; `text` has the reason | correct the name |
  """

  defexception [:name, :type, :reason, :nameserver, :transport]

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
          | :reloaded
          | :internal
          | {:unreadable_file, String.t()}
          | {:no_descriptors, String.t()}
          | {:no_threads, String.t()}
          | {:bad_name, String.t()}

  @type t :: %__MODULE__{
          name: String.t(),
          type: Caravan.Dns.type(),
          reason: reason,
          nameserver: String.t() | nil,
          transport: :udp | :tcp | :tls | :https | nil
        }

  @impl true
  def message(%__MODULE__{name: name, type: type, reason: reason, nameserver: nameserver}) do
    at = if nameserver, do: " at #{nameserver}", else: ""

    "DNS lookup of #{inspect(name)} (#{type |> Atom.to_string() |> String.upcase()}) failed#{at}: " <>
      describe(reason)
  end

  defp describe({:unreadable_file, text}),
    do: "a file could not be read: #{text} (:unreadable_file); the next lookup reads it again"

  defp describe({:no_descriptors, text}) do
    "no file descriptor is free: #{text} (:no_descriptors); " <>
      "raise the limit (ulimit -n), or find what holds the descriptors"
  end

  defp describe({:no_threads, text}) do
    "the operating system could not start a thread: #{text} (:no_threads); " <>
      "raise the limit of threads or processes (ulimit -u, pids.max of the container)"
  end

  defp describe({:bad_name, text}), do: "the name cannot be looked up: #{text}"

  for {reason, {meaning, advice}} <- @reasons do
    defp describe(unquote(reason)),
      do: unquote("#{meaning} (#{inspect(reason)}); #{advice}")
  end
end
