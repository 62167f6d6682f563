#!/usr/bin/env bash
# Faults by seed on a real fleet, for minutes: every kind of fault a round, each round with a seed of its own.
# HERALD_CHAOS_ROUNDS rounds (3), from HERALD_SEED (1) on. A round that fails names its seed and prints its account.
# HERALD_CHAOS_USERS users of each kind (500): the times hold only where the machine is not the limit, and the first
# row of the account, in which nothing fails, says whether it is. The build is the one that is shipped.
# Before that the simulated fleet: HERALD_SIMULATION_SEEDS seeds (3000) in virtual time. A seed that breaks a promise
# tells its shortest story; HERALD_SIMULATION_SEED repeats it alone.
set -euo pipefail
cd "$(dirname "$0")/.."
export HERALD_CACHE=${HERALD_CACHE:-$PWD/.cache}
export HERALD_CHAOS_ROUNDS=${HERALD_CHAOS_ROUNDS:-3}
export HERALD_SIMULATION_SEEDS=${HERALD_SIMULATION_SEEDS:-3000}

scripts/install.sh test
cargo test --quiet --test simulation -- --nocapture
cargo build --release --quiet --workspace --bins
cargo test --release --quiet --test chaos --no-run
# In a mount namespace of its own, which takes the small disk it fills with it.
unshare --user --map-root-user --mount cargo test --release --quiet --test chaos -- --nocapture
