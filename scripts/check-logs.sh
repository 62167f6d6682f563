#!/usr/bin/env bash
# No token and no secret stands in any log of a test run.
set -euo pipefail
logs=${1:?directory of logs}
count=$(find "$logs" -name '*.log' -size +0 | wc -l)
[ "$count" -gt 0 ] || { echo "no log was kept in $logs"; exit 1; }
# The tests name each secret they have a process use, one a line.
secrets=$logs/secrets
[ -s "$secrets" ] || { echo "no secret was named in $secrets: nothing to look for"; exit 1; }
logs_with() { find "$logs" -name '*.log' -exec grep -Hn "$@" {} + || true; }
told=$(
  logs_with -Ff "$secrets"
  # A JWT of any algorithm begins so; an API key is 256 random bits, hardly without a capital.
  logs_with -P 'eyJ[A-Za-z0-9_-]{10,}\.|herald_(?=[a-z0-9_-]*[A-Z])[A-Za-z0-9_-]{43}'
)
[ -z "$told" ] || { cut -c -300 <<<"$told"; echo "a secret is in a log"; exit 1; }
echo "$count logs, no token in them and none of $(sort -u "$secrets" | wc -l) secrets"
