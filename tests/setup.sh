#!/usr/bin/env bash
# Installs what the tests need and the machine lacks; without the right to, says what to install.
set -euo pipefail

missing=()
need() { # need PROGRAM PACKAGE
    command -v "$1" >/dev/null || missing+=("$2")
}
need java openjdk-17-jre-headless
need mvn maven
need chromium chromium
need chromedriver chromium-driver
need npm npm     # the client module's own tests
need g++ g++     # librdkafka
need make make
((${#missing[@]})) || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
    echo "the tests need programs that are not installed; as root: apt-get install ${missing[*]}" >&2
    exit 1
fi
