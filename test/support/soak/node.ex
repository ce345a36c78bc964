defmodule Caravan.Test.Soak.Node do
  @moduledoc "Starts the strategy inside a VM of a soak, and acts on it there."

  alias Caravan.Cluster.DnsStrategy
  alias Caravan.Native
  alias Caravan.Test.Soak.Links
  alias Caravan.Test.Soak.LogFile

  @topology :soak
  @supervisor Module.concat(__MODULE__, Supervisor)

  # How often `reload/0` loads the module.
  @reloads 20

  # Milliseconds to wait until no process runs the old code.
  @purge_timeout 1_000

  @doc "Starts `Caravan.Test.Soak.Links` and the strategy, under a supervisor that outlives the caller."
  @spec start(options :: keyword) :: :ok
  def start(options) do
    load_code()
    {:ok, _} = :application.ensure_all_started(:logger)
    caller = self()

    options = [topology: @topology, disconnect: {__MODULE__, :disconnect, []}] ++ options

    spawn(fn ->
      children = [Links, {DnsStrategy, options}]
      limits = [max_restarts: 1_000, max_seconds: 1, name: @supervisor]
      {:ok, _} = Supervisor.start_link(children, [strategy: :one_for_one] ++ limits)
      send(caller, :started)
      Process.sleep(:infinity)
    end)

    receive do
      :started -> LogFile.note("strategy #{inspect(strategy())}")
    end
  end

  # A release loads its code at boot. Code that is loaded later would look like a leak.
  defp load_code do
    for app <- [:kernel, :stdlib, :elixir, :logger, :caravan] do
      _ = :application.load(app)
      {:ok, modules} = :application.get_key(app, :modules)
      :ok = :code.ensure_modules_loaded(modules)
    end
  end

  @doc "The function for the option `:disconnect`. It logs that it was called."
  @spec disconnect(node) :: boolean | :ignored
  def disconnect(node) do
    LogFile.note("disconnect #{node}")
    :erlang.disconnect_node(node)
  end

  @spec drain() :: :ok | {:error, atom}
  def drain, do: Caravan.Cluster.drain(@topology)

  @spec resume() :: :ok | {:error, atom}
  def resume, do: Caravan.Cluster.resume(@topology)

  @doc """
  Loads `Caravan.Native` several times. Before each, it waits until no process runs the old code, as a release
  handler does.
  """
  @spec reload() :: :ok | :busy
  def reload, do: reload(@reloads, @purge_timeout)

  defp reload(0, _milliseconds), do: :ok
  defp reload(_reloads, 0), do: :busy

  defp reload(reloads, milliseconds) do
    if :code.soft_purge(Native) do
      {:module, Native} = :code.load_file(Native)
      reload(reloads - 1, @purge_timeout)
    else
      Process.sleep(1)
      reload(reloads, milliseconds - 1)
    end
  end

  @doc "Returns the pid of the strategy, or its state of `Supervisor.which_children/1`."
  @spec strategy() :: pid | :restarting | :undefined
  def strategy do
    {_id, pid, _type, _modules} =
      @supervisor |> Supervisor.which_children() |> List.keyfind({DnsStrategy, @topology}, 0)

    pid
  end
end
