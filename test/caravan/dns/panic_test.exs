defmodule Caravan.Dns.PanicTest do
  # Not async: it builds with cargo.
  use ExUnit.Case

  # A library that panics on request (cargo feature `panics`), in a separate VM.

  alias Caravan.Dns
  alias Caravan.Dns.Error
  alias Caravan.Native
  alias Caravan.Test.DnsServer
  alias Caravan.Test.Host
  alias Caravan.Test.PeerNode
  alias Caravan.Test.Requirements

  @native Path.expand("../../../native", __DIR__)
  # The target directory of bin/test, which has built the dependencies.
  @target Path.expand("../../../_build/cargo", __DIR__)
  # The messages of panics on stderr do not belong in the output of the tests.
  @quietly ["sh", "-c", ~S(exec "$@" 2>/dev/null), "sh"]

  @moduletag Requirements.tag(:cargo)

  setup_all do
    args = ~w(build --quiet --locked --package caravan_nif --features panics --target-dir)
    {output, status} = System.cmd("cargo", args ++ [@target], cd: @native, stderr_to_stdout: true)
    assert status == 0, "cargo build failed:\n#{output}"

    dir = Path.join(System.tmp_dir!(), "panics-" <> Base.encode16(:rand.bytes(6), case: :lower))
    on_exit(fn -> File.rm_rf!(dir) end)
    app = Path.join(dir, "caravan")
    File.mkdir_p!(Path.join(app, "priv/native"))
    File.cp_r!(Application.app_dir(:caravan, "ebin"), Path.join(app, "ebin"))
    [built] = Path.wildcard(Path.join(@target, "debug/libcaravan_nif.{so,dylib}"))
    File.cp!(built, Path.join(app, "priv/native/caravan_nif.so"))

    %{
      path: [
        Application.app_dir(:elixir, "ebin"),
        Application.app_dir(:logger, "ebin"),
        Path.join(app, "ebin")
      ]
    }
  end

  setup %{path: path} do
    server = start_supervised!(DnsServer)
    DnsServer.put_default(server, [{127, 0, 0, 1}])
    node = PeerNode.start!(epmd: false, path: path, wrapper: @quietly)
    %{node: node, options: [nameservers: [DnsServer.address(server)]]}
  end

  for place <- ["nif", "task"] do
    test "a panic in the #{place} is an error of its lookup only", context do
      lookup = &PeerNode.call(context.node, Dns, :lookup, [&1, :a, context.options])
      assert {:ok, %{records: [{127, 0, 0, 1}]}} = lookup.("app.test")

      for _ <- 1..20 do
        assert {:error, %Error{reason: :internal}} = lookup.("panic-in-#{unquote(place)}.invalid")
        assert {:ok, %{records: [{127, 0, 0, 1}]}} = lookup.("app.test")
      end

      in_flight = fn -> PeerNode.call(context.node, Native, :dns_in_flight, []) end
      Host.await(fn -> match?({0, _tasks}, in_flight.()) end, "all lookups to end")
    end
  end

  test "lookups that panic at the same time each have the error", %{node: node, options: options} do
    code = """
    refs = for _ <- 1..50, do: Caravan.Dns.lookup_async("panic-in-task.invalid", :a, options)
    for {:ok, ref} <- refs do
      receive do
        {^ref, {:error, error}} -> error.reason
      after
        10_000 -> :lost
      end
    end
    """

    reasons = PeerNode.eval(node, code, options: options)
    assert reasons == List.duplicate(:internal, 50)
  end
end
