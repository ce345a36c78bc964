defmodule Caravan.Dns do
  alias Caravan.Options

  @nameserver "`\"10.0.0.2\"`, `\"127.0.0.1:8600\"`, `\"[fd00::1]:53\"`"

  @schema [
    nameservers: [
      check: &__MODULE__.check_nameservers/1,
      default: [],
      type: "list of strings, 16 at most",
      doc:
        "whom to ask, in order: #{@nameserver}; none: the system's (`/etc/resolv.conf`, `/etc/hosts`)"
    ],
    timeout: [
      check: 1..60_000,
      default: 5_000,
      type: "milliseconds, 1 to 60,000",
      doc: "deadline of the whole lookup, retries and TCP included"
    ],
    attempts: [
      check: 1..10,
      default: 2,
      type: "1 to 10",
      doc: "how often each nameserver is asked; they share the timeout"
    ]
  ]

  @moduledoc """
  DNS lookups of the records that name nodes: SRV, A and AAAA.

      iex> {:ok, answer} = Caravan.Dns.lookup("_app._tcp.example.com", :srv, nameservers: ["127.0.0.1:8600"])
      iex> hd(answer.records)
      %Caravan.Dns.Service{priority: 1, weight: 1, port: 4001, target: "node1.example.com"}

  A lookup runs outside the schedulers, in the Rust library (hickory), over UDP with EDNS, and over
  TCP when an answer is cut. It ends at its deadline whatever the network does. At most 1,024 are
  under way in a VM; one more is `:busy`.

  ## Options

  #{Options.docs(@schema)}
  """

  alias Caravan.Dns.Answer
  alias Caravan.Dns.Error
  alias Caravan.Native

  @typedoc "The record types that can be looked up."
  @type type :: :srv | :a | :aaaa

  @type option ::
          {:nameservers, [String.t()]} | {:timeout, pos_integer} | {:attempts, pos_integer}

  @types [:srv, :a, :aaaa]
  @max_nameservers 16

  # The library replies by the deadline; this covers a VM too busy to run its thread.
  @grace 10

  @doc """
  Looks `name` up and waits for the answer, for no longer than the option `:timeout`.

  A trailing dot makes a name absolute; the system's search domains are then not tried.
  """
  @spec lookup(String.t(), type, [option]) :: {:ok, Answer.t()} | {:error, Error.t()}
  def lookup(name, type, options \\ []) do
    options = validate!(options)

    with {:ok, ref} <- start(name, type, options) do
      receive do
        {^ref, result} -> result
      after
        options.timeout + @grace -> give_up(ref, name, type)
      end
    end
  end

  @doc "As `lookup/3`, but returns the answer itself and raises `Caravan.Dns.Error`."
  @spec lookup!(String.t(), type, [option]) :: Answer.t()
  def lookup!(name, type, options \\ []) do
    case lookup(name, type, options) do
      {:ok, answer} -> answer
      {:error, error} -> raise error
    end
  end

  @doc """
  Starts a lookup and returns at once.

  The calling process gets one message, `{ref, {:ok, answer} | {:error, error}}`, by the option
  `:timeout` at the latest. When the calling process dies, its lookups end with it.
  """
  @spec lookup_async(String.t(), type, [option]) :: {:ok, reference} | {:error, Error.t()}
  def lookup_async(name, type, options \\ []), do: start(name, type, validate!(options))

  @doc """
  Ends a lookup of `lookup_async/3`. True: its message will not come. False: it was sent before, or the
  reference is of no lookup.
  """
  @spec cancel(reference) :: boolean
  def cancel(ref) when is_reference(ref) do
    Native.dns_cancel(ref)
  rescue
    # As for a lookup of the code before a reload.
    ArgumentError -> false
  end

  @doc false
  @spec check_nameservers(term) :: Options.checked()
  def check_nameservers(servers) do
    if is_list(servers) and length(servers) <= @max_nameservers and
         Enum.all?(servers, &(is_binary(&1) and Native.dns_nameserver?(&1))),
       do: {:ok, servers},
       else: {:error, "a list of up to #{@max_nameservers} addresses such as \"127.0.0.1:8600\""}
  end

  @doc false
  @spec schema() :: Options.schema()
  def schema, do: @schema

  defp validate!(options), do: Options.validate!(options, @schema, "Caravan.Dns")

  defp start(name, type, options) when is_binary(name) and type in @types do
    case Native.dns_lookup(name, type, {options.nameservers, options.timeout, options.attempts}) do
      {:error, error} -> {:error, error}
      ref -> {:ok, ref}
    end
  end

  defp start(name, type, _options) when is_binary(name) do
    raise ArgumentError,
          "Caravan.Dns: expected the record type to be :srv, :a or :aaaa, got: #{inspect(type)}"
  end

  defp start(name, _type, _options) do
    raise ArgumentError, "Caravan.Dns: expected the name to be a string, got: #{inspect(name)}"
  end

  defp give_up(ref, name, type) do
    if cancel(ref) do
      {:error, %Error{name: name, type: type, reason: :timeout}}
    else
      receive do
        {^ref, result} -> result
      after
        @grace -> {:error, %Error{name: name, type: type, reason: :internal}}
      end
    end
  end
end
