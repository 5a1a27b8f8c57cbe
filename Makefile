# What one does here. `make` alone lists it.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help run build test lint fmt setup clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Run everything in one process, on http://127.0.0.1:8080
	cargo run --release -- up

build: ## Build the program, optimised: target/release/emostream
	cargo build --release

test: setup ## Run every test, with a real Kafka and a real browser
	tests/kafka/kafka.sh run cargo test --workspace $(TEST_FLAGS)

lint: ## Check format, lints and documentation as CI does
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

fmt: ## Format the code
	cargo fmt --all

setup: ## Install what the tests need: Java, Maven, Chromium
	@tests/setup.sh

clean: ## Throw away what was built
	cargo clean
