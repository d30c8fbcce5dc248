# `make drill` shows a regional failover, `make test` proves the suite, `make deploy-test` also builds and scans what is deployed. All
# install what they need, or name it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
DRILL ?=

.PHONY: help drill test deploy-test setup setup-tests setup-deploy-tests lint

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

drill: setup ## A regional failover on this machine, with a report (DRILL="--graceful" passes arguments)
	cargo run --locked --quiet --package drctl -- drill --lab $(DRILL)

test: setup-tests lint ## Format, lints, and every test on real parts
	cargo nextest run --workspace --locked

deploy-test: setup-deploy-tests ## The templates: built by SAM, scanned, deployed into an emulated AWS; a region lost and recovered there
	cargo nextest run --workspace --locked --run-ignored all -E 'binary(template) | binary(deployed) | binary(under_lambda) | binary(sam) | binary(image)'

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- --deny warnings

setup:
	@lab/setup

setup-tests: setup
	@lab/setup --tests

setup-deploy-tests: setup-tests
	@lab/setup --deploy-tests
