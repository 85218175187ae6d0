# Every task of a developer and of CI. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

CLUSTER := $(CURDIR)/.cluster/bin/cluster
IMAGES := $(CURDIR)/.cluster/images
IMAGE_TARS := $(IMAGES)/sluice.tar $(IMAGES)/refund-agent.tar
MUSL := $(shell uname -m)-unknown-linux-musl
MUSL_BIN := $(or $(CARGO_TARGET_DIR),target)/$(MUSL)/release
CRDS := agentdeployments launchdecisions launchplans
CHART_CRDS := charts/sluice/crds
TEST_CLUSTER ?= test
ROLLBACKS ?= 30
PROMOTIONS ?= 30
MODEL_SECONDS ?= 600
MODEL_WIDTH ?= 100000
MODEL_MEMORY_MB ?= 4096
# Our own code fast, everything under it as the tests have built it already.
MODEL_FLAGS := --config profile.test.package.sluice.opt-level=2 --config profile.test.package.sluice.debug-assertions=false

# ring's C code, compiled for the static binaries
export CC_$(subst -,_,$(MUSL)) := musl-gcc

# Only a KUBECONFIG on make's command line counts: one that happens to be exported may be production.
ifeq ($(origin KUBECONFIG),command line)
DEMO_CLUSTER := given
else
unexport KUBECONFIG
endif

# $(call timed,NAME,COMMANDS): run the commands, say how long they took
timed = echo "== $(1)"; start=$$(date +%s); $(2); echo "== $(1): $$(($$(date +%s) - start)) s"

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

# ---- what the machine needs

.PHONY: deps
deps: cluster-tool ## install what is missing: Debian packages, Rust's static target
	@$(CLUSTER) deps
	@test -d "$$(rustc --print target-libdir --target $(MUSL))" || rustup target add $(MUSL)

.PHONY: cluster-tool
cluster-tool:
	@command -v go >/dev/null || { echo "Go is not in PATH: the local cluster is built with it"; exit 1; }
	@go build -C tools/cluster -trimpath -buildvcs=false -o $(CLUSTER) .

.PHONY: programs
programs: cluster-tool ## build Kubernetes, CoreDNS, Prometheus, Traefik and Helm into the cache (once; 20 min and more)
	@$(CLUSTER) build

# ---- code

.PHONY: generate
generate: ## write the generated files: the CRDs
	mkdir -p crds
	for kind in $(CRDS); do cargo run --quiet --locked -- crd $$kind > crds/$$kind.yaml.new; mv crds/$$kind.yaml.new crds/$$kind.yaml; done
	if [ -d $(CHART_CRDS) ]; then cp crds/*.yaml $(CHART_CRDS)/; fi

.PHONY: check-generated
check-generated: ## the generated files are up to date
	@for kind in $(CRDS); do cargo run --quiet --locked -- crd $$kind | diff -u crds/$$kind.yaml - || { echo "crds/$$kind.yaml is out of date: make generate"; exit 1; }; done
	@if [ -d $(CHART_CRDS) ]; then diff -ur crds $(CHART_CRDS) || { echo "$(CHART_CRDS) is out of date: make generate"; exit 1; }; fi

.PHONY: lint
lint: ## format and lints of Rust and Go
	cargo fmt --all --check
	cargo clippy --all-targets --workspace --locked -- -D warnings
	tools/mutants --check
	@unformatted=$$(gofmt -l tools/cluster tools/modules); test -z "$$unformatted" || { echo "gofmt -w $$unformatted"; exit 1; }
	go vet -C tools/cluster ./...

.PHONY: check
check: lint check-generated ## everything that needs no cluster and runs no test

.PHONY: unit
unit: ## tests that need no cluster; prints what each search of the model saw, and where it was thinned
	cargo test --workspace --locked --lib --bins
	go test -C tools/cluster ./...

.PHONY: model
model: ## search the model deeper than `make unit` does: MODEL_SECONDS=600 MODEL_WIDTH=100000 MODEL_MEMORY_MB=4096 for each search
	SLUICE_MODEL_SECONDS=$(MODEL_SECONDS) SLUICE_MODEL_WIDTH=$(MODEL_WIDTH) SLUICE_MODEL_MEMORY_MB=$(MODEL_MEMORY_MB) \
		cargo test --locked --lib $(MODEL_FLAGS) -- model:: --include-ignored --nocapture --test-threads=1

.PHONY: mutants
mutants: ## which changes of the decision core no test notices: FILES="gates.rs triggers.rs"; MODEL_SECONDS=20 asks the model too
	@nice -n 10 tools/mutants $(FILES)

.PHONY: test
test: ## everything that must pass; KEEP=1 keeps the cluster `test`
	@$(call timed,dependencies,$(MAKE) deps)
	@$(call timed,check,$(MAKE) check)
	@$(call timed,unit tests,$(MAKE) unit)
	@$(call timed,programs of the cluster,$(MAKE) programs)
	@$(call timed,images,$(MAKE) images)
	@$(call timed,tests on a cluster,$(MAKE) test-cluster)
	@$(call timed,outages,$(MAKE) test-outages FILTER='--skip losses::')
ifdef ALLOW_NO_HISTORY
	@echo "== upgrade: NOT TESTED, ALLOW_NO_HISTORY is set"
else
	@$(call timed,upgrade,$(MAKE) test-upgrade)
endif

# On failure the logs stay: .cluster/test/log. The tests mostly wait, so more run at once than there are cores.
.PHONY: test-cluster
test-cluster: images ## the tests on a cluster of their own
	@finish() { code=$$?; trap - EXIT; \
	  if [ -n "$(KEEP)" ]; then echo "kept: . .cluster/$(TEST_CLUSTER)/env"; \
	  elif [ $$code = 0 ]; then $(CLUSTER) down --name $(TEST_CLUSTER); \
	  else $(CLUSTER) down --keep --name $(TEST_CLUSTER); echo "logs: .cluster/$(TEST_CLUSTER)/log"; fi; exit $$code; }; \
	trap finish EXIT; trap 'exit 130' INT TERM; \
	[ -n "$(KEEP)" ] || $(CLUSTER) down --name $(TEST_CLUSTER) >/dev/null; \
	$(CLUSTER) up --name $(TEST_CLUSTER); \
	$(CLUSTER) load --name $(TEST_CLUSTER) $(IMAGE_TARS); \
	. .cluster/$(TEST_CLUSTER)/env; export PROMETHEUS_BIN=$$($(CLUSTER) path prometheus prometheus); \
	RUST_TEST_THREADS=6 cargo test --workspace --locked --no-fail-fast --test '*'

# ---- outages

# The second node is there to be lost. What a crash costs is the gateway's speed as much as ours: `make test` leaves those
# measurements (losses::) to who asks for them.
.PHONY: test-outages
test-outages: images ## loss of a process, a node, the API server, etcd, a namespace: on a cluster of its own; prints what it measured
	@$(CLUSTER) down --name outages >/dev/null
	@$(CLUSTER) up --name outages --nodes 2
	@$(CLUSTER) load --name outages $(IMAGE_TARS)
	@. .cluster/outages/env; cargo test --locked --test outages -- --ignored --nocapture --test-threads=1 $(FILTER) || { $(CLUSTER) down --keep --name outages; exit 1; }
	@$(CLUSTER) down --name outages

# ---- upgrade

UPGRADE := $(CURDIR)/.cluster/upgrade-from
UPGRADE_FROM = $(shell cat tests/upgrade-from)

# The earlier Sluice, built from the history: its image, chart and CRDs. It shares this tree's compiled dependencies.
$(UPGRADE)/sluice.tar: tests/upgrade-from | deps
	@git cat-file -e $(UPGRADE_FROM)^{commit} || { echo "commit $(UPGRADE_FROM) is not in this checkout: git fetch --unshallow"; exit 1; }
	rm -rf $(UPGRADE) && mkdir -p $(UPGRADE)/src
	git archive $(UPGRADE_FROM) | tar -x -C $(UPGRADE)/src
	cp -r $(UPGRADE)/src/charts $(UPGRADE)/src/crds $(UPGRADE)/
	cargo build --release --locked --target $(MUSL) -p sluice --manifest-path $(UPGRADE)/src/Cargo.toml --target-dir $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
	$(CLUSTER) image --ref sluice.dev/sluice:upgrade-from --entrypoint /sluice --out $@ $(MUSL_BIN)/sluice:/sluice
	rm -rf $(UPGRADE)/src

.PHONY: test-upgrade
test-upgrade: $(UPGRADE)/sluice.tar ## from the commit in tests/upgrade-from to this tree, mid-stage, on a cluster of its own
	@$(MAKE) images
	@$(CLUSTER) down --name upgrade >/dev/null
	@$(CLUSTER) up --name upgrade
	@$(CLUSTER) load --name upgrade $(IMAGE_TARS) $(UPGRADE)/sluice.tar
	@. .cluster/upgrade/env; cargo test --locked --test upgrade -- --ignored || { $(CLUSTER) down --keep --name upgrade; exit 1; }
	@$(CLUSTER) down --name upgrade

# ---- images and clusters

.PHONY: images
images: deps ## static binaries and their images sluice.dev/sluice:dev and sluice.dev/refund-agent:dev
	@cargo build --release --locked --target $(MUSL) -p sluice -p refund-agent
	@$(CLUSTER) image --ref sluice.dev/sluice:dev --entrypoint /sluice --out $(IMAGES)/sluice.tar $(MUSL_BIN)/sluice:/sluice
	@$(CLUSTER) image --ref sluice.dev/refund-agent:dev --entrypoint /refund-agent --out $(IMAGES)/refund-agent.tar $(MUSL_BIN)/refund-agent:/refund-agent

.PHONY: cluster
cluster: cluster-tool ## start the cluster `dev`: then `. .cluster/dev/env`
	@$(CLUSTER) up --name dev

.PHONY: cluster-down
cluster-down: cluster-tool ## end the cluster `dev`
	@$(CLUSTER) down --name dev

.PHONY: demo
ifdef DEMO_CLUSTER
demo: cluster-tool ## watch a launch and a rollback; KUBECONFIG=… IMAGE=… GATEWAY_URL=… PROMETHEUS_URL=… on your own cluster
	@$(foreach needed,GATEWAY_URL PROMETHEUS_URL,$(if $($(needed)),,echo "$(needed) is not set: see tools/demo/README.md"; exit 1;))
	@export HELM=$$($(CLUSTER) path helm helm) KUBECTL=$$($(CLUSTER) path kubernetes kubectl); \
	export KUBECONFIG=$(abspath $(KUBECONFIG)) $(if $(IMAGE),IMAGE='$(IMAGE)'); \
	cargo run --locked -p demo -- $(DEMO_ARGS)
else
demo: images
	@$(CLUSTER) up --name demo
	@$(CLUSTER) load --name demo $(IMAGE_TARS)
	@. .cluster/demo/env; $(if $(IMAGE),export IMAGE='$(IMAGE)';) cargo run --locked -p demo -- $(DEMO_ARGS)
endif

# The variables of `demo` go along.
.PHONY: measure
measure: ## the demo with PROMOTIONS=30 good and ROLLBACKS=30 bad changes: median and worst of each measure
	@$(MAKE) demo DEMO_ARGS='--promotions $(PROMOTIONS) --rollbacks $(ROLLBACKS) $(DEMO_ARGS)'

.PHONY: demo-down
demo-down: cluster-tool ## end the cluster of the demo
	@$(CLUSTER) down --name demo

.PHONY: clean
clean: cluster-tool ## end every cluster of this tree, remove all that was built (not the cache)
	@$(CLUSTER) down --all
	rm -rf .cluster target
