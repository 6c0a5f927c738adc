# The commands of freshet. Each does the set-up that it needs; the second time that takes about a second.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/freshet/target

# The program as it is shipped, optimized across crates.
DIST := $(CARGO_TARGET_DIR)/dist/freshet
# The same program, built in half the time of the tests' one, for a first look.
LOCAL := $(CARGO_TARGET_DIR)/local/freshet
CARGO := cargo
OWN := -p freshet -p freshet-topics -p freshet-sinks -p freshet-ingest -p freshet-processors
DATA ?= .freshet

.DEFAULT_GOAL := help
.PHONY: help setup checkout build demo up test faults model fuzz bench pictures clean

help: ## List the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1 \t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## Install what is missing: system packages, Kafka, SeaweedFS
	@scripts/setup

# Cargo tells two checkouts that share a target folder apart by file times alone, and may take one's crates for the
# other's. Where the folder was last used by another checkout, freshet's own crates are built anew.
checkout: setup
	@if [ "$$(cat $(CARGO_TARGET_DIR)/checkout 2>/dev/null)" != "$(CURDIR)" ]; then \
	    mkdir -p $(CARGO_TARGET_DIR) && \
	    for profile in release dist local; do $(CARGO) clean --quiet --profile $$profile $(OWN) || exit; done && \
	    echo "$(CURDIR)" >$(CARGO_TARGET_DIR)/checkout; \
	fi

build: checkout ## Build dist/freshet in CARGO_TARGET_DIR, as the image has it
	$(CARGO) build --profile dist --bin freshet

demo: checkout ## Start everything here, drop sample files, show them arrive, stop
	$(CARGO) build --profile local --bin freshet
	$(LOCAL) demo --data $(DATA)

up: checkout ## The same, and keep running until Ctrl-C
	$(CARGO) build --profile local --bin freshet
	$(LOCAL) up --data $(DATA)

test: checkout ## Check format and lints, run all tests on the real components
	@scripts/setup tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	$(CARGO) test --release --workspace

faults: checkout ## Run all tests of faults, those that take minutes too
	@scripts/setup tests
	$(CARGO) test --release --workspace --test e2e faults:: -- --include-ignored

model: checkout ## Walk a million histories of the model at random (make test: 10,000)
	FRESHET_MODEL_WALKS=1000000 $(CARGO) test --release --workspace --test model walks:: -- --nocapture

fuzz: checkout ## Give every reader hostile bytes for a minute each, by a new seed (make test: a second each)
	FRESHET_FUZZ_SECONDS=60 FRESHET_FUZZ_SEED=$$(date +%s) $(CARGO) test --release --workspace --test fuzz -- --nocapture

bench: checkout ## Measure rows a second and drop-to-visible, beside COPY and a plain script
	@scripts/setup bench
	$(CARGO) build --profile dist --bin freshet
	$(DIST) bench

pictures: checkout ## Draw the dashboards beside a running pipeline: a PNG each in grafana/pictures/drawn
	@scripts/setup pictures
	$(CARGO) test --release --workspace --test grafana pictures:: -- --ignored --nocapture

clean: ## Delete what was built (not the data folder, not the cache)
	$(CARGO) clean
