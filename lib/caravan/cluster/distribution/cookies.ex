defmodule Caravan.Cluster.Distribution.Cookies do
  # Effect. Puts peers into quarantine by a cookie for each of them (erlang:set_cookie/2), and releases them.
  # Caravan.Epmd.Quarantine stores the state, and explains it. One process at a time changes it.
  @moduledoc false

  import Bitwise, only: [<<<: 2]

  alias Caravan.Cluster.Job
  alias Caravan.Epmd.Quarantine

  @typedoc "The name under which a strategy is registered."
  @type key :: atom

  # Milliseconds that a change of the saved state may take, with the wait for the lock. The VM may be busy.
  @change_timeout 5_000

  @doc "Returns the strategies that are drained."
  @spec drained() :: [key]
  def drained, do: Quarantine.load().keys

  @doc "Returns the nodes that are in quarantine."
  @spec quarantined() :: [node]
  def quarantined, do: Map.keys(Quarantine.load().cookies)

  @doc "Marks a strategy as drained."
  @spec add_key(key) :: :ok
  def add_key(key) do
    :ok =
      change(fn saved ->
        %{saved | secret: saved.secret || secret(), keys: Enum.uniq([key | saved.keys])}
      end)
  end

  @doc """
  Marks a strategy as not drained.

  If no drained strategy is left, all nodes are released. Otherwise nodes stay in quarantine until `release/2`.
  """
  @spec delete_key(key) :: :ok
  def delete_key(key) do
    :ok =
      change(fn saved ->
        saved = %{saved | keys: List.delete(saved.keys, key)}

        if saved.keys == [],
          do: saved.cookies |> Map.keys() |> Enum.reduce(saved, &restore/2),
          else: saved
      end)
  end

  @doc "Puts nodes into quarantine. Does nothing if the strategy is not drained."
  @spec quarantine(key, [node]) :: :ok
  def quarantine(key, nodes) do
    # Compares the cookies that OTP has, because a restart of distribution deletes them. If the VM does not use
    # Caravan.Epmd, nothing else has set them again.
    secret = Quarantine.load().secret

    :ok =
      if Enum.any?(nodes, &(:erlang.get_cookie(&1) != secret)),
        do: change(&quarantine(&1, key, nodes)),
        else: :ok
  end

  @doc """
  Takes nodes out of quarantine. Does nothing if the strategy is drained.

  Takes all nodes at once, because after each change of a persistent term the VM scans all processes.
  """
  @spec release(key, [node]) :: :ok | {:error, reason :: term}
  def release(_key, []), do: :ok
  def release(key, nodes), do: change(&release(&1, key, nodes))

  # A leave job may still run after resume/1. Then its strategy is not drained any more, and nothing changes.
  defp quarantine(saved, key, nodes) do
    new =
      for node <- nodes, key in saved.keys, cookie = other_cookie(node, saved), do: {node, cookie}

    # Saves the cookies before it changes them, so that a crash loses none.
    saved = Quarantine.save(%{saved | cookies: Map.merge(saved.cookies, Map.new(new))})
    Enum.each(new, fn {node, _cookie} -> :erlang.set_cookie(node, saved.secret) end)
    saved
  end

  defp other_cookie(node, saved) do
    cookie = :erlang.get_cookie(node)
    if cookie != saved.secret, do: cookie
  end

  defp release(saved, key, nodes) do
    if key in saved.keys,
      do: saved,
      else: nodes |> Enum.filter(&is_map_key(saved.cookies, &1)) |> Enum.reduce(saved, &restore/2)
  end

  # A cookie that was set by other code since the quarantine began is kept.
  defp restore(node, saved) do
    {cookie, cookies} = Map.pop!(saved.cookies, node)
    _ = if :erlang.get_cookie(node) == saved.secret, do: :erlang.set_cookie(node, cookie)
    %{saved | cookies: cookies}
  end

  # Only a node that knows the cookie of this node could guess the secret. Such a node is trusted anyway.
  defp secret do
    seed = {:erlang.get_cookie(), make_ref(), System.system_time(), :rand.uniform(1 <<< 60)}
    seed |> :erlang.term_to_binary() |> :erlang.md5() |> Base.encode16() |> String.to_atom()
  end

  ## Changes

  # Runs in a separate process, because the caller may be killed at any time, and a change must be complete.
  defp change(fun) do
    change = fn ->
      lock()
      _ = Quarantine.save(fun.(Quarantine.load()))
      :ok
    end

    with {:ok, _done} <- Job.run(change, @change_timeout), do: :ok
  end

  # The registered name is the lock. It is free again when the process that has it ends.
  defp lock do
    Process.register(self(), __MODULE__)
  rescue
    ArgumentError ->
      ref = Process.monitor(__MODULE__)

      receive do
        {:DOWN, ^ref, :process, _holder, _reason} -> lock()
      end
  end
end
