# The front door. `make run` and `make test` install what is missing; nothing else has to be known.
SHELL := /bin/bash
.DEFAULT_GOAL := help
DATA ?= herald-data

.PHONY: help run test chaos cluster fleet bench bench-peers scale scale-million scale-tls swarm clean

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

cluster: ## a fleet on three nodes of Cassandra: one dies, two die, all are slow
	@scripts/install.sh test
	@cargo build --quiet --workspace --bins
	@cargo test --quiet --test cluster -- --ignored --nocapture

fleet: ## real Redis and Kafka, one dispatcher, two gateways on this machine, until Ctrl-C
	@scripts/install.sh parts
	@cargo build --release --bin herald
	@scripts/fleet.sh

bench: ## measure; results belong into benches/RESULTS.md
	@scripts/install.sh parts
	@scripts/bench.sh

scale: ## 500,000 connections in one gateway on this machine, held for 10 minutes, with a page of plots
	@scripts/install.sh parts
	@scripts/bench.sh scale --clients 500000 --html target/scale.html

scale-million: ## the same with 1,000,000; takes 25 minutes
	@scripts/install.sh parts
	@scripts/bench.sh scale --clients 1000000 --connects-per-s 2000 --html target/scale-million.html

scale-tls: ## 250,000 connections by TLS in one gateway, held the same way
	@scripts/install.sh parts
	@scripts/bench.sh scale --clients 250000 --tls --html target/scale-tls.html

bench-peers: ## other servers beside it, by the same load tool in the same run; results belong into benches/RESULTS.md
	@scripts/install.sh peers
	@scripts/bench.sh peers --clients 12000 --runs 1

swarm: ## build the load tool: target/release/swarm
	@scripts/install.sh build
	@cargo build --release -p swarm

clean: ## remove what was built and the standalone's data
	@cargo clean
	@rm -rf $(DATA)
