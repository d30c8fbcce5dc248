# Two commands: `make drill` shows a regional failover, `make test` proves the suite. Both install what they need, or name it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
DRILL ?=

.PHONY: help drill test setup setup-tests lint

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

drill: setup ## A regional failover on this machine, with a report (DRILL="--graceful" passes arguments)
	cargo run --locked --quiet --package drctl -- drill --lab $(DRILL)

test: setup-tests lint ## Format, lints, and every test on real parts
	cargo nextest run --workspace --locked

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- --deny warnings

setup:
	@lab/setup

setup-tests: setup
	@lab/setup --tests
