# Sourced by the scripts of servers that run on a JVM, with the server's `name`, its `files` and where its jars go
# (`lib`).

fail() { echo "$name.sh: $*" >&2; exit 1; }

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

# await PID LOG TEXT START-LOG: returns once TEXT stands in LOG.
await() {
  local tenths
  for ((tenths = 0; tenths < 900; tenths++)); do
    grep -q "$3" "$2" 2>/dev/null && return
    kill -0 "$1" 2>/dev/null || fail "it ended: $(tail -5 "$4" "$2")"
    sleep 0.1
  done
  kill "$1"
  fail "it did not start within 90 s: see $2"
}

# stop DATADIR WORD: the process whose number stands in DATADIR/pid, if WORD is in its command line; its number may
# belong to somebody else by now.
stop() {
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) || return 0
  if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$2"; then
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
  fi
  rm -f "$1/pid"
}

# A server reads its paths from another directory than the caller's.
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }
