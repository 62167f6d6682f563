#!/usr/bin/env bash
# Faults by seed on a real fleet, for minutes: every kind of fault a round, each round with a seed of its own.
# HERALD_CHAOS_ROUNDS rounds (3), from HERALD_SEED (1) on. A round that fails names its seed and prints its account.
set -euo pipefail
cd "$(dirname "$0")/.."
export HERALD_CACHE=${HERALD_CACHE:-$PWD/.cache}
export HERALD_CHAOS_ROUNDS=${HERALD_CHAOS_ROUNDS:-3}

scripts/install.sh test
cargo build --quiet --workspace --bins
cargo test --quiet --test chaos -- --nocapture
