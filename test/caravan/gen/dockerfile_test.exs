defmodule Caravan.Gen.DockerfileTest do
  use ExUnit.Case, async: true

  alias Caravan.Gen.Dockerfile

  # Shortened from priv/templates/phx.gen.release/Dockerfile.eex of Phoenix 1.8 (`mix phx.gen.release --docker`).
  @phoenix """
  ARG BUILDER_IMAGE="docker.io/hexpm/elixir:1.18.4-erlang-28.0-debian-trixie-20250630-slim"
  FROM ${BUILDER_IMAGE} AS builder
  # install build dependencies
  RUN apt-get update \\
    && apt-get install -y --no-install-recommends build-essential git \\
    && rm -rf /var/lib/apt/lists/*
  WORKDIR /app
  ENV MIX_ENV="prod"
  COPY mix.exs mix.lock ./
  RUN mix deps.get --only $MIX_ENV
  RUN mkdir config
  COPY config/config.exs config/${MIX_ENV}.exs config/
  RUN mix deps.compile
  COPY priv priv
  COPY lib lib
  # Compile the release
  RUN mix compile
  COPY config/runtime.exs config/
  COPY rel rel
  RUN mix release
  FROM docker.io/debian:trixie-20250630-slim AS final
  COPY --from=builder --chown=nobody:root /app/_build/${MIX_ENV}/rel/app ./
  CMD ["/app/bin/server"]
  """

  test "the Dockerfile of Phoenix lacks only Rust" do
    assert [note] = Dockerfile.notes(@phoenix, "rel")
    assert note =~ "has no Rust"
    assert note =~ "rustup"
    assert Dockerfile.notes(@phoenix, "rel", true) == []
  end

  test "for a Dockerfile that does not copy the templates, the note has the line to add" do
    without = String.replace(@phoenix, "COPY rel rel\n", "COPY relx relx # rel\n")
    assert [copy, _rust] = Dockerfile.notes(without, "rel")
    assert copy =~ "without the files in rel."
    assert copy =~ "\n    COPY rel rel\n"
    assert [copy, _rust] = Dockerfile.notes(without, "rel/worker")
    assert copy =~ "COPY rel/worker rel/worker"
  end

  test "a Dockerfile that copies after the build, or from another stage, lacks the templates" do
    for wrong <- [
          "FROM rust\nRUN mix release\nCOPY . .",
          "FROM rust\nCOPY --from=x . .\nRUN mix release",
          # This copies what is in the directory, and not the directory.
          "FROM rust\nCOPY rel ./\nRUN mix release"
        ] do
      assert [note] = Dockerfile.notes(wrong, "rel")
      assert note =~ "COPY rel rel"
    end
  end

  test "a Dockerfile that copies the templates in any way lacks nothing" do
    for copy <- [
          "COPY . .",
          "ADD ./ /app",
          "COPY --chown=1 rel/ rel/",
          "COPY \\\n  rel /app/rel",
          ~s(COPY ["./rel", "./rel/"])
        ],
        rel <- ["rel", "rel/worker"] do
      dockerfile = "FROM rust\n#{copy}\nRUN mix deps.get && mix release web\n"
      assert {rel, copy, []} == {rel, copy, Dockerfile.notes(dockerfile, rel)}
    end
  end

  test "only Rust and Cargo count as Rust" do
    for {line, notes} <- [
          {"RUN apk add cargo", 0},
          {"RUN curl https://sh.rustup.rs | sh", 0},
          {"ENV RUSTUP_HOME=/rust", 0},
          {"ENV CARAVAN_NIF=/caravan.so", 0},
          {"RUN update-ca-trust && echo trusted", 1}
        ],
        do:
          assert(
            {line, notes} == {line, count("FROM elixir\nCOPY . .\n#{line}\nRUN mix release")}
          )
  end

  test "what comes before `mix release` in the same instruction counts" do
    assert count("FROM elixir\nCOPY . .\nRUN apk add cargo && mix release") == 0
    assert count("FROM elixir\nCOPY . .\nRUN apk add gcc && mix release && apk add cargo") == 1
  end

  test "`mix do` builds a release too, and tasks with similar names do not" do
    for line <- ["mix do compile, release", "mix do deps.get + release web", "mix  release"],
        do: assert({line, 2} == {line, count("FROM elixir\nRUN #{line}")})

    for line <- [
          "mix release.init",
          "mix do compile, release.init",
          "mix do compile && ./release"
        ],
        do: assert({line, 0} == {line, count("FROM elixir\nRUN #{line}")})
  end

  defp count(dockerfile), do: length(Dockerfile.notes(dockerfile, "rel"))

  test "a Dockerfile that builds no release has no notes, and neither has a missing one" do
    assert Dockerfile.notes("FROM debian\n# RUN mix release\n", "rel") == []
    assert Dockerfile.notes(nil, "rel") == []
  end
end
