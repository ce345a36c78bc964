defmodule Caravan.Cluster.Discovery do
  # Owner-state. The lookups of one topology that are in flight, and the addresses of SRV targets that the next lookups
  # need not query. Every lookup that starts has an outcome, which comes by a message that the owner hands to handle/2.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Discovery.TargetAddresses
  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Job
  alias Caravan.Cluster.Membership
  alias Caravan.Cluster.NodeName
  alias Caravan.Dns
  alias Caravan.Dns.Answer
  alias Caravan.Dns.Error
  alias Caravan.Dns.Service
  alias Caravan.Epmd.Settings
  alias Caravan.Telemetry

  @enforce_keys [:config, :targets]
  defstruct @enforce_keys ++ [pending: %{}, last: %{}, finished: %{}]

  @opaque t :: %__MODULE__{
            config: Config.t(),
            targets: TargetAddresses.t(),
            pending: %{reference => lookup},
            last: %{Config.source() => last},
            finished: %{Config.source() => finished}
          }

  # A lookup in flight. If its answer has the fingerprint of `last`, it becomes the same endpoints.
  @typep lookup :: %{
           source: Config.source(),
           started: integer,
           timer: reference | Job.t(),
           basenames: [String.t()] | nil,
           last: last | nil
         }

  # The last answer of a source. Most answers have the same records as the one before, and it would cost more than the
  # lookup to make the endpoints and the node names again. So the endpoints are used again if the fingerprint and the
  # basenames are the same. A record that came without addresses got them from TargetAddresses. Then `targets` is the
  # version of these addresses, and must be the same, too.
  @typep last :: %{
           basenames: [String.t()] | nil,
           fingerprint: fingerprint,
           targets: :unused | (version :: non_neg_integer),
           records: non_neg_integer,
           endpoints: %{String.t() => Endpoint.t()},
           left_out: [String.t()]
         }

  # The fingerprint of the library, or the nodes of a dns_client.
  @typep fingerprint :: non_neg_integer | list

  @typedoc """
  The last lookup of a source.

    * `:result`: `:ok`, or the kind of its error, and `:text`: the text of the error;
    * `:records`: the number of records, and `:ttl`: their TTL in milliseconds;
    * `:nameserver`: the one that answered, or that the error is about;
    * `:at`: the monotonic time in milliseconds when the lookup ended.
  """
  @type finished :: %{
          result: :ok | term,
          text: String.t() | nil,
          records: non_neg_integer,
          ttl: non_neg_integer | nil,
          nameserver: String.t() | nil,
          at: integer
        }

  @typedoc """
  An answer comes with one reason for each record that was left out of it. An error is a kind, by
  which errors are compared, and a text.
  """
  @type outcome ::
          {:ok, Membership.answer(), left_out :: [String.t()]}
          | {:error, {kind :: term, String.t()}}

  # What a lookup returns, before its records become endpoints. With `complete: false`, records are missing.
  @typep result ::
           {:ok,
            %{
              records: list,
              fingerprint: fingerprint | :unchanged,
              ttl: non_neg_integer | nil,
              complete: boolean,
              nameserver: String.t() | nil
            }}
           | {:error, {kind :: term, String.t()}, nameserver :: String.t() | nil}

  # Milliseconds to wait for the reply of the resolver after the deadline of a lookup.
  @grace 1_000

  @spec new(Config.t()) :: t
  def new(%Config{} = config), do: %__MODULE__{config: config, targets: TargetAddresses.new()}

  @doc "Starts a lookup."
  @spec start(t, Config.source()) :: t
  def start(%__MODULE__{config: config} = discovery, source) do
    started = System.monotonic_time()
    emit(:start, %{system_time: System.system_time()}, config, source, %{})
    basenames = basenames(source, config)
    last = last(discovery, source, basenames)
    {ref, timer} = start_one(source, last[:fingerprint], discovery)
    lookup = %{source: source, started: started, timer: timer, basenames: basenames, last: last}
    put_in(discovery.pending[ref], lookup)
  end

  # Returns `nil` if the node names contain the basename of this node, and this node has no name yet. Distribution may start
  # later than the strategy.
  defp basenames(source, config) do
    if Node.alive?() or not Config.own_basename?(config, source),
      do: Config.basenames(config, source, NodeAtom.to_name(node()))
  end

  # Returns the last answer, if equal records would become the same endpoints as then.
  defp last(%{last: last, targets: targets}, source, basenames) do
    version = TargetAddresses.version(targets, now())

    case last do
      %{^source => %{basenames: ^basenames, targets: used} = last}
      when version != nil and used in [:unused, version] ->
        last

      _ ->
        nil
    end
  end

  @doc "Returns the outcome of the lookup that `message` belongs to, or `:unknown`."
  @spec handle(t, message :: term) :: {Config.source(), outcome, t} | :unknown
  def handle(%__MODULE__{} = discovery, message) do
    case Map.pop(discovery.pending, ref(message)) do
      {nil, _pending} ->
        :unknown

      {%{source: source} = lookup, pending} ->
        result = result(lookup.timer, message)
        {outcome, records, discovery} = outcome(result, lookup, %{discovery | pending: pending})
        emit_finished(result, records, discovery.config, lookup)
        {source, outcome, put_in(discovery.finished[source], summary(result, records))}
    end
  end

  @doc "Returns whether no lookup is in flight."
  @spec idle?(t) :: boolean
  def idle?(%__MODULE__{pending: pending}), do: pending == %{}

  @doc "Returns for each source the lookup that ended last."
  @spec finished_lookups(t) :: %{Config.source() => finished}
  def finished_lookups(%__MODULE__{finished: finished}), do: finished

  defp summary({:ok, answer}, records) do
    answer
    |> Map.take([:ttl, :nameserver])
    |> Map.merge(%{result: :ok, text: nil, records: records, at: now()})
  end

  defp summary({:error, {kind, text}, nameserver}, records),
    do: %{result: kind, text: text, records: records, ttl: nil, nameserver: nameserver, at: now()}

  @doc "Notes that a node could not be connected, or is no longer connected: its address may have changed."
  @spec unreachable(t, String.t()) :: t
  def unreachable(%__MODULE__{} = discovery, name) do
    targets = TargetAddresses.unreachable(discovery.targets, NodeName.host(name))
    %{discovery | targets: targets}
  end

  @doc "Cancels all lookups. Their only outcome is a telemetry event."
  @spec stop(t) :: t
  def stop(%__MODULE__{} = discovery) do
    for {ref, lookup} <- discovery.pending do
      cancel(ref, lookup.timer)
      emit_finished({:error, {:cancelled, "cancelled"}, nil}, 0, discovery.config, lookup)
    end

    %{discovery | pending: %{}}
  end

  defp start_one({query, type}, last, %{config: %Config{dns_client: nil} = config} = discovery) do
    ref = lookup(query, type, dns_options(discovery, type), last)
    {ref, Process.send_after(self(), {__MODULE__, ref}, config.lookup_timeout + @grace)}
  end

  defp start_one({query, _type}, _last, %{config: %Config{dns_client: client} = config}) do
    job = Job.start(fn -> client_result(client.get_nodes(query)) end, config.lookup_timeout)
    {job.ref, job}
  end

  defp dns_options(%{config: config, targets: targets}, :srv) do
    # The lookup does not query known targets. But if a node cannot be reached, its target must be queried again.
    # TargetAddresses can find this target only if the host of the node name begins with the first label of the target.
    # With other templates, the lookup queries all targets.
    known =
      if NodeName.host_begins_with_target?(config.templates.srv),
        do: TargetAddresses.known(targets, now()),
        else: []

    # Distribution connects to addresses of one family only.
    [addresses: Settings.family(), known_targets: known] ++ Config.dns_options(config)
  end

  defp dns_options(%{config: config}, _type), do: Config.dns_options(config)

  defp now, do: System.monotonic_time(:millisecond)

  # If a lookup fails at once, its outcome comes by message too, as for all other lookups.
  defp lookup(query, type, options, last) do
    case Dns.lookup_changes(query, type, options, last) do
      {:ok, ref} ->
        ref

      {:error, error} ->
        ref = make_ref()
        send(self(), {ref, {:error, error}})
        ref
    end
  end

  defp cancel(_ref, %Job{} = job), do: Job.stop(job)

  defp cancel(ref, timer) do
    _ = Process.cancel_timer(timer)
    _ = Dns.cancel(ref)
    :ok
  end

  defp ref({ref, {:changed, %Answer{}, _fingerprint}}), do: ref
  defp ref({ref, {:unchanged, %Answer{}}}), do: ref
  defp ref({ref, {:error, %Error{}}}), do: ref
  defp ref({__MODULE__, ref}), do: ref
  defp ref(message), do: Job.ref(message)

  defp result(%Job{} = job, message) do
    case Job.outcome(job, message) do
      {:ok, result} ->
        result

      {:error, reason} ->
        {:error, {:client_failed, "the dns_client failed: #{inspect(reason)}"}, nil}
    end
  end

  defp result(_timer, {__MODULE__, ref}) do
    _ = Dns.cancel(ref)
    {:error, {:silent, "the resolver did not reply"}, nil}
  end

  defp result(timer, {_ref, {:changed, %Answer{} = answer, fingerprint}}),
    do: answered(timer, answer, fingerprint)

  defp result(timer, {_ref, {:unchanged, %Answer{} = answer}}),
    do: answered(timer, answer, :unchanged)

  defp result(timer, {_ref, {:error, %Error{} = error}}) do
    _ = Process.cancel_timer(timer)
    {:error, {error.reason, Exception.message(error)}, error.nameserver}
  end

  defp answered(timer, answer, fingerprint) do
    _ = Process.cancel_timer(timer)

    # Each address that :allow took away from an A or AAAA answer is a missing record. In an SRV answer it is
    # an address of a target, and the record is still there.
    complete = answer.type == :srv or answer.dropped == 0

    {:ok,
     %{
       records: answer.records,
       fingerprint: fingerprint,
       ttl: answer.ttl * 1_000,
       complete: complete,
       nameserver: answer.nameserver
     }}
  end

  # Returns the outcome and the number of records. Decides whether the answer is complete. It is incomplete while its nodes
  # have no names. With :allow, it is also incomplete if a record was left out, because the target of this record may have
  # an address later.
  defp outcome({:ok, answer}, lookup, discovery) do
    {last, targets} = read(answer, lookup, discovery)
    named? = last.basenames != nil and (discovery.config.allow == [] or last.left_out == [])
    complete = answer.complete and named?

    outcome =
      {:ok, %{endpoints: last.endpoints, ttl: answer.ttl, complete: complete}, last.left_out}

    discovery = put_in(discovery.last[lookup.source], last)
    {outcome, last.records, %{discovery | targets: targets}}
  end

  defp outcome({:error, reason, _nameserver}, _lookup, discovery),
    do: {{:error, reason}, 0, discovery}

  defp read(%{fingerprint: :unchanged}, %{last: last}, discovery), do: {last, discovery.targets}

  defp read(%{fingerprint: same}, %{last: %{fingerprint: same} = last}, discovery),
    do: {last, discovery.targets}

  defp read(%{records: records, fingerprint: fingerprint}, lookup, discovery) do
    %{source: {_query, type}, basenames: basenames} = lookup
    {records, used, targets} = put_addresses(records, discovery.targets)

    {endpoints, left_out} =
      if basenames,
        do: Endpoint.from_records(records, type, basenames, discovery.config),
        else: {%{}, []}

    last = %{
      basenames: basenames,
      fingerprint: fingerprint,
      targets: used,
      records: length(records),
      endpoints: endpoints,
      left_out: left_out
    }

    {last, targets}
  end

  # Returns the records with addresses, and which version of the addresses of targets they need.
  defp put_addresses([%Service{} | _] = services, targets) do
    lack? = Enum.any?(services, &(&1.addresses == []))
    now = now()
    {services, targets} = TargetAddresses.add(targets, services, now)
    {services, if(lack?, do: TargetAddresses.version(targets, now), else: :unused), targets}
  end

  defp put_addresses(records, targets), do: {records, :unused, targets}

  ## A dns_client

  @spec client_result(term) :: result
  defp client_result(nodes) do
    if is_list(nodes) and not List.improper?(nodes) and Enum.all?(nodes, &client_node?/1),
      do:
        {:ok,
         %{
           records: Enum.map(nodes, &client_record/1),
           fingerprint: nodes,
           ttl: nil,
           complete: true,
           nameserver: nil
         }},
      else:
        {:error, {:client_returned, "the dns_client returned #{inspect(nodes)}, #{expected()}"},
         nil}
  end

  defp expected, do: "expected a list of {port, host}"

  defp client_node?({port, host}), do: port in 0..65_535 and is_binary(host)
  defp client_node?(_other), do: false

  defp client_record({port, host}), do: %Service{priority: 0, weight: 0, port: port, target: host}

  ## Telemetry

  defp emit_finished(result, records, config, %{source: source, started: started}) do
    duration = System.monotonic_time() - started

    case result do
      {:ok, _answer} ->
        emit(:stop, %{duration: duration, records: records}, config, source, %{result: :ok})

      {:error, {kind, text}, _nameserver} when kind in [:client_failed, :silent] ->
        error = %{kind: :error, reason: text, stacktrace: []}
        emit(:exception, %{duration: duration}, config, source, error)

      {:error, {kind, _text}, _nameserver} ->
        error = %{result: {:error, kind}}
        emit(:stop, %{duration: duration, records: records}, config, source, error)
    end
  end

  defp emit(what, measurements, config, {query, type}, metadata) do
    metadata = Map.merge(metadata, %{topology: config.topology, query: query, type: type})
    Telemetry.execute([:caravan, :dns, :lookup, what], measurements, metadata)
  end
end
