defmodule Caravan.Native do
  # NIF border, boot-safe. One stub for each function of native/caravan_nif. The first call of a stub loads the library
  # and continues in the native function.
  #
  # There is no @on_load, because the handlers of preloaded modules run in a release after distribution has started
  # (kernel_safe_sup), which needs this module.
  @moduledoc false

  # Maximum number of purges of old code while loading. It limits the wait if this module is reloaded again and again.
  @purges 1_000

  @not_nifs [load: 0, __info__: 1, module_info: 0, module_info: 1]

  @type port_error :: :empty_name | :out_of_range | :temporary
  @type query_type :: :srv | :a | :aaaa

  @spec port(binary) :: :inet.port_number() | port_error | :unset
  def port(name), do: first_call(:port, [name])

  @spec port(binary, :name | :fixed, :inet.port_number()) :: :inet.port_number() | port_error
  def port(name, rule, base), do: first_call(:port, [name, rule, base])

  @spec port_settings(:name | :fixed, :inet.port_number()) :: :ok
  def port_settings(rule, base), do: first_call(:port_settings, [rule, base])

  @type peer :: {port :: :inet.port_number() | nil, [:inet.ip_address()]}
  @type named_peer :: {name :: binary, port :: :inet.port_number() | nil, [:inet.ip_address()]}

  @spec peers_put(atom, [named_peer]) :: :ok | {:error, :full}
  def peers_put(topology, peers), do: first_call(:peers_put, [topology, peers])

  @spec peers_delete(atom) :: :ok
  def peers_delete(topology), do: first_call(:peers_delete, [topology])

  @spec peers_rotate(binary) :: :ok
  def peers_rotate(name), do: first_call(:peers_rotate, [name])

  @spec peers_find(binary) :: peer | nil
  def peers_find(name), do: first_call(:peers_find, [name])

  @spec peers_list() :: [named_peer]
  def peers_list, do: first_call(:peers_list, [])

  # Says what a lookup with an answer returns. With `:answer`, it returns `{:ok, answer}`. With `{:changes, last}`, it returns
  # `{:changed, answer, fingerprint}`. If the records have the fingerprint `last`, it returns `{:unchanged, answer}` in place
  # of that, and the answer has no records.
  @type wanted :: :answer | {:changes, last :: fingerprint | nil}

  # A fingerprint does not depend on the order and the TTLs of the records. It has a meaning only in the VM that made it.
  @type fingerprint :: non_neg_integer

  @type dns_result ::
          {:ok, Caravan.Dns.Answer.t()}
          | {:changed, Caravan.Dns.Answer.t(), fingerprint}
          | {:unchanged, Caravan.Dns.Answer.t()}
          | {:error, Caravan.Dns.Error.t()}

  @spec dns_lookup(binary, query_type, options :: map, wanted) :: reference | dns_result
  def dns_lookup(name, query_type, options, wanted),
    do: first_call(:dns_lookup, [name, query_type, options, wanted])

  @spec dns_poll(reference) :: reference | dns_result
  def dns_poll(lookup), do: first_call(:dns_poll, [lookup])

  @spec dns_cancel(reference) :: boolean
  def dns_cancel(lookup), do: first_call(:dns_cancel, [lookup])

  @spec dns_flush() :: :ok
  def dns_flush, do: first_call(:dns_flush, [])

  # For tests. Tasks are those on the library's runtime.
  @spec dns_in_flight() :: {lookups :: non_neg_integer, tasks :: non_neg_integer}
  def dns_in_flight, do: first_call(:dns_in_flight, [])

  @spec dns_nameserver?(binary) :: boolean
  def dns_nameserver?(text), do: first_call(:dns_nameserver?, [text])

  @spec dns_network?(binary) :: boolean
  def dns_network?(text), do: first_call(:dns_network?, [text])

  @spec dns_features() :: [:tls | :dnssec]
  def dns_features, do: first_call(:dns_features, [])

  @doc """
  Loads the library unless it is loaded. Returns `:ok`, or an error as a line for an operator: the file, the reason, and
  what to do.
  """
  @spec load() :: :ok | {:error, :unicode.chardata()}
  def load, do: load(@purges)

  defp load(purges) do
    path = library()

    case :erlang.load_nif(path, 0) do
      :ok ->
        check_complete(path)

      # Another process has loaded the library, or this module. Then the call continues in the new code.
      {:error, {reason, _}} when reason in [:reload, :old_code] ->
        check_complete(path)

      # This module was reloaded, and its old code still holds the library. Processes leave the old code soon.
      {:error, {:upgrade, _}} when purges > 0 ->
        :code.soft_purge(__MODULE__) or :erlang.yield()
        load(purges - 1)

      {:error, {_reason, text}} ->
        {:error, advice(path, text)}
    end
  end

  # The stub of a function that the library lacks would load the library again and again.
  defp check_complete(path) do
    case :erlang.apply(__MODULE__, :module_info, [:nifs]) do
      # This module was reloaded. Its new code loads the library.
      [] ->
        :ok

      nifs ->
        case :erlang.apply(__MODULE__, :module_info, [:exports]) -- (@not_nifs ++ nifs) do
          [] ->
            :ok

          lacking ->
            {:error,
             advice(
               path,
               :io_lib.format("it is that of another version, and lacks ~p", [lacking])
             )}
        end
    end
  end

  # A stub must call this as its last action, without returning into the stub: loading overwrites the stub's machine
  # code, and a process that returned into it would crash the VM. If loading fails, the stub is not called again.
  defp first_call(function, arguments) do
    case load() do
      :ok -> :erlang.apply(__MODULE__, function, arguments)
      {:error, advice} -> :erlang.nif_error({:caravan_nif, :unicode.characters_to_binary(advice)})
    end
  end

  defp library do
    case :code.priv_dir(:caravan) do
      {:error, :bad_name} -> ~c"priv/native/caravan_nif"
      priv -> priv ++ ~c"/native/caravan_nif"
    end
  end

  defp advice(path, text) do
    [
      "Caravan's library ",
      [path, ".so"],
      " cannot be loaded: ",
      text,
      ". Build it for this machine (mix compile, or mix release, on the same system and CPU as here; ",
      "or CARAVAN_NIF=<file> mix deps.compile caravan --force). Its directory must be on the code path as caravan/ebin."
    ]
  end
end
