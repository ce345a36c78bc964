defmodule Caravan.Doctor.Check do
  # Pure. One check of the doctor: its subject, the checks on which it depends, and its result.
  @moduledoc false

  @enforce_keys [:id, :group, :run]
  defstruct @enforce_keys ++
              [
                grounds: [],
                topology: nil,
                subject: nil,
                status: nil,
                seen: nil,
                expected: nil,
                fix: nil,
                time_us: 0
              ]

  @typedoc """
    * `:run` - the function that makes the check;
    * `:grounds` - the ids of the checks on which this one depends. It runs after them. If one of them has failed, it is
      skipped;
    * `:topology`, `:subject` - what is checked: the topology, and a node, a query or a file;
    * `:status`, `:seen`, `:expected`, `:fix` - the result;
    * `:time_us` - how long `:run` took, in microseconds.
  """
  @type t :: %__MODULE__{
          id: String.t(),
          group: group,
          run: (() -> result),
          grounds: [String.t()],
          topology: String.t() | nil,
          subject: String.t() | nil,
          status: status | nil,
          seen: String.t() | nil,
          expected: String.t() | nil,
          fix: String.t() | nil,
          time_us: non_neg_integer
        }

  @type group :: :release | :node | :ports | :dns | :peers
  @type status :: :ok | :warning | :failed | :skipped

  @typedoc """
  What `:run` returns. The fix is a command to type, or lines as they must be in their file.

  A function may make several checks in a row, and stop at the first that fails. It then also returns the id of that
  check.
  """
  @type result ::
          outcome | {id :: String.t(), outcome}

  @type outcome ::
          {:ok, seen :: String.t()}
          | {:skipped, why :: String.t()}
          | {:warning | :failed, seen :: String.t(), expected :: String.t(), fix :: String.t()}

  # Each id is a heading of guides/troubleshooting.md.
  @ids ~w(
    release.rel_missing release.vm_args release.remote_vm_args release.cookie
    node.alive node.nif node.epmd_module node.epmd_started node.longnames node.host
    ports.rule ports.listen ports.advertised
    dns.lookup dns.empty dns.names dns.self dns.search dns.nameserver dns.drift
    peer.resolve peer.refused peer.silent peer.network peer.protocol peer.tls peer.name peer.version peer.cookie
    peer.drained peer.connected
    cluster.topology cluster.nodes cluster.mesh cluster.connect_all
  )

  # The groups of the checks, by the part of the id before the dot.
  @groups %{
    "release" => :release,
    "node" => :node,
    "ports" => :ports,
    "dns" => :dns,
    "peer" => :peers,
    "cluster" => :peers
  }

  # What a check has seen that was not finished when the timeout was over.
  @no_time "no time"

  @doc "Returns the ids of all checks."
  @spec ids() :: [String.t()]
  def ids, do: @ids

  @spec new(String.t(), keyword, (() -> result)) :: t
  def new(id, fields \\ [], run) when id in @ids,
    do:
      struct!(
        %__MODULE__{
          id: id,
          group: Map.fetch!(@groups, id |> String.split(".") |> hd()),
          run: run
        },
        fields
      )

  @doc "Puts the result of a check."
  @spec put_result(t, result, time_us :: non_neg_integer) :: t
  def put_result(%__MODULE__{} = check, {id, outcome}, time_us) when id in @ids,
    do: put_result(%{check | id: id}, outcome, time_us)

  def put_result(%__MODULE__{} = check, {status, seen}, time_us)
      when status in [:ok, :skipped],
      do: %{check | status: status, seen: seen, time_us: time_us}

  def put_result(%__MODULE__{} = check, {status, seen, expected, fix}, time_us)
      when status in [:warning, :failed],
      do: %{
        check
        | status: status,
          seen: seen,
          expected: expected,
          fix: fix,
          time_us: time_us
      }

  @doc "Puts the result of a check that was not finished when the timeout was over."
  @spec put_no_time(t, time_us :: non_neg_integer) :: t
  def put_no_time(%__MODULE__{} = check, time_us),
    do: put_result(check, {:skipped, @no_time}, time_us)

  @doc "Returns whether a check, or its map, has this result."
  @spec without_time?(t | map) :: boolean
  def without_time?(%{seen: seen}), do: seen == @no_time

  @doc "Returns the checks of these groups, and those on which they depend."
  @spec needed([t], [group]) :: [t]
  def needed(checks, groups) do
    wanted = for check <- checks, check.group in groups, do: check.id
    ids = with_grounds(checks, wanted, [])
    Enum.filter(checks, &(&1.id in ids))
  end

  defp with_grounds(_checks, [], ids), do: ids

  defp with_grounds(checks, new, ids) do
    ids = Enum.uniq(new ++ ids)
    grounds = for check <- checks, check.id in new, ground <- check.grounds, do: ground
    with_grounds(checks, Enum.uniq(grounds) -- ids, ids)
  end

  @doc """
  Returns the checks of these groups. If all of them were skipped, also returns the failed checks of other groups, which
  are the cause.
  """
  @spec reported([t], [group]) :: [t]
  def reported(checks, groups) do
    {asked, grounds} = Enum.split_with(checks, &(&1.group in groups))

    if Enum.all?(asked, &(&1.status == :skipped)),
      do: asked ++ Enum.filter(grounds, &(&1.status == :failed)),
      else: asked
  end

  @doc """
  Splits the checks that have not run. `done` are the checks that have run.

  Returns the checks that are skipped because one of their grounds has failed, with this as their result. Then the checks
  that can run now, and the checks that wait for their grounds.
  """
  @spec ready([t], done :: [t]) :: {skipped :: [t], ready :: [t], waiting :: [t]}
  def ready(checks, done) do
    pending = MapSet.new(checks, & &1.id)
    causes = for check <- done, cause = cause(check), into: %{}, do: {check.id, cause}

    {waiting, now} =
      Enum.split_with(checks, fn check -> Enum.any?(check.grounds, &(&1 in pending)) end)

    {skipped, ready} = Enum.split_with(now, fn check -> ground(check, causes) end)
    {Enum.map(skipped, &skip(&1, ground(&1, causes))), ready, waiting}
  end

  # Returns the id of the failed check because of which others are skipped. The :expected of a skipped check is the id of
  # the failed one, so that the checks that depend on the skipped check get the same cause.
  defp cause(%__MODULE__{status: :failed, id: id}), do: id
  defp cause(%__MODULE__{status: :skipped, expected: cause}), do: cause
  defp cause(_check), do: nil

  defp ground(check, causes), do: Enum.find_value(check.grounds, &causes[&1])

  defp skip(check, cause),
    do: %{check | status: :skipped, seen: "#{cause} has failed", expected: cause}

  @doc "Returns the check as a map of strings, numbers and nil."
  @spec to_map(t) :: map
  def to_map(%__MODULE__{} = check) do
    expected = if check.status in [:warning, :failed], do: check.expected

    check
    |> Map.take([:id, :topology, :subject, :seen, :fix, :time_us])
    |> Map.merge(%{status: to_string(check.status), expected: expected})
  end
end
