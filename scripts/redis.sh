#!/usr/bin/env bash
# A Redis for `make fleet`: scripts/redis.sh start PORT DIR | stop DIR
# Registry data outlives a restart by an append-only file, as in production; DIR holds it and the log.
set -euo pipefail

fail() { echo "redis.sh: $*" >&2; exit 1; }
answers() { redis-cli -h 127.0.0.1 -p "$1" ping 2>/dev/null | grep -qx PONG; }

start() {
  local port=$1 dir=$2
  command -v redis-server >/dev/null || fail "redis-server is missing: apt-get install redis-server"
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  if [[ -f $dir/redis.pid ]] && kill -0 "$(cat "$dir/redis.pid")" 2>/dev/null; then
    answers "$port" && { echo "redis answers on 127.0.0.1:$port already"; return; }
    fail "process $(cat "$dir/redis.pid") of $dir runs, but not on port $port"
  fi
  redis-server --bind 127.0.0.1 --port "$port" --dir "$dir" --daemonize yes \
    --pidfile "$dir/redis.pid" --logfile "$dir/redis.log" --save '' --appendonly yes >/dev/null
  for _ in $(seq 100); do
    # The pid file says that it is ours that answers, not another one on the same port.
    [[ -f $dir/redis.pid ]] && answers "$port" && { echo "redis answers on 127.0.0.1:$port"; return; }
    sleep 0.1
  done
  tail -n 5 "$dir/redis.log" >&2 || true
  fail "no answer on 127.0.0.1:$port within 10 s"
}

stop() {
  local dir=$1 pid
  [[ -f $dir/redis.pid ]] || return 0
  pid=$(cat "$dir/redis.pid")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || { rm -f "$dir/redis.pid"; return 0; }
    sleep 0.1
  done
  fail "process $pid does not end"
}

case "${1:-} $#" in
  "start 3") start "$2" "$3" ;;
  "stop 2") stop "$2" ;;
  *) fail "usage: redis.sh start PORT DIR | stop DIR" ;;
esac
