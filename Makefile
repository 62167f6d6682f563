# The front door. `make run` and `make test` install what is missing; nothing else has to be known.
SHELL := /bin/bash
.DEFAULT_GOAL := help
DATA ?= herald-data

.PHONY: help run test chaos fleet bench swarm clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: ## install what is missing, build, start the standalone, print where to look
	@scripts/install.sh build
	@cargo build --release --bin herald
	@target/release/herald standalone --data $(DATA)

test: ## install what is missing, then format, lints, unit, end-to-end, conformance, browser
	@scripts/test.sh

chaos: ## faults by seed on a real fleet, and the account of every notification; HERALD_SEED repeats
	@scripts/chaos.sh

fleet: ## real Redis and Kafka, one dispatcher, two gateways on this machine, until Ctrl-C
	@scripts/install.sh parts
	@cargo build --release --bin herald
	@scripts/fleet.sh

bench: ## measure; results belong into benches/RESULTS.md
	@scripts/install.sh parts
	@scripts/bench.sh

swarm: ## build the load tool: target/release/swarm
	@scripts/install.sh build
	@cargo build --release -p swarm

clean: ## remove what was built and the standalone's data
	@cargo clean
	@rm -rf $(DATA)
