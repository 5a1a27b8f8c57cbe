# The tasks of this repository. `make` without a target lists them.
SHELL := bash
.DEFAULT_GOAL := help
# The version of the Kafka that the tests start; empty means the one in tests/kafka/pom.xml.
export KAFKA_VERSION := $(or $(KAFKA),$(KAFKA_VERSION))
.PHONY: help run build dist test check soak bench screenshots lint fmt image cluster setup clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Run everything in one process, on http://127.0.0.1:8080
	cargo run --release -- up

build: ## Build the program, optimised: target/release/emostream
	cargo build --release

dist: ## Make target/dist/emostream-VERSION-TARGET.tar.gz, stripped, with man pages and completions (TARGET=, STRIP=)
	@docker/dist.sh $(TARGET)

test: setup ## Run every test, with a real browser and a real Kafka (KAFKA=3.9.2: of that version)
	@tests/run.sh $(TEST_FLAGS)

check: ## Run the tests that need neither Kafka nor a browser: unit and property tests, golden cases, simulation
	cargo test --workspace --lib --bin emostream --test golden

soak: ## Run SEEDS=100000 simulations of the dataflow (SEED=17 replays one), then fuzz for FUZZ_SECONDS=60
	SEEDS=$(or $(SEEDS),100000) cargo test -p emostream-dataflow --lib simulation::whatever
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) cargo test -p emostream-ingest --lib fuzz -- --nocapture --test-threads=4

bench: ## List the figures; FIGURE=drain measures one, with BENCH_FLAGS, on all cores or on CPUS=1
ifeq ($(FIGURE),swarms)
	cargo test --workspace --test system swarms:: -- --ignored --nocapture
else ifdef FIGURE
	cargo build --release -p emostream -p emostream-bench
	$(if $(filter words,$(FIGURE)),cargo build --release -p emostream-streams --example word_count)
	KAFKA_SESSION_TIMEOUT_MS=18000 tests/kafka/kafka.sh run $(if $(CPUS),taskset -c $(CPUS)) \
		target/release/emostream-bench $(FIGURE) $(BENCH_FLAGS)
else
	@sed -n '/^| `make bench /p' bench/README.md
endif

screenshots: ## Take the screenshots in docs/img/ again, after some minutes of generated reactions
	@tests/setup.sh pictures
	cargo test --workspace --test system screenshots:: -- --ignored
	pngquant --force --strip --skip-if-larger --quality 60-90 --ext .png docs/img/*.png

lint: ## Check format, wording, dependencies, lints and documentation as CI does
	@tests/setup.sh lint
	cargo fmt --all --check
	python3 tests/wording.py
	python3 tests/documents.py
	target/lint/bin/cargo-deny --workspace --locked check -D warnings bans licenses sources
	cargo clippy --workspace --all-targets -- -D warnings
	# With the examples, so that cargo builds the dependencies with the same features as above, and not a second time.
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --lib --bins --examples

fmt: ## Format the code
	cargo fmt --all

image: ## Build the image `emostream` (IMAGE=); BASE= and BUILDER= name other bases: docker/base.sh makes some
	docker build -f docker/Dockerfile -t $(or $(IMAGE),emostream) $(IMAGE_FLAGS) \
		$(if $(BASE),--build-arg BASE=$(BASE)) $(if $(BUILDER),--build-arg BUILDER=$(BUILDER)) \
		--build-arg VERSION=$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1) \
		--build-arg REVISION=$(shell git describe --always --dirty 2>/dev/null || echo unknown) .

cluster: build ## Run every role as a process, on a new Kafka; Ctrl-C stops all
	docker/cluster.sh

setup: ## Install what the tests need: Java, Maven, Chromium, HAProxy, Prometheus, faketime, validators
	@tests/setup.sh

clean: ## Delete the build
	cargo clean
