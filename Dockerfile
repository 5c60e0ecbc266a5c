# The binary, built with the oldest Rust that Cargo.toml allows.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
# Cargo wants the paths of all targets to be there, also of those that it does not build here.
COPY tests/it tests/it
COPY tests/load tests/load
RUN cargo build --release --locked

# What runs: the binary, and the public CAs for rediss:// URLs.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/fusewire /usr/local/bin/fusewire
# Inside a container loopback is nobody's: publish the port where it should be reached.
ENV FUSEWIRE__SERVER__LISTEN=0.0.0.0:50051
USER 10001:10001
EXPOSE 50051
ENTRYPOINT ["fusewire"]
