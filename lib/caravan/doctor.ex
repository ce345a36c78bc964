defmodule Caravan.Doctor do
  alias Caravan.Cluster.Config.Schema
  alias Caravan.Options

  @groups [:release, :node, :ports, :dns, :peers]

  @schema [
    topology: [
      type: {:custom, __MODULE__, :check_topology, []},
      type_doc: "atom",
      default: nil,
      doc: "The only topology to look at. By default, all topologies that are known."
    ],
    only: [
      type: {:custom, __MODULE__, :check_only, []},
      type_doc: "list of #{Enum.map_join(@groups, ", ", &"`#{inspect(&1)}`")}",
      default: @groups,
      doc:
        "The groups of checks to run. Checks of other groups run too, if these depend on them. The report has such a check " <>
          "only if it has failed and all checks of the groups are skipped."
    ],
    nodes: [
      type: {:in, 0..16_384},
      default: 0,
      doc: "The number of connected nodes, without this one, below which `cluster.nodes` fails."
    ],
    strategy: [
      type: {:custom, __MODULE__, :check_strategy, []},
      type_doc: "keyword list",
      default: nil,
      doc:
        "The options of the `Caravan.Cluster.DnsStrategy` to look at. By default, the topologies are those that run in this " <>
          "VM, those of libcluster's configuration, and those of `config :app, Caravan.Cluster.DnsStrategy, query: …`."
    ],
    wait: [
      type: {:in, 0..3_600_000},
      type_doc: "milliseconds",
      default: 0,
      doc:
        "How long the doctor repeats the checks until the report is ok. It waits a second between two runs. For deploy scripts."
    ],
    strict: [
      type: :boolean,
      default: false,
      doc: "Whether a warning counts as a failure."
    ],
    timeout: [
      type: {:in, 100..600_000},
      type_doc: "milliseconds",
      default: 10_000,
      doc:
        "The timeout of all checks together. Checks that are not finished by then are skipped, with the text `no time`, and " <>
          "the report is not ok."
    ],
    color: [
      type: :boolean,
      default: false,
      doc: "Whether the text has colors (ANSI)."
    ],
    verbose: [
      type: :boolean,
      default: false,
      doc: "Whether the text also has the checks that are ok or skipped."
    ]
  ]

  @moduledoc """
  Finds out why nodes do not form a cluster.

      bin/app rpc  'Caravan.doctor!()'   # looks at the running node
      bin/app eval 'Caravan.doctor!()'   # looks at a node that does not boot
      mix caravan.doctor                 # looks at a project

  In a running node it looks at this node. In `bin/app eval` it looks at the node that `bin/app start` would start: its
  VM arguments, environment and configuration. `Caravan.doctor/1` prints what it finds, and `report/1` returns it.

  Each check has an id, such as `node.host`, which is a heading of the guide "Troubleshooting". If a check fails,
  the checks that depend on it are skipped.

  The doctor changes nothing on this node. It does not connect this node to other nodes, and creates no atoms from names
  that it reads. It needs no process of Caravan. To find out which node listens on a port, it begins a handshake of the
  distribution there, under the name `caravan-probe-N@HOST` with N below 64. A member that is not connected also gets the digest of the cookie, as from OTP at each
  connection attempt. If the member accepts the digest, it lists a hidden node of this name until the doctor closes the
  connection. If the member refuses the digest, it logs one line. A node that uses TLS logs one line if this node does not.

  ## Options

  #{Options.docs(@schema)}
  """

  alias Caravan.Cluster.Job
  alias Caravan.Doctor.Check
  alias Caravan.Doctor.Checks
  alias Caravan.Doctor.Context
  alias Caravan.Doctor.Lookup
  alias Caravan.Doctor.Report
  alias Caravan.Doctor.Text

  @type option ::
          {:topology, atom}
          | {:only, [:release | :node | :ports | :dns | :peers]}
          | {:nodes, non_neg_integer}
          | {:strategy, keyword | nil}
          | {:wait, non_neg_integer}
          | {:strict, boolean}
          | {:timeout, pos_integer}
          | {:color, boolean}
          | {:verbose, boolean}

  @typedoc "What `report/1` returns."
  @type report :: %{
          node: String.t() | nil,
          ok: boolean,
          counts: %{ok: integer, warning: integer, failed: integer, skipped: integer},
          checks: [map]
        }

  # The maximum number of checks that run at the same time.
  @parallel 128

  # Milliseconds between two runs with :wait.
  @interval 1_000

  @doc """
  Runs the checks and returns a report: a map of strings, numbers, booleans, lists and `nil`, with atoms as keys.

      report = Caravan.Doctor.report(only: [:dns, :peers])
      for %{status: "failed", id: id, fix: fix} <- report.checks, do: IO.puts([id, ": ", fix])

    * `:node` - the name of the node, or `nil`;
    * `:ok` - `false` if a check has failed, if a check was not finished within `:timeout`, if all checks were skipped, or with
      `:strict` if there is a warning; otherwise `true`;
    * `:counts` - the number of checks by status: `:ok`, `:warning`, `:failed`, `:skipped`;
    * `:checks` - the checks. Each has `:id`, `:topology` (or `nil`), `:subject` (a node, a query or a file, or `nil`),
      `:status`, `:seen`, for warnings and failures `:expected` and `:fix`, and `:time_us` in microseconds.

  Raises `ArgumentError` for a wrong option.
  """
  @spec report([option]) :: report
  def report(options \\ []), do: options |> prepare!() |> run_and_wait()

  @doc """
  Looks up one query as a strategy with these options does, and prints what follows: the nameserver, the records, and for
  each record the name, the port and the address of its node, or why it is left out.

      bin/app rpc 'Caravan.Doctor.lookup("_app._tcp.example.com")'

  The options are those of `Caravan.Cluster.DnsStrategy`, such as `:type`, `:nameservers`, `:node_sname` and `:ports`.

  Returns `:ok`, or `{:error, :no_answer}` if no record type has an answer. Raises `ArgumentError` for a wrong option.
  `mix caravan.lookup` does the same without a node, and its status is 1 without an answer. The status of `bin/app rpc` and
  `bin/app eval` is 1 then if the command matches the result: `:ok = Caravan.Doctor.lookup("app.internal", type: :a)`.
  """
  @spec lookup(String.t(), keyword) :: :ok | {:error, :no_answer}
  def lookup(query, options \\ []) do
    {answered?, text} = Lookup.run(query, options)
    IO.puts(text)
    if answered?, do: :ok, else: {:error, :no_answer}
  end

  @doc false
  @spec print([option]) :: :ok | {:error, [String.t()]}
  def print(options), do: options |> prepare!() |> print_report()

  @doc false
  @spec print_and_exit([option], project :: boolean) :: :ok | no_return
  def print_and_exit(options, project \\ false) do
    case prepare(options, project) do
      {:ok, prepared} ->
        case print_report(prepared) do
          :ok -> :ok
          {:error, []} -> exit({:shutdown, 2})
          {:error, _ids} -> exit({:shutdown, 1})
        end

      {:error, message} ->
        IO.puts(message)
        exit({:shutdown, 2})
    end
  end

  @doc false
  @spec check_topology(term) :: Options.checked()
  def check_topology(nil), do: {:ok, nil}
  def check_topology(topology), do: Schema.check_topology(topology)

  @doc false
  @spec check_only(term) :: Options.checked()
  def check_only(groups) do
    groups = List.wrap(groups)

    if groups != [] and not List.improper?(groups) and groups -- @groups == [],
      do: {:ok, groups},
      else: {:error, "a list of some of #{inspect(@groups)}"}
  end

  @doc false
  @spec check_strategy(term) :: Options.checked()
  def check_strategy(options) do
    if options == nil or Keyword.keyword?(options),
      do: {:ok, options},
      else:
        {:error, "the options of Caravan.Cluster.DnsStrategy, such as [query: \"app.internal\"]"}
  end

  defp prepare(options, project) do
    {:ok, prepare!(options, project)}
  rescue
    error in ArgumentError -> {:error, Exception.message(error)}
  end

  # Reads the configuration, so that a wrong one is an error and not a finding.
  defp prepare!(options, project \\ false) do
    options = Options.validate!(options, @schema, "Caravan.doctor")
    options = Map.put(options, :project, project)
    _ = Context.new(options)
    options
  end

  defp print_report(options) do
    report = run_and_wait(options)
    IO.puts(Text.format(report, options))
    if report.ok, do: :ok, else: {:error, Report.failures(report, options.strict)}
  end

  defp run_and_wait(options), do: run_and_wait(options, now() + options.wait)

  defp run_and_wait(options, wait_until) do
    report = run(options)

    if report.ok or now() + @interval > wait_until do
      report
    else
      Process.sleep(@interval)
      run_and_wait(options, wait_until)
    end
  rescue
    # While a strategy restarts, its topology is unknown, and Context.new/1 raises.
    error in ArgumentError ->
      if now() + @interval > wait_until, do: reraise(error, __STACKTRACE__)
      Process.sleep(@interval)
      run_and_wait(options, wait_until)
  end

  ## Running the checks

  defp run(options) do
    deadline = now() + options.timeout
    context = options |> Context.new() |> look_up(options)

    checks =
      Checks.Release.checks(context) ++
        Checks.Node.checks(context) ++
        Checks.Host.checks(context) ++
        Checks.Ports.checks(context) ++
        Checks.Dns.checks(context) ++
        Checks.Cluster.checks(context, options.nodes) ++ Checks.Peers.checks(context)

    checks
    |> Check.needed(options.only)
    |> run([], deadline)
    |> Check.reported(options.only)
    |> Enum.sort_by(fn check -> Enum.find_index(Check.ids(), &(&1 == check.id)) end)
    |> Report.new(context.name, options.strict)
  end

  # The lookups get half of the time, so that a silent nameserver leaves time for the checks.
  defp look_up(context, %{only: groups, timeout: timeout}) do
    if groups == [:release],
      do: context,
      else: Context.look_up(context, div(timeout, 2))
  end

  defp run([], done, _deadline), do: done

  defp run(checks, done, deadline) do
    {skipped, ready, waiting} = Check.ready(checks, done)

    ran =
      ready
      |> Task.async_stream(&run_one(&1, deadline), max_concurrency: @parallel, timeout: :infinity)
      |> Enum.map(fn {:ok, check} -> check end)

    run(waiting, done ++ skipped ++ ran, deadline)
  end

  defp run_one(%Check{run: run} = check, deadline) do
    started = System.monotonic_time()
    left = deadline - now()
    outcome = if left > 0, do: Job.run(run, left), else: {:error, :timeout}
    time = System.convert_time_unit(System.monotonic_time() - started, :native, :microsecond)

    case outcome do
      {:ok, result} -> Check.put_result(check, result, time)
      {:error, :timeout} -> Check.put_no_time(check, time)
      {:error, {:crashed, reason}} -> Check.put_result(check, crashed(reason), time)
    end
  end

  # The report of a check that crashed must not be ok.
  defp crashed(reason) do
    fix = "Report this bug of Caravan: https://github.com/uberbrodt/caravan/issues"
    {:failed, "the check crashed: #{inspect(reason)}", "a result", fix}
  end

  defp now, do: System.monotonic_time(:millisecond)
end
