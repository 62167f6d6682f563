#!/usr/bin/env bash
# A fleet on this machine until Ctrl-C: Redis, Kafka with its topics, one dispatcher, two gateways, each
# process with its own config file under DIR. Nothing here listens beyond loopback.
set -euo pipefail
cd "$(dirname "$0")/.."
export HERALD_CACHE=${HERALD_CACHE:-$PWD/.cache}
herald=${HERALD_BIN:-target/release/herald}
dir=${FLEET_DIR:-$HERALD_CACHE/fleet}
redis_port=16379 kafka_port=19092
mkdir -p "$dir"
children=()

stop() {
  trap - EXIT INT TERM
  echo "stopping"
  for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
  for child in "${children[@]}"; do wait "$child" 2>/dev/null || true; done
  scripts/kafka.sh stop "$dir/kafka" || true
  scripts/redis.sh stop "$dir/redis" || true
}
trap stop EXIT INT TERM

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
listen = "127.0.0.1:8090"
admin_key_file = "$dir/admin.key"

[store]
path = "$dir/store"

[grpc]
listen = "127.0.0.1:9251"
secret_file = "$dir/grpc.secret"

[admin]
listen = "127.0.0.1:9151"
CONFIG

for n in 1 2; do
  cat >"$dir/gateway-$n.toml" <<CONFIG
$shared
[gateway]
id = "gw-$n"
listen = "127.0.0.1:$((8079 + n))"
cores = 1
pin = false

[auth]
keys = [{ algorithm = "HS256", key_file = "$dir/token.key" }]

[dispatchers]
addresses = ["127.0.0.1:9251"]

[grpc]
listen = "127.0.0.1:$((9249 + n))"
secret_file = "$dir/grpc.secret"

[admin]
listen = "127.0.0.1:$((9159 + n))"

[drain]
grace_ms = 0
window_ms = 1000
CONFIG
done

scripts/redis.sh start "$redis_port" "$dir/redis"
scripts/kafka.sh start "$kafka_port" "$dir/kafka"
"$herald" ctl topics --apply --config "$dir/dispatcher.toml"

"$herald" dispatcher --config "$dir/dispatcher.toml" & children+=($!)
for n in 1 2; do "$herald" gateway --config "$dir/gateway-$n.toml" & children+=($!); done

for port in 9151 9160 9161; do
  until curl -fsS -o /dev/null "http://127.0.0.1:$port/readyz" 2>/dev/null; do
    for child in "${children[@]}"; do kill -0 "$child" || exit 1; done
    sleep 0.2
  done
done

cat <<READY

The fleet is up. Its files are in $dir.
  clients     ws://127.0.0.1:8080/ws/notifications and :8081, token by
              $herald ctl token --user 42 --secret-file $dir/token.key
  send        $herald ctl --url http://127.0.0.1:8090 --api-key-file $dir/admin.key send --user 42 --title Hello
  status      $herald ctl --url http://127.0.0.1:8090 --api-key-file $dir/admin.key status
  metrics     http://127.0.0.1:9151/metrics (dispatcher), :9160 and :9161 (gateways)
Ctrl-C stops it.
READY
wait -n "${children[@]}"
