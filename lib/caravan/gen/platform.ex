defmodule Caravan.Gen.Platform do
  # Pure. What `mix caravan.gen.release` knows of each platform.
  @moduledoc false

  @enforce_keys [:name, :query, :addresses, :source]
  defstruct @enforce_keys ++ [port: :fixed, type: :a, ipv6: false, role: nil, group: nil]

  @typedoc """
  `query`, `addresses` and `group` are POSIX shell. `SERVICE` in a query is the name of the service.

    * `port`, whether all nodes have the same port (`:fixed`) or each gets one from the platform (`:dynamic`)
    * `type`, the type of the records. With IPv6, `:a` becomes `:aaaa`
    * `ipv6`, whether the platform has IPv6 only
    * `query`, the name to look up, or `nil` if the user has to choose it
    * `addresses`, words that contain the address of the node
    * `source`, where the addresses come from, for the message if there is none
    * `role`, the variable that has the role of the node, if the platform has one
    * `group`, the name to look up for the nodes of a role. `ROLE` in it is the role. With `nil`, each role is a service
      of its own, whose name is put into `query`
  """
  @type t :: %__MODULE__{
          name: String.t(),
          port: :fixed | :dynamic,
          type: :a | :srv,
          ipv6: boolean,
          query: String.t() | nil,
          addresses: String.t(),
          source: String.t(),
          role: String.t() | nil,
          group: String.t() | nil
        }

  # Fields are written out because a struct of this module cannot be used in its body.
  @platforms [
    [
      name: "kubernetes",
      query: "SERVICE.${POD_NAMESPACE:-default}.svc.cluster.local.",
      addresses: ~S[$(echo "${POD_IP-} ${POD_IPS-}" | tr , ' ')],
      source: "POD_IP"
    ],
    [
      name: "nomad",
      port: :dynamic,
      type: :srv,
      query: "SERVICE-dist.service.consul.",
      addresses: "${NOMAD_HOST_IP_dist:-${NOMAD_IP_dist-}}",
      source: "NOMAD_IP_dist"
    ],
    [
      name: "ecs",
      query: "SERVICE.ecs.internal.",
      addresses: "$(caravan_task)",
      source: "the metadata of the task (ECS_CONTAINER_METADATA_URI_V4)"
    ],
    [
      name: "fly",
      ipv6: true,
      query: "${FLY_APP_NAME-}.internal.",
      addresses: "${FLY_PRIVATE_IP-}",
      source: "FLY_PRIVATE_IP",
      role: "FLY_PROCESS_GROUP",
      group: "ROLE.process.${FLY_APP_NAME-}.internal."
    ],
    [
      name: "docker",
      query: "SERVICE.",
      addresses: "$(hostname -i 2>/dev/null || true)",
      source: "the output of hostname -i"
    ],
    [
      name: "plain",
      query: nil,
      addresses: "$(hostname -I 2>/dev/null || hostname -i 2>/dev/null || true)",
      source: "the output of hostname -I"
    ]
  ]

  @doc "Returns the names of all platforms."
  @spec names() :: [String.t()]
  def names, do: for(platform <- @platforms, do: platform[:name])

  @doc "Returns the platform of this name."
  @spec fetch(String.t() | nil) :: {:ok, t} | :error
  def fetch(name) do
    case Enum.find(@platforms, &(&1[:name] == name)) do
      nil -> :error
      fields -> {:ok, struct!(__MODULE__, fields)}
    end
  end
end
