defmodule Caravan.Native do
  # NIF border, boot-safe. The functions of native/caravan_nif, one stub each. Runs inside kernel start, so: only :erlang,
  # kernel and stdlib, and no @on_load. In a release the handlers of preloaded modules run after
  # distribution has started (kernel_safe_sup), and the node would not boot. A stub loads the library
  # on its first call instead, and the call goes on in the native function.
  @moduledoc false

  # Bounds the wait for a module that is reloaded again and again.
  @purges 1_000

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

  @spec peers_find(binary) :: peer | nil
  def peers_find(name), do: first_call(:peers_find, [name])

  @spec peers_list() :: [named_peer]
  def peers_list, do: first_call(:peers_list, [])

  @spec dns_lookup(binary, query_type, options :: map) ::
          reference | {:ok, Caravan.Dns.Answer.t()} | {:error, Caravan.Dns.Error.t()}
  def dns_lookup(name, query_type, options),
    do: first_call(:dns_lookup, [name, query_type, options])

  @spec dns_poll(reference) ::
          reference | {:ok, Caravan.Dns.Answer.t()} | {:error, Caravan.Dns.Error.t()}
  def dns_poll(lookup), do: first_call(:dns_poll, [lookup])

  @spec dns_cancel(reference) :: boolean
  def dns_cancel(lookup), do: first_call(:dns_cancel, [lookup])

  @spec dns_flush() :: :ok
  def dns_flush, do: first_call(:dns_flush, [])

  # Lookups in flight, and tasks on the library's runtime. For tests.
  @spec dns_in_flight() :: {lookups :: non_neg_integer, tasks :: non_neg_integer}
  def dns_in_flight, do: first_call(:dns_in_flight, [])

  @spec dns_nameserver?(binary) :: boolean
  def dns_nameserver?(text), do: first_call(:dns_nameserver?, [text])

  @spec dns_network?(binary) :: boolean
  def dns_network?(text), do: first_call(:dns_network?, [text])

  @doc """
  Loads the library unless it is loaded. The error is a line for an operator: which file, why, what
  to do.
  """
  @spec load() :: :ok | {:error, :unicode.chardata()}
  def load, do: load(@purges)

  defp load(purges) do
    path = library()

    case :erlang.load_nif(path, 0) do
      :ok ->
        :ok

      # Another process was faster, or reloaded this module: then the call goes on in the new code.
      {:error, {reason, _}} when reason in [:reload, :old_code] ->
        :ok

      # This module was reloaded, and its old code still holds the library. A process that is in the old
      # code leaves it at once.
      {:error, {:upgrade, _}} when purges > 0 ->
        :code.soft_purge(__MODULE__) or :erlang.yield()
        load(purges - 1)

      {:error, {_reason, text}} ->
        {:error, advice(path, text)}
    end
  end

  # Where a stub goes on, and never returns to: the load overwrites its machine code, and a process that
  # came back into it would end the VM. After a failed load it must not be called again either.
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
      "or CARAVAN_NIF=<file> mix compile) and see that its directory is on the code path as caravan/ebin."
    ]
  end
end
