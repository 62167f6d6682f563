#!/usr/bin/env bash
# Measures a release build beside the floor and prints tables for benches/RESULTS.md; under ten minutes once
# it is built. Arguments go to the driver, e.g.: scripts/bench.sh micro, scripts/bench.sh broadcast --runs 5
set -euo pipefail
cd "$(dirname "$0")/.."
# Servers take over what they are started with.
ulimit -n "$(ulimit -Hn)"
export HERALD_CACHE=${HERALD_CACHE:-$PWD/.cache}
# What tests make do with collects its garbage all the time.
export HERALD_CASSANDRA_JVM=${HERALD_CASSANDRA_JVM:--Xms1g -Xmx1g -XX:+UseSerialGC}

# Each by itself: so the server has the features it is shipped with, not those of its neighbours.
cargo build --release --quiet --bin herald
cargo build --release --quiet -p swarm
cargo build --release --quiet -p floor
cargo build --release --quiet -p push-tungstenite
cargo build --release --quiet -p benches

echo "$(date -u +%FT%RZ) · commit $(git rev-parse --short HEAD) · $(rustc --version)"
echo "$(uname -sr), $(nproc) CPUs ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)), load $(cut -d' ' -f1 /proc/loadavg)"
exec target/release/benches "$@"
