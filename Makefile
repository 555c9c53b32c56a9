# Copyright The notafter Authors.
# SPDX-License-Identifier: Apache-2.0

# `make help` says what there is.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export MAKE

# What a build calls itself, and the image that image and docker-build make.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
IMAGE ?= ghcr.io/notafter/notafter:$(VERSION)
# What image, release and docker-build build for. Without it, docker-build does for this machine, and the others for all.
PLATFORMS ?=
# What else goes into images and releases: the commit, and its time for every timestamp.
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

# A local cluster's name, and how long its signer's certificates live: minutes, to watch them rotate.
NAME ?= default
SIGNING_DURATION ?= 8760h

# How many kubelets to simulate for `make scale`, and how long to watch the manager while nothing happens.
NODES ?= 1000
IDLE ?= 2m
# `make bench` measures at the design point, with as many signing requests of other signers as the kubelets make.
DESIGN_NODES ?= 5000
DESIGN_IDLE ?= 10m
# How many signing requests to have approved at once for `make approvals`, one measurement each.
REQUESTS ?= 1000
DESIGN_REQUESTS ?= 1000 5000 10000

# Tests: what to test, how many packages at once, of which most wait for clusters and need no processor, and for how long at most
# each; how long each fuzz target and benchmark runs.
PACKAGES ?= ./...
PARALLEL ?= 4
TIMEOUT ?= 25m
FUZZTIME ?= 30s
BENCH ?= .

provenance = REVISION=$(REVISION) SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) PLATFORMS=$(PLATFORMS)

# Pinned in hack/tools. Each is built when it is first used.
controller-gen = $$(hack/tools/install.sh controller-gen)
crd-ref-docs = $$(hack/tools/install.sh crd-ref-docs)
golangci-lint = $$(hack/tools/install.sh golangci-lint)
linkcheck = $$(hack/tools/install.sh linkcheck)

# The paths that hold +kubebuilder markers.
marked := paths=./api/... paths=./cmd/... paths=./controllers/...

##@ General

.PHONY: help
help: ## Show this help.
	@awk 'BEGIN { FS = ":.*## "; print "usage: make TARGET [VARIABLE=value]" } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: clean
clean: ## Remove what was built here, the tools and the local clusters' programs too.
	rm -rf bin dist .cache

##@ Build

.PHONY: build
build: ## Build bin/manager. VERSION= stamps it.
	@CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/manager ./cmd/manager

.PHONY: image
image: ## Build dist/image.tar, an OCI image, without Docker, for amd64 and arm64 or PLATFORMS. IMAGE= names it.
	@VERSION=$(VERSION) IMAGE=$(IMAGE) $(provenance) hack/release/image.sh dist/image.tar

.PHONY: docker-build
docker-build: ## Build the same with Docker. IMAGE= names it. PLATFORMS=linux/amd64,linux/arm64 PUSH=1 builds several and pushes.
	docker buildx build $(if $(PLATFORMS),--platform $(PLATFORMS)) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$(REVISION) --tag $(IMAGE) $(if $(PUSH),--push,--load) .

.PHONY: installer
installer: ## Write dist/install.yaml, all manifests in one file, running IMAGE.
	@mkdir -p dist
	@hack/release/install.sh $(IMAGE) > dist/install.yaml

.PHONY: release
release: ## Make everything of a release in dist/release: image, manifests, chart, checksums. Its version is CHANGELOG.md's.
	@$(provenance) hack/release/release.sh dist/release

##@ Generate

.PHONY: generate
generate: ## Write the API types' DeepCopy methods.
	@$(controller-gen) object:headerFile=hack/boilerplate.go.txt paths=./api/...

.PHONY: manifests
manifests: ## Write the CRDs, the manager's RBAC role and the PrometheusRule, and the chart from all of the manifests.
	@$(controller-gen) crd rbac:roleName=manager-role $(marked) \
		output:crd:dir=config/crd/bases output:rbac:dir=config/rbac
	@hack/prometheus-rule.sh
	@go run ./hack/chart

.PHONY: api-docs
api-docs: ## Write docs/reference/api.md from the API types.
	@$(crd-ref-docs) --source-path=api/v1alpha1 --config=hack/api-docs/config.yaml \
		--templates-dir=hack/api-docs/templates --renderer=markdown --output-path=docs/reference/api.md --log-level=ERROR

.PHONY: fmt
fmt: ## Format the code and its imports.
	@$(golangci-lint) fmt ./...

.PHONY: tidy
tidy: ## Run go mod tidy in every module here.
	@hack/tidy.sh

##@ Check

.PHONY: verify
verify: ## All of the checks below, and that everything generated is up to date.
	@hack/verify.sh

.PHONY: lint
lint: ## Run the linters. FIX=1 fixes what can be.
	@$(golangci-lint) run $(if $(FIX),--fix) ./...
	@lint=$(golangci-lint); cd hack/tools/image && "$$lint" run $(if $(FIX),--fix) ./...

.PHONY: lint-api
lint-api: ## Check the API types against the Kubernetes API conventions.
	@$(golangci-lint) run --config .golangci-api.yml ./api/...

.PHONY: lint-docs
lint-docs: ## Check that every link between the documents leads somewhere.
	@$(linkcheck) $$(git ls-files --cached --others --exclude-standard '*.md')

.PHONY: vuln
vuln: ## Look for known vulnerabilities in what the code calls.
	@hack/vuln.sh

##@ Test

.PHONY: binaries
binaries: ## Get or build what the local clusters run. The first time takes minutes.
	@go run ./hack/cluster/cmd binaries >/dev/null

.PHONY: prometheus
prometheus: ## Build the Prometheus and the promtool that the tests run. The first time takes minutes.
	@hack/tools/install.sh prometheus >/dev/null

.PHONY: test
test: binaries prometheus ## Run all tests with the race detector. PACKAGES=./controllers/... runs some.
	@go test -race -shuffle=on -p $(PARALLEL) -timeout $(TIMEOUT) $(PACKAGES)

.PHONY: e2e
e2e: ## Run the end-to-end tests on real nodes: root on Linux. E2E_KUBECONFIG= uses a cluster that is there. FOCUS= runs some.
	@hack/e2e/prerequisites.sh
	$(if $(E2E_KUBECONFIG),,@go run ./hack/cluster/cmd binaries --nodes >/dev/null)
	@NOTAFTER_E2E=1 go test -count=1 -timeout $(TIMEOUT) ./hack/e2e -v -ginkgo.v -ginkgo.no-color -ginkgo.timeout $(TIMEOUT) \
		$(if $(FOCUS),-ginkgo.focus '$(FOCUS)')

.PHONY: test-gitops
test-gitops: build binaries ## Have Flux's own controllers deliver the operator and policies. Building them takes minutes the first time.
	@source=$$(hack/tools/install.sh flux source-controller); \
		kustomize=$$(hack/tools/install.sh flux kustomize-controller); \
		SOURCE_CONTROLLER=$$source KUSTOMIZE_CONTROLLER=$$kustomize MANAGER=$(CURDIR)/bin/manager \
		go test -count=1 -timeout $(TIMEOUT) ./hack/gitops

.PHONY: test-release
test-release: ## Test that releases are reproducible, for all of PLATFORMS.
	@PLATFORMS=$(PLATFORMS) go test -count=1 -timeout $(TIMEOUT) -run TestReleaseIsReproducible ./hack/release

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s).
	@hack/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: benchmarks ## Run the benchmarks, then measure the manager at the design point: 5,000 nodes, ten idle minutes, 10,000 requests.
	@$(MAKE) scale NODES=$(DESIGN_NODES) IDLE=$(DESIGN_IDLE)
	@$(MAKE) approvals REQUESTS="$(DESIGN_REQUESTS)"

.PHONY: benchmarks
benchmarks: ## Run the benchmarks. BENCH=Evaluate runs some.
	@go test -run '^$$' -bench '$(BENCH)' -benchmem $$(go list ./controllers/... ./api/...)

##@ Try it on this machine

.PHONY: demo
demo: build binaries ## Show the operator at work on a local cluster. KEEP=1 leaves it running.
	@KEEP=$(KEEP) go run ./hack/demo bin/manager config

.PHONY: scale
scale: build binaries ## Measure the manager with NODES=1000 simulated kubelets: time, memory, requests, at work and for IDLE=2m.
	@go run ./hack/scale -nodes $(NODES) -idle $(IDLE)

.PHONY: approvals
approvals: build binaries ## Measure how fast REQUESTS=1000 signing requests are approved, also while DNS does not answer for some.
	@for requests in $(REQUESTS); do go run ./hack/scale -approve $$requests; done

.PHONY: cluster-up
cluster-up: ## Start a local cluster with the CRDs. NAME= names it: there can be several. SIGNING_DURATION=3m is for impatience.
	@go run ./hack/cluster/cmd up --name $(NAME) --signing-duration $(SIGNING_DURATION) --crds config/crd/bases

.PHONY: cluster-down
cluster-down: ## Stop a local cluster. NAME= names it.
	@go run ./hack/cluster/cmd down --name $(NAME)

.PHONY: run
run: ## Run the manager from here against the cluster of the current KUBECONFIG.
	@go run -ldflags "-X main.version=$(VERSION)" ./cmd/manager --log-format=console --metrics-bind-address=0

##@ Deploy to the cluster of the current KUBECONFIG

.PHONY: install
install: ## Install the CRDs.
	kubectl apply --server-side -k config/crd

.PHONY: uninstall
uninstall: ## Remove the CRDs, and with them every policy.
	kubectl delete --ignore-not-found -k config/crd

.PHONY: deploy
deploy: ## Deploy the operator with its CRDs, running IMAGE.
	hack/release/install.sh $(IMAGE) | kubectl apply --server-side -f -

# A component that was installed by itself goes first, by kubectl delete -k config/components/NAME. Its bindings would give their
# powers to whoever makes a ServiceAccount of that name.
.PHONY: undeploy
undeploy: ## Remove the operator and its CRDs, and with them every policy. First delete the components.
	kubectl delete --ignore-not-found -k config/default
