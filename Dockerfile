# syntax=docker/dockerfile:1
# The one image of every role: `freshet` and the shared libraries that it loads, run by a user who owns nothing.
# tests/deploy runs the steps of the build without Docker, and checks that the second stage has every library.

FROM rust:1.95-bookworm AS build
# librdkafka is built with cmake, and wants curl's and OpenSSL's headers.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make cmake perl pkg-config libcurl4-openssl-dev libssl-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY pipelines pipelines
COPY topics topics
COPY sinks sinks
COPY ingest ingest
COPY processors processors
COPY src src
# The page shows them.
COPY README.md README.md
COPY docs docs
# The caches outlive this build, and are in no layer: hence the copy. Names of functions stay, for backtraces; the
# tables of lines, nine tenths of the file, go.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked --bin freshet \
    && strip --strip-debug -o /freshet target/dist/freshet

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin freshet
COPY --from=build /freshet /usr/local/bin/freshet
LABEL org.opencontainers.image.title="freshet" \
      org.opencontainers.image.description="CSV files in S3, through Kafka, into Postgres and derived outputs, exactly once" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
USER 10001:10001
WORKDIR /tmp
EXPOSE 9187
STOPSIGNAL SIGTERM
ENTRYPOINT ["freshet"]
