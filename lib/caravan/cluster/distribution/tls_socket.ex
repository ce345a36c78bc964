defmodule Caravan.Cluster.Distribution.TlsSocket do
  # Effect. A connection over TLS with the options of distribution (inet_tls_dist.erl). Handshake uses this module in
  # place of inet_tcp and inet6_tcp, so it has the same functions. Over TLS, the size before each message of the handshake
  # has four bytes. Over TCP, it has two.
  @moduledoc false

  # Bytes. A longer message ends the connection.
  @max_size 65_535

  @type t :: term

  @doc """
  Returns the options of this VM for connections to other nodes, or `:error` if they cannot be used here.

  OTP reads the file of `-ssl_dist_optfile` into the table `ssl_dist_opts`. Returns `:error` with the older argument
  `-ssl_dist_opt`, and with the option `ktls`, which lets the operating system encrypt.
  """
  @spec options() :: {:ok, keyword} | :error
  def options do
    with :error <- :init.get_argument(:ssl_dist_opt),
         [{:client, options}] <- :ets.lookup(:ssl_dist_opts, :client),
         false <- Keyword.get(options, :ktls, false) do
      {:ok, Keyword.put_new(options, :versions, [:"tlsv1.2"])}
    else
      _ -> :error
    end
  rescue
    # There is no table without distribution, or without a file.
    ArgumentError -> :error
  end

  @doc "Connects. The certificate of the other side is checked for `peer_host`, as OTP does."
  @spec connect(
          {:inet | :inet6, :inet.ip_address(), :inet.port_number()},
          keyword,
          String.t(),
          timeout
        ) ::
          {:ok, t} | {:error, {:tls_alert, text :: String.t()} | term}
  def connect({family, ip, port}, options, peer_host, timeout) do
    own = [
      family,
      :binary,
      erl_dist: true,
      active: false,
      packet: 4,
      packet_size: @max_size,
      nodelay: true,
      log_level: :none,
      server_name_indication: String.to_charlist(peer_host)
    ]

    case ssl(:connect, [ip, port, own ++ Keyword.drop(options, [:log_level]), timeout]) do
      {:ok, socket} -> {:ok, socket}
      {:error, reason} -> {:error, error(reason)}
    end
  end

  @doc "Sends a message that has two bytes for its size."
  @spec send(t, binary) :: :ok | {:error, term}
  def send(socket, <<_size::16, message::binary>>), do: ssl(:send, [socket, message])

  @doc "Receives a message, and puts two bytes for its size before it."
  @spec recv(t, 0, timeout) :: {:ok, binary} | {:error, term}
  def recv(socket, 0, timeout) do
    case ssl(:recv, [socket, 0, timeout]) do
      {:ok, message} -> {:ok, <<byte_size(message)::16, message::binary>>}
      {:error, reason} -> {:error, error(reason)}
    end
  end

  # The other side has sent something other than TLS.
  defp error({:tls_alert, {:unexpected_message, _text}}), do: :unexpected_message

  # With TLS 1.3, an alert of the other side may come after the connection was made.
  defp error({:tls_alert, {_alert, text}}),
    do: {:tls_alert, text |> List.to_string() |> String.trim()}

  defp error(reason), do: reason

  @spec close(t) :: :ok
  def close(socket) do
    _ = ssl(:close, [socket])
    :ok
  end

  # Caravan does not depend on the application :ssl. A VM with -proto_dist inet_tls has it.
  defp ssl(function, arguments), do: apply(:ssl, function, arguments)
end
