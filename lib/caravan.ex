defmodule Caravan do
  @moduledoc """
  Clusters of Elixir and Erlang nodes in clouds, without epmd.

      children = [
        {Caravan.Cluster.DnsStrategy, query: "app.example.com", type: :a}
      ]

    * `Caravan.Cluster.DnsStrategy` finds the nodes of a cluster in DNS and connects to them. It runs under
      libcluster or under any other supervisor.
    * `Caravan.Epmd` runs distribution without an epmd daemon. The port of a node follows from its name.
    * `Caravan.Cluster` lets an application wait for its first nodes, leave the cluster, and look at its status.
    * `Caravan.Doctor` finds out why nodes do not form a cluster.
    * `Caravan.Telemetry` lists events and metrics.
    * `Caravan.Dns` looks up DNS records. The strategy uses it, and so can you.

  [Getting started](getting_started.html) shows how to set up a project.
  """

  alias Caravan.Cluster.Distribution.ConnectAll
  alias Caravan.Cluster.Distribution.Setup
  alias Caravan.Doctor
  alias Caravan.LinkMap
  alias Caravan.Options

  # Milliseconds to wait for the replies of connected nodes.
  @timeout 5_000

  @doc """
  Checks whether this VM runs on `Caravan.Epmd`, and whether its setting `connect_all` is that of the connected nodes.

  Asks all connected nodes at the same time, and waits for 6 seconds at most. A node that does not answer is left out.

  Returns `:ok`, or an error with advice for an operator: what is wrong, and how to mend it.

      case Caravan.check() do
        :ok -> :ok
        {:error, {_reason, advice}} -> IO.puts(advice)
      end
  """
  @spec check() ::
          :ok | {:error, {:not_alive | :other_epmd_module | :connect_all, advice :: String.t()}}
  def check, do: with(:ok <- Setup.check(), do: check_connect_all())

  @doc """
  Looks for the reasons why nodes do not form a cluster, and prints them.

      :ok = Caravan.doctor(nodes: 2)

  Returns `:ok` if no check has failed, or `{:error, ids}` with the ids of those that have. If none has failed, but a check was
  not finished within `:timeout`, or all checks were skipped, the result is `{:error, []}`. The options are those of
  `Caravan.Doctor`. Raises `ArgumentError` for a wrong option.
  """
  @spec doctor([Doctor.option()]) :: :ok | {:error, [id :: String.t()]}
  def doctor(options \\ []), do: Doctor.print(options)

  @doc """
  Does the same as `doctor/1` for `bin/app rpc` and `bin/app eval`, and ends the command with a status.

      bin/app rpc 'Caravan.doctor!()'

  The status is 0 if no check has failed, and 1 if one has. It is 2 if none has failed, but the doctor does not know enough: a
  check was not finished within `:timeout`, all checks were skipped, or an option is wrong. In `bin/app rpc`, the node goes on.
  """
  @spec doctor!([Doctor.option()]) :: :ok | no_return
  def doctor!(options \\ []), do: Doctor.print_and_exit(options)

  defp check_connect_all do
    own = ConnectAll.in_force()

    case for {node, value} <- ConnectAll.of(Node.list(), @timeout), value != own, do: node do
      [] -> :ok
      differing -> {:error, {:connect_all, ConnectAll.advice(differing)}}
    end
  end

  @map_schema [
    format: [
      type: {:in, [:text, :svg, :data]},
      default: :text,
      doc:
        "What to return: a text, an SVG file of up to 200 nodes, or a map of strings, booleans and lists."
    ]
  ]

  @doc """
  Asks all connected nodes for their connections, and returns which pairs of nodes are connected and which are not.

      IO.puts(Caravan.map())
      File.write!("map.svg", Caravan.map(format: :svg))

  In a release:

      bin/app rpc 'IO.puts(Caravan.map())'
      bin/app rpc 'IO.puts(Caravan.map(format: :svg))' > map.svg

  The call takes 5 seconds at most. It connects no node. Nodes without Caravan reply too. Temporary nodes are left out: a
  command such as `bin/app rpc` starts one, and ends it. The text of more than 40 nodes names only the links that are missing
  or one-sided, and the nodes without a reply.

  Raises `ArgumentError` for an SVG of more than 200 nodes.

  ## Options

  #{Options.docs(@map_schema)}
  """
  @spec map([{:format, :text | :svg | :data}]) :: String.t() | map
  def map(options \\ []) do
    %{format: format} = Options.validate!(options, @map_schema, "Caravan.map/1")
    matrix = LinkMap.collect(@timeout)

    case format do
      :text -> LinkMap.Text.format(matrix)
      :svg -> svg!(matrix)
      :data -> matrix
    end
  end

  defp svg!(matrix) do
    case LinkMap.Svg.format(matrix) do
      {:ok, svg} -> svg
      {:error, why} -> raise ArgumentError, "Caravan.map/1: #{why}. Use format: :text"
    end
  end
end
