#!/usr/bin/env bash
# Autobahn's cases (by kosoku) against the gateway's echo path, on both engines: the outcome of every case
# must be the one checked in. `conformance.sh --record` writes the expectations anew.
# Groups 12 and 13 are compression, which is not offered; group 9 sends more than a client message may have.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${HERALD_CACHE:-$PWD/.cache}
herald=${HERALD_BIN:-target/debug/herald}
kosoku=${KOSOKU:-$cache/python/bin/kosoku}
work=$(mktemp -d)
logs=${HERALD_TEST_LOGS:-$work}
pid=

stop() {
  [ -z "$pid" ] || { kill -TERM "$pid" 2>/dev/null && wait "$pid" || true; }
  pid=
}
trap 'stop; rm -rf "$work"' EXIT

free_ports() {
  python3 -c 'import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(s.getsockname()[1] for s in sockets))'
}

# start ENGINE CLIENT_PORT HTTP_PORT ADMIN_PORT: waits until it is ready.
start() {
  HERALD_CONFORMANCE__ECHO=true HERALD_GATEWAY__ENGINE=$1 HERALD_GATEWAY__CORES=2 HERALD_GATEWAY__PIN=false \
    HERALD_GATEWAY__LISTEN=127.0.0.1:$2 HERALD_HTTP__LISTEN=127.0.0.1:$3 HERALD_ADMIN__LISTEN=127.0.0.1:$4 \
    HERALD_DRAIN__GRACE_MS=0 HERALD_DRAIN__WINDOW_MS=0 \
    "$herald" standalone --data "$work/$1" >"$logs/conformance-$1.log" 2>&1 &
  pid=$!
  for _ in $(seq 300); do
    curl -fsS -o /dev/null "http://127.0.0.1:$4/readyz" 2>/dev/null && return
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  echo "the standalone did not become ready:"
  tail -20 "$logs/conformance-$1.log"
  exit 1
}

failed=0
for engine in ${HERALD_TEST_ENGINES:-epoll uring}; do
  read -r client http admin <<<"$(free_ports)"
  start "$engine" "$client" "$http" "$admin"
  metrics=$(curl -fsS "http://127.0.0.1:$admin/metrics")
  grep -q "^herald_engine{engine=\"$engine\"} 1$" <<<"$metrics" ||
    { echo "the standalone does not run on $engine"; exit 1; }
  # It says with its own status that a case failed; what counts here is whether we knew.
  "$kosoku" -m fuzzingclient -p 4 -x '9.*' -x '12.*' -x '13.*' -o "$work/report-$engine" "127.0.0.1:$client" \
    >"$work/kosoku.log" 2>&1 || true
  [ -f "$work/report-$engine/index.json" ] || { cat "$work/kosoku.log"; exit 1; }
  echo "engine $engine:"
  python3 tests/conformance/compare.py "$work/report-$engine/index.json" tests/conformance/expected.json "$@" || failed=1
  stop
done
exit "$failed"
