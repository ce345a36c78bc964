defmodule Caravan.Cluster.Discovery do
  # Owner-state. The lookups of one topology that are in flight, and the addresses of SRV targets that the next lookups
  # need not query. Every lookup that starts has an outcome, which comes by a message that the owner hands to handle/2.
  @moduledoc false

  alias Caravan.Cluster.Config
  alias Caravan.Cluster.Discovery.Endpoint
  alias Caravan.Cluster.Discovery.TargetAddresses
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
  defstruct @enforce_keys ++ [pending: %{}, last: %{}]

  @opaque t :: %__MODULE__{
            config: Config.t(),
            targets: TargetAddresses.t(),
            pending: %{reference => {Config.source(), started :: integer, reference | Job.t()}},
            # By source, the records of the last answer, and the endpoints that they became.
            last: %{Config.source() => {records :: list, {map, left_out :: [String.t()]}}}
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
           {:ok, %{records: list, ttl: non_neg_integer | nil, complete: boolean}}
           | {:error, {kind :: term, String.t()}}

  # Milliseconds to wait for the reply of the resolver after the deadline of a lookup.
  @grace 1_000

  @spec new(Config.t()) :: t
  def new(%Config{} = config), do: %__MODULE__{config: config, targets: TargetAddresses.new()}

  @doc "Starts a lookup."
  @spec start(t, Config.source()) :: t
  def start(%__MODULE__{config: config} = discovery, source) do
    started = System.monotonic_time()
    emit(:start, %{system_time: System.system_time()}, config, source, %{})
    {ref, timer} = start_one(source, discovery)
    put_in(discovery.pending[ref], {source, started, timer})
  end

  @doc "Returns the outcome of the lookup that `message` belongs to, or `:unknown`."
  @spec handle(t, message :: term) :: {Config.source(), outcome, t} | :unknown
  def handle(%__MODULE__{} = discovery, message) do
    case Map.pop(discovery.pending, ref(message)) do
      {nil, _pending} ->
        :unknown

      {{source, started, timer}, pending} ->
        result = result(timer, message)
        finished(result, discovery.config, source, started)
        {result, targets} = put_addresses(result, source, discovery.targets)
        {outcome, last} = outcome(result, source, discovery)
        {source, outcome, %{discovery | pending: pending, targets: targets, last: last}}
    end
  end

  @doc "Notes that a node could not be connected, or is no longer connected: its address may have changed."
  @spec unreachable(t, String.t()) :: t
  def unreachable(%__MODULE__{} = discovery, name) do
    [_, host] = :binary.split(name, "@")
    %{discovery | targets: TargetAddresses.unreachable(discovery.targets, host)}
  end

  @doc "Cancels all lookups. Their only outcome is a telemetry event."
  @spec stop(t) :: t
  def stop(%__MODULE__{} = discovery) do
    for {ref, {source, started, timer}} <- discovery.pending do
      cancel(ref, timer)
      finished({:error, {:cancelled, "cancelled"}}, discovery.config, source, started)
    end

    %{discovery | pending: %{}}
  end

  defp start_one({query, type}, %{config: %Config{dns_client: nil} = config} = discovery) do
    ref = lookup(query, type, dns_options(discovery, type))
    {ref, Process.send_after(self(), {__MODULE__, ref}, config.lookup_timeout + @grace)}
  end

  defp start_one({query, _type}, %{config: %Config{dns_client: client} = config}) do
    job = Job.start(fn -> client_result(client.get_nodes(query)) end, config.lookup_timeout)
    {job.ref, job}
  end

  # Distribution connects to addresses of one family only.
  defp dns_options(%{config: config, targets: targets}, :srv) do
    # TargetAddresses can find the target of a node that cannot be reached only by the host of its name.
    known =
      if NodeName.host_begins_with_target?(config.templates.srv),
        do: TargetAddresses.known(targets, now()),
        else: []

    [addresses: Settings.family(), known_targets: known] ++ Config.dns_options(config)
  end

  defp dns_options(%{config: config}, _type), do: Config.dns_options(config)

  defp now, do: System.monotonic_time(:millisecond)

  # If a lookup fails at once, its outcome comes by message too, as for all other lookups.
  defp lookup(query, type, options) do
    case Dns.lookup_async(query, type, options) do
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

  defp ref({ref, {:ok, %Answer{}}}), do: ref
  defp ref({ref, {:error, %Error{}}}), do: ref
  defp ref({__MODULE__, ref}), do: ref
  defp ref(message), do: Job.ref(message)

  defp result(%Job{} = job, message) do
    case Job.outcome(job, message) do
      {:ok, result} -> result
      {:error, reason} -> {:error, {:client_failed, "the dns_client failed: #{inspect(reason)}"}}
    end
  end

  defp result(_timer, {__MODULE__, ref}) do
    _ = Dns.cancel(ref)
    {:error, {:silent, "the resolver did not reply"}}
  end

  defp result(timer, {_ref, {:ok, %Answer{} = answer}}) do
    _ = Process.cancel_timer(timer)

    # Each address that :allow took away from an A or AAAA answer is a missing record. In an SRV answer it is
    # an address of a target, and the record is still there.
    complete = answer.type == :srv or answer.dropped == 0
    {:ok, %{records: answer.records, ttl: answer.ttl * 1_000, complete: complete}}
  end

  defp result(timer, {_ref, {:error, %Error{} = error}}) do
    _ = Process.cancel_timer(timer)
    {:error, {error.reason, Exception.message(error)}}
  end

  defp put_addresses(
         {:ok, %{records: [%Service{} | _] = records} = answer},
         {_query, :srv},
         targets
       ) do
    {records, targets} = TargetAddresses.add(targets, records, now())
    {{:ok, %{answer | records: records}}, targets}
  end

  defp put_addresses(result, _source, targets), do: {result, targets}

  # Decides whether the answer is complete. With :allow, a record may be left out because its target has no
  # address yet: such an answer is not complete.
  defp outcome({:ok, %{records: records, ttl: ttl, complete: complete}}, source, discovery) do
    %{config: config, last: last} = discovery
    same = records |> Enum.map(&without_ttl/1) |> Enum.sort()
    {endpoints, left_out} = from_records = from_records(records, same, source, discovery)
    complete = complete and (config.allow == [] or left_out == [])
    answer = %{endpoints: endpoints, ttl: ttl, complete: complete}
    {{:ok, answer, left_out}, Map.put(last, source, {same, from_records})}
  end

  defp outcome({:error, _reason} = error, _source, discovery), do: {error, discovery.last}

  # Most answers are equal to the last one. It costs more to make the names of the nodes than to compare.
  defp from_records(records, same, {_query, type} = source, %{config: config, last: last}) do
    case last do
      %{^source => {^same, from_records}} -> from_records
      _ -> Endpoint.from_records(records, type, config)
    end
  end

  defp without_ttl(%Service{} = service),
    do: {service.port, service.target, Enum.sort(service.addresses)}

  defp without_ttl(ip), do: ip

  ## A dns_client

  @spec client_result(term) :: result
  defp client_result(nodes) do
    if is_list(nodes) and not List.improper?(nodes) and Enum.all?(nodes, &client_node?/1),
      do: {:ok, %{records: Enum.map(nodes, &client_record/1), ttl: nil, complete: true}},
      else:
        {:error, {:client_returned, "the dns_client returned #{inspect(nodes)}, #{expected()}"}}
  end

  defp expected, do: "expected a list of {port, host}"

  defp client_node?({port, host}), do: port in 0..65_535 and is_binary(host)
  defp client_node?(_other), do: false

  defp client_record({port, host}), do: %Service{priority: 0, weight: 0, port: port, target: host}

  ## Telemetry

  defp finished(result, config, source, started) do
    duration = System.monotonic_time() - started

    case result do
      {:ok, answer} ->
        records = length(answer.records)
        emit(:stop, %{duration: duration, records: records}, config, source, %{result: :ok})

      {:error, {kind, text}} when kind in [:client_failed, :silent] ->
        error = %{kind: :error, reason: text, stacktrace: []}
        emit(:exception, %{duration: duration}, config, source, error)

      {:error, {kind, _text}} ->
        error = %{result: {:error, kind}}
        emit(:stop, %{duration: duration, records: 0}, config, source, error)
    end
  end

  defp emit(what, measurements, config, {query, type}, metadata) do
    metadata = Map.merge(metadata, %{topology: config.topology, query: query, type: type})
    Telemetry.execute([:caravan, :dns, :lookup, what], measurements, metadata)
  end
end
