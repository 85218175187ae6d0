# syntax=docker/dockerfile:1
# The image of Sluice: one static binary and nothing else.
#
# The build stage was not run by this repository's CI, which has no container engine: there the same binary is built by
# `make images` and packed by tools/cluster. The commands are the same; keep the two together.

ARG RUST_IMAGE=docker.io/library/rust:1.95-bookworm

FROM ${RUST_IMAGE} AS build
# musl-gcc compiles ring's C code for the static binary
RUN apt-get update \
 && apt-get install --yes --no-install-recommends musl-tools \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# For other architectures: --build-arg TARGET=aarch64-unknown-linux-musl on a machine (or emulator) of that kind.
ARG TARGET=x86_64-unknown-linux-musl
RUN rustup target add "${TARGET}"
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    export "CC_$(echo "${TARGET}" | tr - _)=musl-gcc" \
 && cargo build --release --locked --target "${TARGET}" --package sluice --bin sluice \
 && install -D "target/${TARGET}/release/sluice" /out/sluice

FROM scratch
COPY --from=build /out/sluice /sluice
# a number, so that kubelet can see that it is not root
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/sluice"]
