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
        "How often each nameserver is queried. All attempts share the timeout. Defaults to `attempts` in " <>
          "`/etc/resolv.conf`, or else to `2`."
    ],
    addresses: [
      type: {:in, [true, false, :inet, :inet6]},
      default: false,
      doc:
        "Whether an SRV lookup also returns the addresses of the targets: of both families (`true`), of IPv4 only " <>
          "(`:inet`) or of IPv6 only (`:inet6`). They are taken from the answer. Targets whose addresses are not in " <>
          "the answer, or not of each family, are looked up in parallel, within 9/10 of the timeout."
    ],
    known_targets: [
      type: {:custom, __MODULE__, :check_targets, []},
      type_doc: "list of strings, 16,384 at most",
      default: [],
      doc:
        "The SRV targets that are not looked up, because the caller knows their addresses. In lower case and without " <>
          "a trailing dot, as in `Caravan.Dns.Service`."
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
      type: :boolean,
      default: false,
      doc:
        "Whether answers are validated with DNSSEC (RFC 4035). An answer that is proved neither to be " <>
          "authentic nor to be unsigned is the error `:bogus`."
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
  truncated. The calling process sends the query and tries twice to receive the answer. A nameserver on the same
  host has usually responded by then. All waiting and all longer work is done on a thread outside the schedulers.
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
  | threads that look at files | 8. A file that blocks occupies up to two threads. Lookups that need this file fail with `:unreadable_file` at their deadline. While all 8 threads are occupied, this is true of all lookups that need a file. Lookups that need none go on. |
  | addresses of an SRV target | 16. More addresses are left out. |
  | size of a response | 1,232 octets over UDP, as requested by EDNS. One of 4,096 octets counts as truncated. 65,535 octets over TCP. |
  | CNAME records of a name | 8 in one response, and 8 responses. More return `:bad_response`. |
  | an attempt to connect over TCP, TLS or HTTPS | 5 seconds, and longer while a lookup waits for it. Attempts that begin within the 5 seconds share it. |
  | configurations whose sockets and connections are kept | 32, until 60 seconds after the last lookup. One more replaces the oldest. |
  | proofs of DNSSEC that are kept for one nameserver | 4,096, each for 60 seconds at most. One more replaces the oldest. |
  | idle UDP sockets | 128 in one VM. Each is closed after 32 queries. |

  The limits cannot be changed.

  The next lookup uses a changed `/etc/resolv.conf`, `/etc/hosts`, `:ca_file` or `:trust_anchors`. A thread checks the files
  at each lookup that needs them, which takes some 50 µs. Lookups with `:nameservers` and without files do not wait for that.

  Names in `/etc/hosts` are compared as they are written, without case. A name with characters beyond ASCII is found only if
  the file has its form in ASCII (`xn--…`).

  With `:dnssec`, a name that matches a wildcard can be `:bogus` if its zone is signed with NSEC, because hickory
  requires more proof than RFC 4035. If a zone is signed with NSEC3 of more than 100 iterations, the answer that a name
  or a record does not exist is `:bogus`.
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

  # Milliseconds. The library replies by the deadline, but a busy VM may run its thread later. Added to the wait for
  # the reply, and to the wait for a reply that could not be cancelled any more.
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

    with ref when is_reference(ref) <- start_and_poll(name, type, options, &yield_and_poll/1) do
      receive do
        {^ref, result} -> result
      after
        options.timeout + @grace -> cancel_or_receive(ref, name, type)
      end
    end
  end

  @doc "Looks up `name` like `lookup/3`. Returns the answer, or raises `Caravan.Dns.Error`."
  @spec lookup!(String.t(), type, [option]) :: Answer.t()
  def lookup!(name, type, options \\ []) do
    case lookup(name, type, options) do
      {:ok, answer} -> answer
      {:error, error} -> raise error
    end
  end

  @doc """
  Starts a lookup and returns its reference at once.

  The calling process gets one message, `{ref, {:ok, answer} | {:error, error}}`, within the option `:timeout`.
  When the calling process dies, its lookups end.
  """
  @spec lookup_async(String.t(), type, [option]) :: {:ok, reference} | {:error, Error.t()}
  def lookup_async(name, type, options \\ []) do
    options = validate!(options, type)

    case start_and_poll(name, type, options, &Native.dns_poll/1) do
      ref when is_reference(ref) -> {:ok, ref}
      {:ok, answer} -> {:ok, send_to_self(make_ref(), {:ok, answer})}
      {:error, error} -> {:error, error}
    end
  end

  @doc """
  Ends a lookup of `lookup_async/3`. Returns `true` if its message will not come, or `false` if the message was sent
  before or the reference does not belong to a lookup.
  """
  @spec cancel(reference) :: boolean
  def cancel(ref) when is_reference(ref) do
    Native.dns_cancel(ref)
  rescue
    # The reference does not belong to a lookup, or to one from before a reload of the library.
    ArgumentError -> false
  end

  @doc """
  Closes the sockets and connections that no lookup is using. Returns `:ok`.

  Without it, they are closed after 60 seconds without a lookup.
  """
  @spec flush() :: :ok
  def flush, do: Native.dns_flush()

  @doc false
  @spec check_nameservers(term) :: Options.checked()
  def check_nameservers(servers) do
    if valid_strings?(servers, @max_nameservers, &Native.dns_nameserver?/1),
      do: {:ok, servers},
      else:
        {:error,
         "a list of up to #{@max_nameservers} addresses such as \"127.0.0.1:8600\", \"tcp://10.0.0.2\", " <>
           "\"tls://10.0.0.2:853#dns.example\" or \"https://10.0.0.2/dns-query#dns.example\""}
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
        refuse!(:addresses, "if :allow is given for :srv, because SRV records have no addresses")

    if options.trust_anchors && not options.dnssec,
      do: refuse!(:dnssec, "if :trust_anchors is given")

    options
  end

  @spec refuse!(atom, String.t()) :: no_return
  defp refuse!(key, condition) do
    raise ArgumentError,
          "Caravan.Dns: expected #{inspect(key)} to be true #{condition}, got: false"
  end

  # A reload of Caravan.Native between the two calls makes the reference unknown to the library. That lookup
  # ends without a message when its reference is collected, so it is started again.
  defp start_and_poll(name, type, options, poll, restarts \\ @max_restarts) do
    with ref when is_reference(ref) <- start(name, type, options),
         :unknown <- poll_known(ref, poll) do
      if restarts > 0,
        do: start_and_poll(name, type, options, poll, restarts - 1),
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

  defp start(name, type, options) when is_binary(name) and type in @types,
    do: Native.dns_lookup(name, type, options)

  defp start(name, type, _options) when is_binary(name) do
    raise ArgumentError,
          "Caravan.Dns: expected the record type to be :srv, :a or :aaaa, got: #{inspect(type)}"
  end

  defp start(name, _type, _options) do
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
