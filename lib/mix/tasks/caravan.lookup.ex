defmodule Mix.Tasks.Caravan.Lookup do
  @shortdoc "Shows the nodes that a DNS name leads to"

  @moduledoc """
  Looks up a DNS name as `Caravan.Cluster.DnsStrategy` does, and prints the nodes that follow from the records.

      mix caravan.lookup _app._tcp.example.com
      mix caravan.lookup app.internal --type a,aaaa --nameserver 10.0.0.2 --sname app

    * `--type` - the record types, by default `srv`
    * `--nameserver` - a nameserver to ask. It can be given several times. By default, those of the system
    * `--sname` - the part of the node names before the `@`, by default the name of the project
    * `--ports srv` - takes the ports from the SRV records, as the option `ports: :srv` does

  The status is 0 with an answer, 1 without one, and 2 for wrong arguments.
  """

  use Mix.Task

  @switches [type: :string, nameserver: :keep, sname: :string, ports: :string]
  @values %{"srv" => :srv, "a" => :a, "aaaa" => :aaaa, "name" => :name}

  @impl true
  def run(args) do
    Mix.Task.run("app.config")
    {options, [query]} = parse!(args)
    app = Atom.to_string(Mix.Project.config()[:app])
    types = options |> Keyword.get(:type, "srv") |> String.split(",")

    result =
      Caravan.Doctor.lookup(query,
        type: Enum.map(types, &Map.get(@values, &1, &1)),
        nameservers: Keyword.get_values(options, :nameserver),
        node_sname: Keyword.get(options, :sname, app),
        ports: Map.get(@values, options[:ports] || "name", options[:ports])
      )

    if result != :ok, do: exit({:shutdown, 1})
  rescue
    error in [ArgumentError, OptionParser.ParseError] ->
      Mix.shell().error("mix caravan.lookup: #{Exception.message(error)}")
      exit({:shutdown, 2})
  end

  defp parse!(args) do
    case OptionParser.parse!(args, strict: @switches) do
      {_options, [_query]} = parsed ->
        parsed

      {_options, queries} ->
        raise ArgumentError, "expected one DNS name, got: #{inspect(queries)}"
    end
  end
end
