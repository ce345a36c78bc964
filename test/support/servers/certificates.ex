defmodule Caravan.Test.Certificates do
  @moduledoc """
  Certificate authorities for tests, and server certificates that they sign. `openssl` makes the PEM files.
  """

  alias Caravan.Test.Eventually

  @days 2
  @key ~w(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)

  @doc "Makes an authority in `dir`. Returns the path of its certificate, `dir/name.pem`."
  @spec authority!(Path.t(), String.t()) :: Path.t()
  def authority!(dir, name) do
    constraints = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    request!(dir, name, ["-x509", "-days", "#{@days}", "-subj", "/CN=#{name}"] ++ constraints)
    Path.join(dir, name <> ".pem")
  end

  @doc """
  Makes a server certificate, signed by an authority in the same `dir`. Returns the paths of the
  certificate and of its key.

  `names` are the subject alternative names: `["DNS:dns.test", "IP:127.0.0.1"]`. The option `days` is how long
  the certificate is valid. With 0, it has expired when this function returns. The option `usage` is by default `"serverAuth"`.
  """
  @spec server!(Path.t(), String.t(), String.t(), [String.t()], keyword) :: {Path.t(), Path.t()}
  def server!(dir, authority, name, names, opts \\ []) do
    days = opts[:days] || @days
    request!(dir, name, ["-subj", "/CN=#{name}"], ".csr")
    extensions = Path.join(dir, name <> ".ext")
    usage = "basicConstraints=CA:FALSE\nextendedKeyUsage=#{opts[:usage] || "serverAuth"}\n"
    File.write!(extensions, "#{usage}subjectAltName=#{Enum.join(names, ",")}\n")

    openssl!(
      ~w(x509 -req -in #{name}.csr -out #{name}.pem -days #{days} -extfile #{extensions}) ++
        ~w(-CA #{authority}.pem -CAkey #{authority}.key -CAcreateserial),
      dir
    )

    # openssl cannot make an expired certificate. A certificate of 0 days is valid until the end of this second.
    last = System.os_time(:second)
    if days == 0, do: true = Eventually.true?(fn -> System.os_time(:second) > last end)
    {Path.join(dir, name <> ".pem"), Path.join(dir, name <> ".key")}
  end

  defp request!(dir, name, args, suffix \\ ".pem"),
    do:
      openssl!(
        ["req"] ++ @key ++ ["-keyout", name <> ".key", "-out", name <> suffix] ++ args,
        dir
      )

  defp openssl!(args, dir) do
    {output, status} = System.cmd("openssl", args, cd: dir, stderr_to_stdout: true)
    if status != 0, do: raise("openssl #{Enum.join(args, " ")} failed:\n#{output}")
  end
end
