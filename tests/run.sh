#!/usr/bin/env bash
# Runs every test in groups, and prints how long each group took. All groups run, also after one has failed; the exit
# code is that of a failure then.
#
#   run.sh [FLAG…]    FLAG: a flag of cargo test, such as --no-fail-fast
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

times=()
failed=0
group() { # group NAME COMMAND…
    local name=$1 begun=$SECONDS
    shift
    "$@" || {
        failed=1
        name+=": failed"
    }
    times+=("$(printf '%5d s  %s' $((SECONDS - begun)) "$name")")
}

group "build" cargo test --workspace --no-run
group "client module" npm --prefix broadcast/web test
group "unit and property tests, simulation" cargo test --workspace --lib --bin emostream "$@"
group "examples in the documentation" cargo test --workspace --doc "$@"
# The system tests wait for processes, brokers and browsers most of their time, so there are two threads a core. They
# are one binary, so a thread that is free takes the next test of any module.
RUST_TEST_THREADS=$((2 * $(nproc))) group "golden cases and system tests" \
    tests/kafka/kafka.sh run cargo test --workspace --test '*' "$@"

printf '%s\n' "" "Time of each group:" "${times[@]}"
exit $failed
