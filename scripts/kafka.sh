#!/usr/bin/env bash
# A real Apache Kafka broker (one node, KRaft) for tests and `make fleet`.
#
#   kafka.sh jars                   fetch the jars, once, into ${HERALD_CACHE:-.cache}/kafka/lib
#   kafka.sh start PORT DATADIR     start in the background, return when it serves; data stay in DATADIR
#   kafka.sh stop DATADIR           stop it and wait for its end
#   kafka.sh run PORT DATADIR       become the broker: this very process, for those who watch over it
#
# The controller listens on HERALD_KAFKA_CONTROLLER, by default PORT + 1. The file HERALD_KAFKA_PROPERTIES
# adds to the properties or overrides them; HERALD_KAFKA_JVM replaces the options of its JVM, which are as small
# as tests need; HERALD_KAFKA_SCRAM ("name=N,password=P") is a user that the data
# directory is made with. Needs a JDK 17 and Maven.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
name=kafka
files=$root/scripts/kafka
lib=${HERALD_CACHE:-$root/.cache}/kafka/lib
. "$root/scripts/jvm.sh"

prepare() { # PORT DATADIR
  need java openjdk-17-jre-headless
  jars
  mkdir -p "$2"
  local properties=$2/server.properties
  sed -e "s#@PORT@#$1#g" -e "s#@CONTROLLER@#${HERALD_KAFKA_CONTROLLER:-$(($1 + 1))}#g" \
    -e "s#@DATA@#$2#g" "$files/server.properties" >"$properties"
  [ -z "${HERALD_KAFKA_PROPERTIES:-}" ] || cat "$HERALD_KAFKA_PROPERTIES" >>"$properties"
  [ -f "$2/logs/meta.properties" ] && return
  local id user=()
  [ -z "${HERALD_KAFKA_SCRAM:-}" ] || user=(--add-scram "SCRAM-SHA-512=[$HERALD_KAFKA_SCRAM]")
  id=$(head -c16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=')
  # A random id may begin with a dash, which the tool would take for an option.
  java -cp "$lib/*" kafka.tools.StorageTool format "--cluster-id=$id" -c "$properties" "${user[@]}" \
    >"$2/format.log" 2>&1 || fail "can't format $2: $(tail -3 "$2/format.log")"
}

run() { # PORT DATADIR
  prepare "$1" "$2"
  echo $$ >"$2/pid"
  exec java ${HERALD_KAFKA_JVM:--Xms64m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:MaxDirectMemorySize=128m} \
    -Dlog4j2.configurationFile="$files/log4j2.properties" \
    -cp "$lib/*" kafka.Kafka "$2/server.properties" >>"$2/broker.log" 2>&1 </dev/null
}

start() { # PORT DATADIR
  prepare "$1" "$2"
  : >"$2/broker.log"
  setsid nohup "$0" run "$1" "$2" >"$2/start.log" 2>&1 </dev/null &
  await $! "$2/broker.log" 'Kafka Server started' "$2/start.log"
}

case "${1:-} $#" in
"jars 1") jars ;;
"start 3") start "$2" "$(absolute "$3")" ;;
"run 3") run "$2" "$(absolute "$3")" ;;
"stop 2") dir=$(absolute "$2") && stop "$dir" "$dir/server.properties" ;;
*) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac
