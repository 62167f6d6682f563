#!/usr/bin/env bash
# A fleet on this machine until Ctrl-C: Redis, Kafka with its topics, one dispatcher, two gateways, each
# process with its own config file and log under DIR. Nothing here listens beyond loopback.
# FLEET_OFFSET is added to every port, for a second fleet on the same machine (with a FLEET_DIR of its own).
set -euo pipefail
cd "$(dirname "$0")/.."
export HERALD_CACHE=${HERALD_CACHE:-$PWD/.cache}
herald=${HERALD_BIN:-target/release/herald}
dir=${FLEET_DIR:-$HERALD_CACHE/fleet}
port() { echo $((${FLEET_OFFSET:-0} + $1)); }
redis_port=$(port 16379) kafka_port=$(port 19092)
http=$(port 8090) dispatcher_admin=$(port 9151) dispatcher_grpc=$(port 9251)
clients=(0 "$(port 8080)" "$(port 8081)")
admins=(0 "$(port 9160)" "$(port 9161)")
grpcs=(0 "$(port 9260)" "$(port 9261)")
mkdir -p "$dir"
children=()

fail() { echo "fleet.sh: $*" >&2; exit 1; }

# Before anything is started: a part that ends half-way is harder to understand.
for taken in "$redis_port" "$kafka_port" "$((kafka_port + 1))" "$http" "$dispatcher_admin" "$dispatcher_grpc" \
  "${clients[@]:1}" "${admins[@]:1}" "${grpcs[@]:1}"; do
  (exec 3<>"/dev/tcp/127.0.0.1/$taken") 2>/dev/null &&
    fail "port $taken is taken (does a fleet run already?): see ss -ltnp, or set FLEET_OFFSET and FLEET_DIR"
done

# start NAME COMMAND CONFIG: apart from the terminal's group, where a Ctrl-C would reach it beside our own signal
# and count as a second one.
start() {
  setsid "$herald" "$2" --config "$dir/$3" >"$dir/$1.log" 2>&1 </dev/null & children+=($!)
}

stop() {
  trap - EXIT INT TERM
  echo "stopping"
  # Gateways first: the dispatcher takes their last outcomes.
  for child in "${children[@]:1}"; do kill "$child" 2>/dev/null || true; done
  for child in "${children[@]:1}"; do wait "$child" 2>/dev/null || true; done
  for child in "${children[@]::1}"; do kill "$child" 2>/dev/null && wait "$child" || true; done
  scripts/kafka.sh stop "$dir/kafka" || true
  scripts/redis.sh stop "$dir/redis" || true
}
trap stop EXIT
trap 'stop; exit 0' INT TERM

secret() { [ -s "$dir/$1" ] || (umask 077; head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$dir/$1"); }
secret token.key
secret admin.key
secret grpc.secret

shared="[redis]
url = \"redis://127.0.0.1:$redis_port\"

[kafka]
brokers = \"127.0.0.1:$kafka_port\"
replication = 1
min_insync_replicas = 1
"

cat >"$dir/dispatcher.toml" <<CONFIG
$shared
[http]
listen = "127.0.0.1:$http"
admin_key_file = "$dir/admin.key"

[store]
path = "$dir/store"

[spool]
path = "$dir/spool"

[grpc]
listen = "127.0.0.1:$dispatcher_grpc"
secret_file = "$dir/grpc.secret"

[admin]
listen = "127.0.0.1:$dispatcher_admin"
CONFIG

for n in 1 2; do
  cat >"$dir/gateway-$n.toml" <<CONFIG
$shared
[gateway]
id = "gw-$n"
listen = "127.0.0.1:${clients[n]}"
cores = 1
pin = false

[auth]
keys = [{ algorithm = "HS256", key_file = "$dir/token.key" }]

[dispatchers]
addresses = ["127.0.0.1:$dispatcher_grpc"]

[grpc]
listen = "127.0.0.1:${grpcs[n]}"
secret_file = "$dir/grpc.secret"

[admin]
listen = "127.0.0.1:${admins[n]}"

[drain]
grace_ms = 0
window_ms = 1000
CONFIG
done

scripts/redis.sh start "$redis_port" "$dir/redis"
scripts/kafka.sh start "$kafka_port" "$dir/kafka"
"$herald" ctl topics --apply --config "$dir/dispatcher.toml"

start dispatcher dispatcher dispatcher.toml
for n in 1 2; do start "gateway-$n" gateway "gateway-$n.toml"; done

for admin in "$dispatcher_admin" "${admins[@]:1}"; do
  until curl -fsS -o /dev/null "http://127.0.0.1:$admin/readyz" 2>/dev/null; do
    for child in "${children[@]}"; do
      kill -0 "$child" 2>/dev/null || { tail -n 2 "$dir"/*.log >&2; fail "a process ended; its last words are above"; }
    done
    sleep 0.2
  done
done

cat <<READY

The fleet is up. Its files and logs are in $dir.
  clients     ws://127.0.0.1:${clients[1]}/ws/notifications and :${clients[2]}, token by
              $herald ctl token --user 42 --secret-file $dir/token.key
  send        $herald ctl --url http://127.0.0.1:$http --api-key-file $dir/admin.key send --user 42 --title Hello
  status      $herald ctl --url http://127.0.0.1:$http --api-key-file $dir/admin.key status
  metrics     http://127.0.0.1:$dispatcher_admin/metrics (dispatcher), :${admins[1]} and :${admins[2]} (gateways)
Ctrl-C stops it.
READY
wait -n "${children[@]}" || true
tail -n 2 "$dir"/*.log >&2
fail "a process ended; its last words are above"
