defmodule Caravan.Gen.EnvSh do
  # Pure. The lines for `rel/env.sh.eex`, in POSIX shell. The script of a release runs them with `set -e`.
  @moduledoc false

  alias Caravan.Gen.Options
  alias Caravan.Gen.Platform

  @doc "Returns the lines."
  @spec text(Options.t()) :: String.t()
  def text(%Options{} = options) do
    """
    # `mix caravan.gen.release --platform #{options.platform.name}` replaces this block. Lines after it can change its values.
    export RELEASE_DISTRIBUTION="${RELEASE_DISTRIBUTION:-name}"
    #{port(options)}\
    #{role(options)}\
    #{host(options)}
    if [ -n "$caravan_host" ]; then
      export RELEASE_NODE="${RELEASE_NODE:-#{name(options)}}"
    #{queries(options)}\
    else
      export RELEASE_NODE="${RELEASE_NODE:-#{options.sname}@127.0.0.1}"
      if [ -z "${#{options |> Options.roles() |> hd() |> Options.variable()}-}" ]; then
        echo "caravan: no #{family(options)} address in #{options.platform.source}, so this node is $RELEASE_NODE and finds no other nodes" >&2
      fi
    fi
    #{protocol(options)}\
    """
  end

  # In a bridge network, the port outside is in the name, and the node listens on the port inside.
  defp port(%Options{platform: %Platform{port: :dynamic}}) do
    """
    export CARAVAN_LISTEN_PORT="${CARAVAN_LISTEN_PORT:-${NOMAD_PORT_dist-}}"

    """
  end

  defp port(options) do
    base_port =
      unless Options.default_port?(options),
        do: ~s(export CARAVAN_BASE_PORT="${CARAVAN_BASE_PORT:-#{options.port}}"\n)

    """
    # All nodes have the same port, whatever digits are in their names.
    export CARAVAN_PORT_RULE="${CARAVAN_PORT_RULE:-fixed}"
    #{base_port}
    """
  end

  defp role(%Options{roles: []}), do: ""

  defp role(%Options{roles: [core | _], platform: %Platform{role: variable}}) do
    default = if variable, do: "${#{variable}:-#{core}}", else: core

    """
    # What this node does. config/runtime.exs says to which nodes it connects.
    export CARAVAN_ROLE="${CARAVAN_ROLE:-#{default}}"

    """
  end

  defp queries(options) do
    Enum.map_join(Options.roles(options), fn role ->
      variable = Options.variable(role)
      ~s(  export #{variable}="${#{variable}:-#{Options.query(options, role)}}"\n)
    end)
  end

  # Consul's target in the SRV record of a service with an address is that address in hexadecimal digits, followed by
  # ".addr" and the datacenter (encodeIPAsFqdn in agent/dns.go).
  defp name(%Options{platform: %Platform{port: :dynamic}, sname: sname}),
    do: "#{sname}-${NOMAD_HOST_PORT_dist:-$NOMAD_PORT_dist}@$(caravan_hex \"$caravan_host\").addr"

  defp name(%Options{sname: sname}), do: "#{sname}@$caravan_host"

  defp host(%Options{platform: %Platform{addresses: addresses}} = options) do
    """
    # Prints the first address that is #{family(options)}, not loopback and not link-local.
    caravan_address() {
      for address in "$@"; do
        case $address in
    #{if options.ipv6, do: ipv6(), else: ipv4()}\
        esac
      done
    }

    #{functions(options)}\
    # shellcheck disable=SC2046,SC2086 # The platform may have several addresses.
    caravan_host=$(caravan_address #{addresses})
    """
  end

  defp family(%Options{ipv6: ipv6}), do: if(ipv6, do: "IPv6", else: "IPv4")

  defp ipv4 do
    """
          *:* | 0.0.0.0 | 127.* | 169.254.*) ;;
          *.*.*.*) echo "$address" && return ;;
    """
  end

  # An address with a scope (%eth0) cannot be part of a node name.
  defp ipv6 do
    """
          *.* | *%* | :: | ::1 | [Ff][Ee][89ABab]?:*) ;;
          *:*) echo "$address" && return ;;
    """
  end

  defp functions(%Options{platform: %Platform{name: "nomad"}}) do
    """
    # Prints 10.77.0.1 as 0a4d0001.
    caravan_hex() (
      IFS=.
      # shellcheck disable=SC2086 # The address is split at the dots.
      printf '%02x%02x%02x%02x' $1
    )

    """
  end

  # The image may have neither curl nor wget. Then the address is that of the host name.
  defp functions(%Options{platform: %Platform{name: "ecs"}, ipv6: ipv6}) do
    field = if ipv6, do: "IPv6Addresses", else: "IPv4Addresses"

    """
    # Prints the addresses in the metadata of the task, and those of the host name.
    caravan_task() {
      [ -n "${ECS_CONTAINER_METADATA_URI_V4-}" ] || return 0
      {
        if command -v curl >/dev/null; then
          curl -fsS --max-time 5 "$ECS_CONTAINER_METADATA_URI_V4" || true
        elif command -v wget >/dev/null; then
          wget -q -O - -T 5 "$ECS_CONTAINER_METADATA_URI_V4" || true
        fi
      } | tr -d ' \\n' | sed -n 's/.*"#{field}":\\[\\([^]]*\\)\\].*/\\1/p' | tr '",' '  '
      hostname -i 2>/dev/null || true
    }

    """
  end

  defp functions(_options), do: ""

  defp protocol(%Options{ipv6: false, tls: false}), do: ""

  defp protocol(%Options{tls: tls}) do
    {name, options} =
      if tls,
        do: {"tls", " -ssl_dist_optfile $RELEASE_ROOT/inet_tls.conf"},
        else: {"tcp", ""}

    """

    # If -proto_dist is there twice, OTP uses the first one, and ignores both before OTP 27.1.
    case ${ERL_AFLAGS-} in
      *-proto_dist*) ;;
      *)
        case $RELEASE_NODE in
          *:*) caravan_protocol=inet6_#{name} ;;
          *) caravan_protocol=inet_#{name} ;;
        esac
        export ERL_AFLAGS="${ERL_AFLAGS-} -proto_dist $caravan_protocol#{options}"
        ;;
    esac
    """
  end
end
