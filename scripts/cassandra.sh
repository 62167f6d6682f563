#!/usr/bin/env bash
# A real Apache Cassandra (one node) for tests and benches.
#
#   cassandra.sh jars                   fetch the jars, once, into ${HERALD_CACHE:-.cache}/cassandra/lib
#   cassandra.sh start PORT DATADIR     start in the background, return when it serves; data stay in DATADIR
#   cassandra.sh stop DATADIR           stop it and wait for its end
#   cassandra.sh run PORT DATADIR       become the node: this very process, for those who watch over it
#
# Nodes talk to each other on HERALD_CASSANDRA_STORAGE, by default PORT + 1. HERALD_CASSANDRA_JVM replaces
# the options of its JVM, which are as small as tests need: what lives for a minute is not worth the second compiler.
# HERALD_CASSANDRA_LASTS=true: its tables, too, are there after it was killed; each takes longer to make.
# The file HERALD_CASSANDRA_YAML adds to its configuration, and replaces what stands there already.
# Needs a JDK 17 and Maven.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
name=cassandra
files=$root/scripts/cassandra
lib=${HERALD_CACHE:-$root/.cache}/cassandra/lib
. "$root/scripts/jvm.sh"

prepare() { # PORT DATADIR
  need java openjdk-17-jre-headless
  jars
  mkdir -p "$2"
  sed -e "s#@PORT@#$1#g" -e "s#@STORAGE@#${HERALD_CASSANDRA_STORAGE:-$(($1 + 1))}#g" \
    -e "s#@DATA@#$2#g" "$files/cassandra.yaml" >"$2/cassandra.yaml"
  [ -z "${HERALD_CASSANDRA_YAML:-}" ] || cat "$HERALD_CASSANDRA_YAML" >>"$2/cassandra.yaml"
}

run() { # PORT DATADIR
  prepare "$1" "$2"
  echo $$ >"$2/pid"
  # The last four: one node has nobody to wait for, and its tables come and go.
  exec java ${HERALD_CASSANDRA_JVM:--Xms256m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1} \
    -XX:MaxDirectMemorySize=256m -XX:+ExitOnOutOfMemoryError \
    @"$files/jvm.args" -javaagent:"$lib/jamm-0.4.0.jar" \
    -Dcassandra.config="file://$2/cassandra.yaml" -Dcassandra.storagedir="$2" \
    -Dlogback.configurationFile="$files/logback.xml" -Dcassandra-foreground=yes \
    -Dcassandra.skip_wait_for_gossip_to_settle=0 -Dcassandra.ring_delay_ms=0 \
    -Dcassandra.test.flush_local_schema_changes="${HERALD_CASSANDRA_LASTS:-false}" -Dcassandra.superuser_setup_delay_ms=0 \
    -cp "$lib/*" org.apache.cassandra.service.CassandraDaemon >>"$2/node.log" 2>&1 </dev/null
}

start() { # PORT DATADIR
  prepare "$1" "$2"
  : >"$2/node.log"
  setsid nohup "$0" run "$1" "$2" >"$2/start.log" 2>&1 </dev/null &
  await $! "$2/node.log" 'Starting listening for CQL clients' "$2/start.log"
}

case "${1:-} $#" in
"jars 1") jars ;;
"start 3") start "$2" "$(absolute "$3")" ;;
"run 3") run "$2" "$(absolute "$3")" ;;
"stop 2") dir=$(absolute "$2") && stop "$dir" "$dir/cassandra.yaml" ;;
*) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac
