defmodule Caravan.Dns do
  alias Caravan.Options

  @schema [
    nameservers: [
      type: {:custom, __MODULE__, :check_nameservers, []},
      type_doc: "list of strings, 16 at most",
      default: [],
      doc:
        "The nameservers to query, in this order, over UDP (`\"10.0.0.2\"`, `\"127.0.0.1:8600\"`, " <>
          "`\"[fd00::1]:53\"`), TCP (`\"tcp://10.0.0.2\"`), TLS (`\"tls://10.0.0.2:853#dns.example\"`) or HTTPS " <>
          "(`\"https://10.0.0.2/dns-query#dns.example\"`). The certificate must be for the name after the `#`, " <>
          "or for the address if there is no `#`. With `[]`, the system's configuration is used: " <>
          "`/etc/resolv.conf` and `/etc/hosts`."
    ],
    timeout: [
      type: {:in, 1..60_000},
      type_doc: "milliseconds",
      default: 5_000,
      doc: "The timeout of the whole lookup, including retries and TCP."
    ],
    attempts: [
      type: {:or, [{:in, 1..10}, nil]},
      default: nil,
      doc:
        "How often each nameserver is queried. All attempts share the timeout. Defaults to `2`, or without " <>
          "`:nameservers` to `attempts` in `/etc/resolv.conf`, if it is there."
    ],
    addresses: [
      type: {:in, [true, false, :inet, :inet6]},
      default: false,
      doc:
        "Whether an SRV lookup also returns the addresses of the targets: of both families (`true`), of IPv4 only " <>
          "(`:inet`) or of IPv6 only (`:inet6`). Without `:dnssec`, the addresses that come with the SRV records are used. " <>
          "For each wanted family of which a target has no such address, the target is looked up. These lookups run in " <>
          "parallel, within 9/10 of the timeout."
    ],
    known_targets: [
      type: {:custom, __MODULE__, :check_targets, []},
      type_doc: "list of strings, 16,384 at most",
      default: [],
      doc:
        "The SRV targets that are not looked up, because the caller knows their addresses. They are in lower case and have " <>
          "no trailing dot, as in `Caravan.Dns.Service`."
    ],
    allow: [
      type: {:custom, __MODULE__, :check_networks, []},
      type_doc: "list of strings, 64 at most",
      default: [],
      doc:
        "The networks whose addresses are accepted, such as `\"10.0.0.0/8\"`, `\"fd00::/8\"` or " <>
          "`\"10.1.2.3\"`. Other addresses are dropped and counted. With `[]`, all addresses are accepted."
    ],
    dnssec: [
      type: {:custom, __MODULE__, :check_dnssec, []},
      type_doc: "boolean",
      default: false,
      doc:
        "Whether answers are validated with DNSSEC (RFC 4035). An answer is the error `:bogus` unless it " <>
          "is proved to be authentic, or to be unsigned."
    ],
    trust_anchors: [
      type: {:custom, __MODULE__, :check_path, []},
      type_doc: "absolute path",
      default: nil,
      doc:
        "A file with all DNSKEY records of a zone, for zones that are not signed from the root down. " <>
          "Defaults to the keys of the root, which are built in."
    ],
    ca_file: [
      type: {:custom, __MODULE__, :check_path, []},
      type_doc: "absolute path",
      default: nil,
      doc:
        "A PEM file with the CA certificates to trust for `tls://` and `https://`. Defaults to Mozilla's, " <>
          "which are built in."
    ],
    randomize_case: [
      type: :boolean,
      default: false,
      doc:
        "Whether names are sent in random case over UDP, and only answers that repeat it are accepted (0x20). " <>
          "That makes answers harder to forge."
    ]
  ]

  @defaults Options.defaults(@schema)

  @moduledoc """
  Looks up the DNS records that can name nodes: SRV, A and AAAA.

      iex> {:ok, answer} = Caravan.Dns.lookup("_app._tcp.example.com", :srv, nameservers: ["127.0.0.1:8600"])
      iex> hd(answer.records)
      %Caravan.Dns.Service{priority: 1, weight: 1, port: 4001, target: "node1.example.com", addresses: []}

  Lookups run in Caravan's Rust library, which uses hickory: over UDP with EDNS, and over TCP if an answer is
  truncated. If a lookup queries `:nameservers` over UDP, without files and without `:dnssec`, the calling process sends the
  query and tries twice to receive the answer. A nameserver on the same host has usually responded by then. A thread
  outside the schedulers does all waiting and longer work, all other lookups, and the first lookup of a configuration.
  Each lookup ends at its deadline, whatever the network does.

  Caravan keeps no answers. Each lookup queries a nameserver, which usually has a cache.

  ## Options

  #{Options.docs(@schema)}

  ## Limits

  | what | limit |
  |---|---|
  | lookups in flight in one VM | 1,024. One more returns `:busy`. |
  | a name | 253 octets, labels of 63 octets, ASCII letters, digits, `-`, `_` |
  | records of one answer | 4,096. More records return `:too_many_records`. |
  | a file: `/etc/resolv.conf`, `/etc/hosts`, `:ca_file`, `:trust_anchors` | 16 MiB. A larger file is `:unreadable_file`. |
  | threads that look at files | 8. A file that blocks occupies up to two threads. Lookups that need this file fail with `:unreadable_file` at their deadline. While all 8 threads are occupied, all lookups that need a file fail like this. Lookups that need no file go on. |
  | addresses of an SRV target | 16. More addresses are left out. |
  | size of a response | 1,232 octets over UDP, as requested by EDNS. Up to 4,095 octets are accepted, and a larger one counts as truncated. 65,535 octets over TCP. |
  | CNAME records of a name | 8 within one response. If they lead to a name whose records are not in the response, this name is queried, 8 times at most in one lookup. More of either return `:bad_response`. |
  | time for which queries share an attempt to connect over TCP, TLS or HTTPS | 5 seconds. Later queries start another attempt. The earlier one goes on while a query waits for it. |
  | configurations whose sockets and connections are kept | 32, until about a minute after the last lookup. One more replaces the oldest. |
  | proofs of DNSSEC that are kept for one nameserver | 4,096, each for 60 seconds at most. One more replaces the oldest. |
  | idle UDP sockets | 128 in one VM. Each is closed after 32 queries. |

  The limits cannot be changed.

  The next lookup uses a changed `/etc/resolv.conf`, `/etc/hosts`, `:ca_file` or `:trust_anchors`. A thread checks the files
  at each lookup that needs them, which takes some 50 µs. Lookups with `:nameservers` and without files do not wait for that.

  Names in `/etc/hosts` are compared without case and are not converted. So the file must have an internationalized name in
  its ASCII form (`xn--…`), as lookups do.

  With `:dnssec`, a name that matches a wildcard can be `:bogus` if its zone is signed with NSEC, because hickory
  requires more proof than RFC 4035. If a zone is signed with NSEC3 of more than 100 iterations, an answer that denies a
  name or a record returns `:bogus`.
  """

  alias Caravan.Dns.Answer
  alias Caravan.Dns.Error
  alias Caravan.Native

  @typedoc "The record types that can be looked up."
  @type type :: :srv | :a | :aaaa

  @type option ::
          {:nameservers, [String.t()]}
          | {:timeout, pos_integer}
          | {:attempts, pos_integer | nil}
          | {:addresses, boolean | :inet | :inet6}
          | {:known_targets, [String.t()]}
          | {:allow, [String.t()]}
          | {:dnssec, boolean}
          | {:trust_anchors, Path.t() | nil}
          | {:ca_file, Path.t() | nil}
          | {:randomize_case, boolean}

  @types [:srv, :a, :aaaa]
  @max_nameservers 16
  @max_networks 64
  @max_known_targets 16_384

  # Milliseconds. The library replies by the deadline, but a busy VM may run its thread later. `lookup/3` waits this long
  # after the deadline, and again if the lookup can no longer be cancelled.
  @grace 5

  # How often a lookup is started again because Caravan.Native was reloaded. One more returns `:reloaded`.
  @max_restarts 100

  @doc """
  Looks up `name` and waits for the answer, at most as long as the option `:timeout`.

  A trailing dot makes the name absolute. Then the search domains of the system are not used.
  """
  @spec lookup(String.t(), type, [option]) :: {:ok, Answer.t()} | {:error, Error.t()}
  def lookup(name, type, options \\ []) do
    options = validate!(options, type)

    with ref when is_reference(ref) <-
           start_and_poll(name, type, options, :answer, &yield_and_poll/1) do
      receive do
        {^ref, result} -> result
      after
        options.timeout + @grace -> cancel_or_receive(ref, name, type)
      end
    end
  end

  @doc """
  Looks up `name` like `lookup/3`. Returns the answer, or raises `Caravan.Dns.Error`.

      Caravan.Dns.lookup!("app.example.com", :a).records
  """
  @spec lookup!(String.t(), type, [option]) :: Answer.t()
  def lookup!(name, type, options \\ []) do
    case lookup(name, type, options) do
      {:ok, answer} -> answer
      {:error, error} -> raise error
    end
  end

  @doc """
  Starts a lookup. Returns `{:ok, ref}`, or an error that is known at once.

      {:ok, ref} = Caravan.Dns.lookup_async("app.example.com", :a, timeout: 1_000)

      receive do
        {^ref, {:ok, answer}} -> answer.records
        {^ref, {:error, error}} -> raise error
      end

  After `{:ok, ref}`, the calling process gets one message, `{ref, {:ok, answer} | {:error, error}}`, within `:timeout`.
  When the calling process dies, its lookups end.
  """
  @spec lookup_async(String.t(), type, [option]) :: {:ok, reference} | {:error, Error.t()}
  def lookup_async(name, type, options \\ []), do: start_async(name, type, options, :answer)

  # Does the same as lookup_async/3, but the message has `{:changed, answer, fingerprint}` or `{:unchanged, answer}` in place
  # of `{:ok, answer}`. If the records of the answer have the fingerprint `last`, the answer is unchanged, and comes without
  # its records.
  @doc false
  @spec lookup_changes(String.t(), type, [option], last :: Native.fingerprint() | nil) ::
          {:ok, reference} | {:error, Error.t()}
  def lookup_changes(name, type, options, last),
    do: start_async(name, type, options, {:changes, last})

  defp start_async(name, type, options, wanted) do
    options = validate!(options, type)

    case start_and_poll(name, type, options, wanted, &Native.dns_poll/1) do
      ref when is_reference(ref) -> {:ok, ref}
      {:error, error} -> {:error, error}
      result -> {:ok, send_to_self(make_ref(), result)}
    end
  end

  @doc """
  Ends a lookup of `lookup_async/3`. Returns `true` if its message will not come, or `false` if the message was sent
  before or the reference does not belong to a lookup.

      {:ok, ref} = Caravan.Dns.lookup_async("app.example.com", :a)
      Caravan.Dns.cancel(ref)
  """
  @spec cancel(reference) :: boolean
  def cancel(ref) when is_reference(ref) do
    Native.dns_cancel(ref)
  rescue
    # The reference belongs to no lookup of this library: it is another reference, or its lookup began before a reload.
    ArgumentError -> false
  end

  @doc """
  Closes the sockets and connections that no lookup is using. Returns `:ok`.

  Without it, they are closed about a minute after the last lookup.

      :ok = Caravan.Dns.flush()
  """
  @spec flush() :: :ok
  def flush, do: Native.dns_flush()

  @doc false
  @spec check_nameservers(term, (() -> [atom])) :: Options.checked()
  def check_nameservers(servers, features \\ &Native.dns_features/0) do
    lacks_tls? = fn server ->
      String.starts_with?(server, ["tls://", "https://"]) and :tls not in features.()
    end

    cond do
      not valid_strings?(
        servers,
        @max_nameservers,
        &(lacks_tls?.(&1) or Native.dns_nameserver?(&1))
      ) ->
        {:error,
         "a list of up to #{@max_nameservers} addresses such as \"127.0.0.1:8600\", \"tcp://10.0.0.2\", " <>
           "\"tls://10.0.0.2:853#dns.example\" or \"https://10.0.0.2/dns-query#dns.example\""}

      Enum.any?(servers, lacks_tls?) ->
        {:error, "a list of addresses without tls:// and https://, " <> lacks(:tls)}

      true ->
        {:ok, servers}
    end
  end

  @doc false
  @spec check_dnssec(term, (() -> [atom])) :: Options.checked()
  def check_dnssec(dnssec, features \\ &Native.dns_features/0) do
    cond do
      not is_boolean(dnssec) -> {:error, "true or false"}
      dnssec and :dnssec not in features.() -> {:error, "false, " <> lacks(:dnssec)}
      true -> {:ok, dnssec}
    end
  end

  defp lacks(feature) do
    "because Caravan's library was built without #{inspect(feature)} (to build it with all features, delete " <>
      "config :caravan, nif_features: and run mix deps.compile caravan --force)"
  end

  @doc false
  @spec check_networks(term) :: Options.checked()
  def check_networks(networks) do
    if valid_strings?(networks, @max_networks, &Native.dns_network?/1),
      do: {:ok, networks},
      else: {:error, "a list of up to #{@max_networks} networks such as \"10.0.0.0/8\""}
  end

  @doc false
  @spec check_targets(term) :: Options.checked()
  def check_targets(targets) do
    if valid_strings?(targets, @max_known_targets, &String.valid?/1),
      do: {:ok, targets},
      else:
        {:error, "a list of up to #{@max_known_targets} host names such as \"node1.example.com\""}
  end

  @doc false
  @spec check_path(term) :: Options.checked()
  def check_path(nil), do: {:ok, nil}

  def check_path(path) do
    if is_binary(path) and String.valid?(path) and Path.type(path) == :absolute,
      do: {:ok, path},
      else: {:error, "the absolute path of a file"}
  end

  @doc false
  @spec schema() :: Options.schema()
  def schema, do: @schema

  defp valid_strings?(list, limit, valid?) do
    is_list(list) and not List.improper?(list) and length(list) <= limit and
      Enum.all?(list, &(is_binary(&1) and valid?.(&1)))
  end

  defp validate!(options, type) do
    options = Options.validate!(options, @schema, @defaults, "Caravan.Dns")

    if type == :srv and options.allow != [] and options.addresses == false,
      do:
        refuse!(
          :addresses,
          "true, :inet or :inet6 if :allow is given for :srv, because SRV records have no addresses"
        )

    if options.trust_anchors && not options.dnssec,
      do: refuse!(:dnssec, "true if :trust_anchors is given")

    options
  end

  @spec refuse!(atom, String.t()) :: no_return
  defp refuse!(key, expected) do
    raise ArgumentError,
          "Caravan.Dns: expected #{inspect(key)} to be #{expected}, got: false"
  end

  # A reload of Caravan.Native between dns_lookup and dns_poll makes the reference unknown to the library. The first lookup
  # then ends without a message, when its reference is collected. So this function starts another one.
  defp start_and_poll(name, type, options, wanted, poll, restarts \\ @max_restarts) do
    with ref when is_reference(ref) <- start(name, type, options, wanted),
         :unknown <- poll_known(ref, poll) do
      if restarts > 0,
        do: start_and_poll(name, type, options, wanted, poll, restarts - 1),
        else: {:error, %Error{name: name, type: type, reason: :reloaded}}
    end
  end

  defp poll_known(ref, poll) do
    poll.(ref)
  rescue
    ArgumentError -> :unknown
  end

  # An answer that is not there at once has often arrived after other processes have run.
  defp yield_and_poll(ref) do
    :erlang.yield()
    Native.dns_poll(ref)
  end

  defp send_to_self(ref, result) do
    send(self(), {ref, result})
    ref
  end

  defp start(name, type, options, wanted) when is_binary(name) and type in @types,
    do: Native.dns_lookup(name, type, options, wanted)

  defp start(name, type, _options, _wanted) when is_binary(name) do
    raise ArgumentError,
          "Caravan.Dns: expected the record type to be :srv, :a or :aaaa, got: #{inspect(type)}"
  end

  defp start(name, _type, _options, _wanted) do
    raise ArgumentError, "Caravan.Dns: expected the name to be a string, got: #{inspect(name)}"
  end

  defp cancel_or_receive(ref, name, type) do
    if cancel(ref) do
      {:error, %Error{name: name, type: type, reason: :timeout}}
    else
      receive do
        {^ref, result} -> result
      after
        # The lookup began before a reload of Caravan.Native, and cannot be ended.
        @grace -> {:error, %Error{name: name, type: type, reason: :timeout}}
      end
    end
  end
end
