defmodule Caravan.Cluster.DnsStrategy.OwnRecord do
  # Owner-state. What DNS says about this node. Reports when DNS does not give this node its name, and keeps this node
  # from dialling itself under another name.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Distribution.OwnNode
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.OwnName
  alias Caravan.Cluster.Report

  @enforce_keys [:config]
  defstruct @enforce_keys ++
              [
                own: nil,
                found_at: nil,
                answers: %{},
                finding: :named,
                others: [],
                compared_at: nil,
                unnamed_since: nil,
                partial: false,
                reported: nil,
                logged: %{}
              ]

  @typedoc """
    * `:own`: this node, and `:found_at` when it was found;
    * `:answers`: the endpoints of the last answer of each source;
    * `:finding`, `:others`: the result of the last comparison, and `:compared_at` its time;
    * `:unnamed_since`: the time of the first answer without this node after the last one with it;
    * `:partial`: whether an answer lacked a node that the answer before had;
    * `:reported`: the last finding that was logged, or `:named`, or `nil` before the first one;
    * `:logged`: when each kind of finding was logged last.
  """
  @opaque t :: %__MODULE__{
            config: Config.t(),
            own: OwnName.own() | nil,
            found_at: integer | nil,
            answers: %{Config.source() => OwnName.endpoints()},
            finding: OwnName.finding(),
            others: [String.t()],
            compared_at: integer | nil,
            unnamed_since: integer | nil,
            partial: boolean,
            reported: OwnName.finding() | nil,
            logged: %{atom => integer}
          }

  # Milliseconds within which a kind of finding is logged once.
  @quiet 60_000

  # Milliseconds for which this node is taken as it was found. The first answers of all sources come within that time.
  @fresh 1_000

  # Milliseconds after which equal answers are compared again, because the addresses of this host may have changed.
  @compare_every 60_000

  @spec new(Config.t()) :: t
  def new(%Config{} = config), do: %__MODULE__{config: config}

  @doc "Finds this node ahead of the first answer, because it takes a while to list the addresses of the host."
  @spec start(t) :: t
  def start(%__MODULE__{} = record), do: find_own(record, System.monotonic_time(:millisecond))

  @doc """
  Compares an answer with this node, and reports what has changed.

  Returns the answer without the endpoints that lead to this node. `responded?` says whether each source has had a response,
  and `connected?` whether a node is connected.
  """
  @spec answer(
          t,
          Config.source(),
          Membership.answer(),
          responded? :: boolean,
          connected? :: (String.t() -> boolean)
        ) :: {Membership.answer(), t}
  def answer(%__MODULE__{} = record, source, answer, responded?, connected?) do
    now = System.monotonic_time(:millisecond)
    record = compare(record, source, answer.endpoints, now)
    answer = %{answer | endpoints: Map.drop(answer.endpoints, record.others)}

    if record.own,
      do: {answer, report(record, finding(record, connected?), responded?, answer.ttl, now)},
      else: {answer, record}
  end

  defp compare(%{answers: answers, compared_at: at} = record, source, endpoints, now) do
    case answers do
      %{^source => ^endpoints} when now - at < @compare_every ->
        record

      _ ->
        partial = record.partial or lacks?(endpoints, Map.get(answers, source, %{}))
        answers = Map.put(answers, source, endpoints)

        %{record | answers: answers, partial: partial, compared_at: now}
        |> find_own(now)
        |> compare()
    end
  end

  defp find_own(%{own: own, found_at: at} = record, now) do
    if own != nil and now - at < @fresh,
      do: record,
      else: %{record | own: OwnNode.find(), found_at: now}
  end

  defp lacks?(endpoints, before),
    do: Enum.any?(before, fn {name, _endpoint} -> not is_map_key(endpoints, name) end)

  # Distribution may start later.
  defp compare(%{own: nil} = record), do: %{record | answers: %{}}

  defp compare(%{own: own} = record) do
    endpoints =
      for {_source, endpoints} <- record.answers,
          reduce: %{},
          do: (found -> Map.merge(found, OwnName.on_this_host(own, endpoints)))

    %{
      record
      | finding: OwnName.compare(own, endpoints, &OwnNode.port_of/1),
        others: OwnName.others(own, endpoints, &OwnNode.port_of/1)
    }
  end

  # A node that is connected is another one.
  defp finding(%{finding: {:perhaps, name} = finding}, connected?),
    do: if(connected?.(name), do: :not_named, else: finding)

  defp finding(%{finding: finding}, _connected?), do: finding

  defp report(record, finding, responded?, ttl, now)
       when finding == :not_named or elem(finding, 0) == :perhaps do
    record = %{record | unnamed_since: record.unnamed_since || now}

    if responded? and now - record.unnamed_since >= patience(record, ttl),
      do: report_new(record, finding),
      else: record
  end

  defp report(record, finding, _responded?, _ttl, _now),
    do: report_new(%{record | unnamed_since: nil}, finding)

  # A server that answers with a part of its records leaves this node out of some answers.
  defp patience(%{reported: nil, partial: false, config: config}, ttl),
    do: max(ttl || 0, config.min_interval)

  defp patience(%{config: config}, ttl), do: max(ttl || 0, config.keep)

  defp report_new(%{reported: finding} = record, finding), do: record
  defp report_new(%{reported: nil} = record, :named), do: %{record | reported: :named}

  # A server that answers with a part of its records makes findings come and go. So each kind is logged once within
  # `:keep`, or within a minute.
  defp report_new(%{config: config} = record, finding) do
    kind = if is_tuple(finding), do: elem(finding, 0), else: finding
    now = System.monotonic_time(:millisecond)
    logged = record.logged[kind]

    if logged != nil and now - logged < max(config.keep, @quiet) do
      record
    else
      :ok = Report.own_name(config, finding, record.own)
      %{record | reported: finding, logged: Map.put(record.logged, kind, now)}
    end
  end
end
