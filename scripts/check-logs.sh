#!/usr/bin/env bash
# No token and no secret stands in any log of a test run.
set -euo pipefail
logs=${1:?directory of logs}
count=$(find "$logs" -name '*.log' -size +0 | wc -l)
[ "$count" -gt 0 ] || { echo "no log was kept in $logs"; exit 1; }
# A JWT of any algorithm begins with this; the rest are the secrets of tests/testbed/src/fleet.rs.
if grep -rnE 'eyJ[A-Za-z0-9_-]{10,}\.|the fleet.s token secret|the-fleets-(admin-key|grpc-secret)' "$logs"; then
  echo "a secret is in a log"
  exit 1
fi
echo "$count logs, no token and no secret in them"
