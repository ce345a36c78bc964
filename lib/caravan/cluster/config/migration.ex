defmodule Caravan.Cluster.Config.Migration do
  # Pure. The options of other strategies that Caravan does not have, and what it has in their place.
  @moduledoc false

  @kubernetes "Caravan finds Kubernetes pods by the DNS name of a headless Service, such as " <>
                "query: \"_dist._tcp.app.default.svc.cluster.local\""

  @no_dns "Caravan finds nodes by DNS alone, and Cluster.Strategy.Epmd and Gossip also work with Caravan.Epmd"

  # Options of libcluster's strategies, of libcluster_dynamic_srv and of dns_cluster, and what Caravan has in their place.
  @advice %{
    polling_interval: "Caravan calls this option :poll_interval",
    interval: "Caravan calls this option :poll_interval",
    resource_types: "Caravan calls this option :type",
    application_name: "Caravan calls this option :node_sname",
    kubernetes_node_basename: "Caravan calls this option :node_sname",
    name: "Caravan calls this option :topology",
    log: "Caravan calls this option :log_level",
    resolver:
      "Caravan calls this option :dns_client, which takes a module. :nameservers takes addresses",
    disconnect_on_deregister:
      "Caravan disconnects no node that is gone from DNS, unless :prune is given",
    service:
      "Caravan calls this option :query, and needs the whole name, such as \"app.default.svc.cluster.local.\"",
    namespace: @kubernetes,
    mode: @kubernetes,
    kubernetes_selector: @kubernetes,
    kubernetes_namespace: @kubernetes,
    kubernetes_service_name: @kubernetes,
    kubernetes_ip_lookup_mode: @kubernetes,
    kubernetes_use_cached_resources: @kubernetes,
    hosts: @no_dns,
    if_addr: @no_dns,
    multicast_addr: @no_dns,
    multicast_if: @no_dns,
    secret: @no_dns
  }

  @doc "Returns what to use in place of an option, or `nil` if no such strategy has it."
  @spec advice(atom) :: String.t() | nil
  def advice(option), do: @advice[option]
end
