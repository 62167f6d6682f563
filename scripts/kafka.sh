#!/usr/bin/env bash
# A real Apache Kafka broker (one node, KRaft) for tests and `make fleet`.
#
#   kafka.sh jars                   fetch the jars, once, into ${HERALD_CACHE:-.cache}/kafka/lib
#   kafka.sh start PORT DATADIR     start in the background, return when it serves; data stay in DATADIR
#   kafka.sh stop DATADIR           stop it and wait for its end
#   kafka.sh run PORT DATADIR       become the broker: this very process, for those who watch over it
#
# The controller listens on HERALD_KAFKA_CONTROLLER, by default PORT + 1. The file HERALD_KAFKA_PROPERTIES
# adds to the properties or overrides them; HERALD_KAFKA_SCRAM ("name=N,password=P") is a user that the data
# directory is made with. Needs a JDK 17 and Maven.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
files=$root/scripts/kafka
lib=${HERALD_CACHE:-$root/.cache}/kafka/lib

fail() { echo "kafka.sh: $*" >&2; exit 1; }

need() { command -v "$1" >/dev/null || fail "$1 is missing: apt-get install $2"; }

# Several test binaries may ask at once; a cut-off download must not pass for a whole one.
jars() {
  [ -f "$lib/complete" ] && return
  need mvn maven
  mkdir -p "$lib"
  (
    flock 9
    [ -f "$lib/complete" ] && exit
    mvn -q -B -f "$files/pom.xml" dependency:copy-dependencies \
      -DoutputDirectory="$lib" -DincludeScope=runtime >&2
    touch "$lib/complete"
  ) 9>"$lib/.lock"
}

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
  exec java -Xms64m -Xmx256m -XX:+UseSerialGC -XX:MaxDirectMemorySize=128m \
    -Dlog4j2.configurationFile="$files/log4j2.properties" \
    -cp "$lib/*" kafka.Kafka "$2/server.properties" >>"$2/broker.log" 2>&1 </dev/null
}

start() { # PORT DATADIR
  prepare "$1" "$2"
  : >"$2/broker.log"
  setsid nohup "$0" run "$1" "$2" >"$2/start.log" 2>&1 </dev/null &
  local pid=$! tenths
  for ((tenths = 0; tenths < 900; tenths++)); do
    grep -q 'Kafka Server started' "$2/broker.log" && return
    kill -0 "$pid" 2>/dev/null || fail "the broker ended: $(tail -5 "$2/start.log" "$2/broker.log")"
    sleep 0.1
  done
  kill "$pid"
  fail "the broker did not start within 90 s: see $2/broker.log"
}

stop() { # DATADIR
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) || return 0
  # The number may belong to somebody else by now.
  if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$1/server.properties"; then
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
  fi
  rm -f "$1/pid"
}

# The broker reads its paths from another directory than the caller's.
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }

case "${1:-} $#" in
"jars 1") jars ;;
"start 3") start "$2" "$(absolute "$3")" ;;
"run 3") run "$2" "$(absolute "$3")" ;;
"stop 2") stop "$(absolute "$2")" ;;
*) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac
