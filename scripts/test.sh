#!/usr/bin/env bash
# Every check, in stages, each with its time. The first failing stage ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."
export HERALD_CACHE=${HERALD_CACHE:-$PWD/.cache}
# Every Herald process of the tests keeps its log here, for the last stage.
HERALD_TEST_LOGS=$(mktemp -d)
export HERALD_TEST_LOGS
report=()
trap 'printf "\n%s\n" "stages:" "${report[@]}"' EXIT

stage() {
  local name=$1 start=$SECONDS
  shift
  printf '\n── %s\n' "$name"
  if "$@"; then report+=("  $(printf '%5ds  %s' $((SECONDS - start)) "$name")"); else
    report+=("  $(printf '%5ds  %s  FAILED' $((SECONDS - start)) "$name")")
    exit 1
  fi
}

# Both mostly wait, and share nothing but the binary: side by side they take as long as the longer one.
beside_each_other() {
  local browser=$(mktemp) pid failed=0
  scripts/browser.sh >"$browser" 2>&1 &
  pid=$!
  scripts/e2e.sh || failed=1
  wait "$pid" || failed=1
  printf '\n── browser\n'
  cat "$browser"
  rm "$browser"
  return "$failed"
}

stage install scripts/install.sh test
stage format cargo fmt --all --check
stage lints cargo clippy --quiet --workspace --all-targets -- -D warnings
stage build cargo build --quiet --workspace --bins
stage unit cargo test --quiet --workspace --lib --bins
stage 'end to end, browser' beside_each_other
stage conformance scripts/conformance.sh
stage 'no secret in any log' scripts/check-logs.sh "$HERALD_TEST_LOGS"
rm -rf "$HERALD_TEST_LOGS"
