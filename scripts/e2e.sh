#!/usr/bin/env bash
# The end-to-end tests, several files at a time: most of what they do is wait, for leases to end and shards to
# be free. Prints each file's time, what its tests counted, and all that a failing one said. One that hangs fails
# after 15 min.
set -euo pipefail
cd "$(dirname "$0")/.."
at_once=${HERALD_TEST_AT_ONCE:-2}
said=$(mktemp -d)
trap 'rm -rf "$said"' EXIT

# One line per file of tests: the folder of its package, and its binary.
list() {
  cargo test --quiet --workspace --test '*' --no-run --message-format=json |
    python3 -c '
import json, os, sys
for line in sys.stdin:
    built = json.loads(line)
    if built.get("executable") and built["target"]["kind"] == ["test"]:
        print(os.path.dirname(built["manifest_path"]), built["executable"])'
}

run() {
  local folder=$1 binary=$2 start=$SECONDS name
  name=$(basename "$binary" | sed 's/-[0-9a-f]*$//')
  if (cd "$folder" && timeout --kill-after=10 900 "$binary" --quiet --show-output) >"$said/$name" 2>&1 </dev/null; then
    printf '%5ds  %s\n' $((SECONDS - start)) "$name"
    # In one write, for others print too.
    printf '%s' "$(awk '/^---- .* stdout ----$/ { on = 1; next } /^successes:$/ { on = 0 }
      on && NF { print "           " $0 }' "$said/$name" | cut -c -200)" | sed '$a\'
  else
    printf '%5ds  %s  FAILED\n' $((SECONDS - start)) "$name"
    cat "$said/$name"
    return 1
  fi
}
export -f run
export said

# The slow ones first, so that none is left alone at the end. Once one fails, no other is begun.
list | sort -k2 >"$said/.all"
slow='/(chaos|ownership|degraded|deploy|fleet|readiness|store)-'
{ grep -E "$slow" "$said/.all" || true; grep -vE "$slow" "$said/.all" || true; } |
  xargs -P "$at_once" -n 2 bash -c 'run "$@" || exit 255' run
