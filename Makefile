# Everything a person or CI does here. `make help` lists it.

CARGO ?= cargo
PROFILE ?= release
TARGET_DIR := $(shell $(CARGO) metadata --format-version 1 --no-deps 2>/dev/null | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
PROFILE_DIR = $(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
IMAGE ?= hauberk:dev
BINARIES = hauberk-control-plane hauberk-agent hauberk

.PHONY: help build test check demo bench bench-authorization fuzz image
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the three binaries, optimised
	$(CARGO) build --release --locked --bins

test: export HAUBERK_TEST_SKIPPED = $(TARGET_DIR)/skipped-tests.txt
test: ## Run every test (needs no network and no privilege; skips what the machine lacks, and lists it at the end)
	$(CARGO) build --locked --workspace --bins --tests
	@: > "$$HAUBERK_TEST_SKIPPED"
	$(CARGO) test --locked --workspace; result=$$?; \
	if [ -s "$$HAUBERK_TEST_SKIPPED" ]; then echo; echo 'Skipped:'; sort -u "$$HAUBERK_TEST_SKIPPED"; else echo; echo 'No test was skipped.'; fi; \
	exit $$result

check: ## Formatting, lints, docs and dependency rules
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	$(CARGO) fetch --quiet --locked
	$(CARGO) deny --offline check bans licenses sources

demo: ## Run a small shop behind real agents and watch a call be denied (Ctrl-C ends it)
	$(CARGO) build --locked --bins
	$(TARGET_DIR)/debug/hauberk demo up

bench: ## Measure direct and through two agents, side by side, and print ratios; PARTS="calls bytes memory enforcement revocation policies views workloads thousand issuance"
	$(CARGO) build --release --locked --bins --bench mesh
	$(CARGO) bench --locked --bench mesh -- $(PARTS)
	$(CARGO) bench --locked --bench decide
	$(CARGO) bench --locked --bench users

# In a copy, so that an agent that lets everything through never lies where the real one does.
UNDECIDED = $(TARGET_DIR)/undecided
bench-authorization: ## What authorization costs: agents that decide beside ones built to decide nothing, by CPU a request
	$(CARGO) build --release --locked --bins --bench mesh
	rm -rf $(UNDECIDED)/source && mkdir -p $(UNDECIDED)/source
	git ls-files -z --cached --others --exclude-standard | tar -cf - --null -T - | tar -xf - -C $(UNDECIDED)/source
	patch -d $(UNDECIDED)/source -p1 < integration-tests/benches/mesh/undecided.patch
	cd $(UNDECIDED)/source && $(CARGO) build --release --locked --workspace --bin hauberk-agent --target-dir $(UNDECIDED)/target
	HAUBERK_BENCH_UNDECIDED_AGENT=$(UNDECIDED)/target/release/hauberk-agent $(CARGO) bench --locked --bench mesh -- authorization

TARGET ?= certificate_chain
TIME ?= 60
fuzz: ## Look for TIME seconds for input that breaks the parser TARGET of fuzz/ (needs a nightly compiler and cargo-fuzz)
	$(CARGO) run --locked --package hauberk-fuzz --example seeds -- $(TARGET_DIR)/fuzz-seeds
	mkdir -p fuzz/corpus/$(TARGET)
	$(CARGO) +nightly fuzz run --features libfuzzer $(TARGET) fuzz/corpus/$(TARGET) $(TARGET_DIR)/fuzz-seeds/$(TARGET) -- -max_total_time=$(TIME)

image: ## Build the image `hauberk:dev` from binaries of this machine, without any registry
	$(CARGO) build --profile $(PROFILE) --locked --bins
	deploy/image/build.sh $(TARGET_DIR)/$(PROFILE_DIR) $(IMAGE)
