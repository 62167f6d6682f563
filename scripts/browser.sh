#!/usr/bin/env bash
# Drives the console in a real Chromium against a real standalone.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${HERALD_CACHE:-$PWD/.cache}
NODE_PATH="$cache/browser/node_modules" HERALD_BIN=${HERALD_BIN:-target/debug/herald} \
  node --test --test-concurrency=1 tests/browser/*.test.cjs
