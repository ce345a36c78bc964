defmodule Caravan.Cluster.Distribution.Handshake do
  # Effect. Begins a distribution handshake (kernel/src/dist_util.erl). In its first messages, the other node sends its name
  # and its flags, before a cookie is checked.
  #
  # The handshake begins under another name than that of this node, so that it does not disturb a connect of this node. The other
  # node makes an atom of this name, so there are only 64 of them for each host. The other node logs nothing if the
  # connection ends before the digest, and one line if it runs TLS or if the digest is wrong. After a right digest, it lists
  # this node as a hidden node until the connection is closed.
  #
  # Names and statuses stay strings, so the other side cannot create atoms here.
  @moduledoc false

  import Bitwise

  alias Caravan.Cluster.Distribution.NodeAtom
  alias Caravan.Cluster.Distribution.TlsSocket

  @type where :: {:inet | :inet6, :inet.ip_address(), :inet.port_number()}

  @typedoc """
  What a node says about itself. `:missing_flags` has the bits of the flags that are mandatory for this node and that the
  other one lacks. `:cookie` is `nil` if no digest was sent.
  """
  @type peer :: %{name: String.t(), missing_flags: non_neg_integer, cookie: :accepted | nil}

  @typedoc """
  With `:tls`, the other side speaks TLS, so it does not understand a handshake without TLS. With `:no_tls`, a node without TLS
  was asked over TLS. `:tls_alert` has the reason why the TLS handshake failed.
  """
  @type error ::
          {:connect, :inet.posix() | :timeout}
          | :silent
          | :closed
          | :tls
          | :no_tls
          | {:tls_alert, text :: String.t()}
          | {:other_protocol, first_bytes :: binary}
          | {:status, String.t()}
          | {:cookie, peer}

  # Milliseconds. The timeout of the connection, and of each message from the other node.
  @step 2_000

  # Bytes. If more arrive before a message is complete, the result is :other_protocol.
  @max_bytes 65_536

  # Bytes. :other_protocol has the first ones, up to this number.
  @shown 32

  # The number of names under which handshakes begin, for each host.
  @names 64

  # Maximum number of attempts. Each has another name, because the other node answers "nok" or "alive" if it has a
  # connection under the name.
  @attempts 4

  @doc """
  Asks the node that listens at `where` for its name and flags. `host` is the host of this node's name.

  With a cookie, and if no mandatory flag is missing, it also sends the digest. It returns `{:error, {:cookie, peer}}` if the
  other side does not accept the digest.
  """
  @spec ask(where, host :: String.t(), cookie :: String.t() | nil) ::
          {:ok, peer} | {:error, error}
  def ask({family, ip, port}, host, cookie \\ nil) do
    driver = if family == :inet6, do: :inet6_tcp, else: :inet_tcp
    options = Application.get_env(:kernel, :inet_dist_connect_options, [])
    options = options ++ [mode: :binary, packet: :raw, active: false, nodelay: true]
    connect = fn -> driver.connect(ip, port, options, @step) end

    with {:error, {:not_connected, reason}} <- attempt(driver, connect, host, cookie, @attempts),
         do: {:error, {:connect, reason}}
  end

  @doc """
  Does the same as `ask/3` over TLS, with the options of this VM. `peer_host` is the host of the other node's name. The
  certificate of the other node must be for this host.
  """
  @spec ask_over_tls(
          where,
          host :: String.t(),
          peer_host :: String.t(),
          cookie :: String.t() | nil
        ) ::
          {:ok, peer} | {:error, error}
  def ask_over_tls(where, host, peer_host, cookie \\ nil) do
    result =
      with {:ok, options} <- TlsSocket.options() do
        connect = fn -> TlsSocket.connect(where, options, peer_host, @step) end
        attempt(TlsSocket, connect, host, cookie, @attempts)
      end

    case result do
      {:error, {:not_connected, {:tls_alert, text}}} -> {:error, {:tls_alert, text}}
      {:error, {:not_connected, _reason}} -> without_tls(where, host)
      :error -> without_tls(where, host)
      other -> other
    end
  end

  # Asks again without TLS, because a failed TLS handshake does not show whether the node speaks TLS: a node without TLS takes
  # the first bytes of TLS for a part of a message, and waits for the rest. A node with TLS logs one line about this question.
  defp without_tls(where, host) do
    case ask(where, host) do
      {:ok, _peer} -> {:error, :no_tls}
      {:error, {:status, _status}} -> {:error, :no_tls}
      {:error, error} -> {:error, error}
    end
  end

  @doc """
  Returns the cookie of this node for the digest, or `nil` if this node has another cookie for the node `name`.

  The other node compares the digest with its cookie for unknown nodes.
  """
  @spec cookie(name :: String.t()) :: String.t() | nil
  def cookie(name) do
    cookie = :erlang.get_cookie()

    case NodeAtom.existing(name) do
      {:ok, node} -> if :erlang.get_cookie(node) == cookie, do: Atom.to_string(cookie)
      :error -> Atom.to_string(cookie)
    end
  end

  defp attempt(driver, connect, host, cookie, attempts) do
    case connect.() do
      {:ok, socket} ->
        result = talk({driver, socket}, host, cookie)
        driver.close(socket)

        # Another doctor on this host may use the same name at this moment.
        if match?({:error, {:status, status}} when status in ["nok", "alive"], result) and
             attempts > 1,
           do: attempt(driver, connect, host, cookie, attempts - 1),
           else: result

      {:error, reason} ->
        {:error, {:not_connected, reason}}
    end
  end

  defp talk(socket, host, cookie) do
    # The record erts_dflags (kernel/src/dist_util.erl). Its flags lack DFLAG_PUBLISHED, so the node is hidden.
    dflags = :erts_internal.get_dflags()
    {:erts_dflags, flags, mandatory} = {elem(dflags, 0), elem(dflags, 1), elem(dflags, 2)}

    # Concurrent calls use different names, because a node ends one of two handshakes with the same name.
    number = rem(System.unique_integer([:positive, :monotonic]), @names)
    name = "caravan-probe-#{number}@#{host}"

    with :ok <- send_packet(socket, name_message(flags, name)),
         {:ok, status, rest} when status in ["ok", "ok_simultaneous"] <-
           receive_message(socket, <<>>, &parse_status/1),
         {:ok, challenge, rest} <- receive_message(socket, rest, &parse_challenge/1) do
      missing = mandatory &&& bnot(challenge.flags)
      peer = %{name: challenge.name, missing_flags: missing, cookie: nil}
      digest(socket, peer, challenge, cookie, rest)
    else
      {:ok, status, _rest} -> {:error, {:status, status}}
      {:error, reason} -> {:error, reason}
    end
  end

  defp digest(_socket, peer, _challenge, nil, _rest), do: {:ok, peer}

  defp digest(_socket, %{missing_flags: m} = peer, _challenge, _cookie, _rest) when m != 0,
    do: {:ok, peer}

  defp digest(socket, peer, %{challenge: theirs}, cookie, rest) do
    ours = :rand.uniform(0x1_0000_0000) - 1
    reply = <<?r, ours::32, digest_of(cookie, theirs)::binary>>
    ack = digest_of(cookie, ours)

    with :ok <- send_packet(socket, reply),
         {:ok, ^ack, _rest} <- receive_message(socket, rest, &parse_ack/1) do
      {:ok, %{peer | cookie: :accepted}}
    else
      {:error, :silent} -> {:error, :silent}
      {:error, {:tls_alert, text}} -> {:error, {:tls_alert, text}}
      _closed_or_other -> {:error, {:cookie, peer}}
    end
  end

  # OTP takes the characters of the cookie as bytes.
  defp digest_of(cookie, challenge),
    do: :erlang.md5([String.to_charlist(cookie), Integer.to_string(challenge)])

  # The creation is not used before the connection is complete. OTP avoids the numbers 0 to 3 (wrap_creation in
  # kernel/src/net_kernel.erl), so this is the smallest that it uses.
  defp name_message(flags, name),
    do: <<?N, flags::64, 4::32, byte_size(name)::16, name::binary>>

  defp send_packet({driver, socket}, message) do
    case driver.send(socket, <<byte_size(message)::16, message::binary>>) do
      :ok -> :ok
      {:error, _reason} -> {:error, :closed}
    end
  end

  defp receive_message(socket, buffer, parse),
    do: receive_message(socket, buffer, parse, System.monotonic_time(:millisecond) + @step)

  defp receive_message({driver, socket} = connection, buffer, parse, deadline) do
    with :more <- parse.(buffer),
         left = max(0, deadline - System.monotonic_time(:millisecond)),
         {:ok, bytes} <- driver.recv(socket, 0, left) do
      if byte_size(buffer) + byte_size(bytes) > @max_bytes,
        do: {:error, other_protocol(buffer <> bytes)},
        else: receive_message(connection, buffer <> bytes, parse, deadline)
    else
      {:ok, message, rest} -> {:ok, message, rest}
      :other_protocol -> {:error, other_protocol(buffer)}
      {:error, {:tls_alert, text}} -> {:error, {:tls_alert, text}}
      {:error, _reason} when buffer != <<>> -> {:error, other_protocol(buffer)}
      {:error, :timeout} -> {:error, :silent}
      {:error, _closed} -> {:error, :closed}
    end
  end

  # An alert (0x15) or a handshake message (0x16) of TLS 1.0 to 1.3 (RFC 8446, 5.1).
  defp other_protocol(<<type, 3, _::binary>>) when type in [0x15, 0x16], do: :tls
  defp other_protocol(<<bytes::binary-size(@shown), _::binary>>), do: {:other_protocol, bytes}
  defp other_protocol(bytes), do: {:other_protocol, bytes}

  @doc false
  @spec parse_status(binary) :: {:ok, String.t(), rest :: binary} | :more | :other_protocol
  def parse_status(<<size::16, ?s, status::binary-size(size - 1), rest::binary>>) when size > 0 do
    if status in ["ok", "ok_simultaneous", "nok", "not_allowed", "alive"],
      do: {:ok, status, rest},
      else: :other_protocol
  end

  def parse_status(<<size::16, ?s, _::binary>>) when size in 1..32, do: :more
  def parse_status(<<_::binary-size(3), _::binary>>), do: :other_protocol
  def parse_status(_bytes), do: :more

  @doc false
  @spec parse_challenge(binary) ::
          {:ok, %{name: String.t(), flags: integer, challenge: integer}, rest :: binary}
          | :more
          | :other_protocol
  def parse_challenge(<<size::16, message::binary-size(size), rest::binary>>) do
    case message do
      <<?N, flags::64, challenge::32, _creation::32, n::16, name::binary-size(n), _::binary>> ->
        challenge(name, flags, challenge, rest)

      # The message of OTP 22 and earlier.
      <<?n, _version::16, flags::32, challenge::32, name::binary>> ->
        challenge(name, flags, challenge, rest)

      _ ->
        :other_protocol
    end
  end

  def parse_challenge(<<_::16, tag, _::binary>>) when tag not in [?N, ?n], do: :other_protocol
  def parse_challenge(_bytes), do: :more

  # A name has at most 255 characters of up to four bytes each. Caravan logs it, so names with control characters are refused.
  defp challenge(name, flags, challenge, rest) do
    if byte_size(name) <= 1_020 and String.valid?(name) and not (name =~ ~r/[[:cntrl:]]/),
      do: {:ok, %{name: name, flags: flags, challenge: challenge}, rest},
      else: :other_protocol
  end

  @doc false
  @spec parse_ack(binary) :: {:ok, digest :: binary, rest :: binary} | :more | :other_protocol
  def parse_ack(<<17::16, ?a, digest::binary-size(16), rest::binary>>), do: {:ok, digest, rest}
  def parse_ack(bytes) when byte_size(bytes) < 19, do: :more
  def parse_ack(_bytes), do: :other_protocol
end
