# syntax=docker/dockerfile:1

# The compiler runs on the builder's own platform and cross-compiles, so that no emulation is needed:
#   make docker-build PLATFORMS=linux/amd64,linux/arm64 PUSH=1
FROM --platform=$BUILDPLATFORM golang:1.26.8 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /out/manager ./cmd/manager

# Nothing but the binary: no shell, no package manager, no files that it does not read. `make image` builds the same without
# Docker, and a test compares the two.
FROM scratch
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title=notafter \
      org.opencontainers.image.description="Watches the certificates that a Kubernetes cluster's own life depends on" \
      org.opencontainers.image.source=https://github.com/notafter/notafter \
      org.opencontainers.image.revision=$REVISION \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.licenses=Apache-2.0
COPY --from=build /out/manager /manager
WORKDIR /
USER 65532:65532
ENTRYPOINT ["/manager"]
