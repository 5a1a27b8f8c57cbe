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
need perl perl     # OpenSSL for librdkafka
need haproxy haproxy         # the cluster's one address
need promtool prometheus     # its alerts
need faketime faketime       # a clock that is wrong
need python3 python3
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ "${1:-}" = pictures ]; then # make screenshots
    need pngquant pngquant
    fc-list 2>/dev/null | grep -qi emoji || missing+=(fonts-noto-color-emoji)
fi

install() {
    export DEBIAN_FRONTEND=noninteractive
    # Servers among them are for the tests to start: no port is taken by their packages' own services.
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
        echo "the tests need programs that are not installed; as root: apt-get install ${missing[*]}" >&2
        exit 1
    fi
fi

# Validators that carry the schemas of Compose and of Kubernetes.
validators=(check-jsonschema==0.39.0 kubernetes-validate==1.37.0)
checks=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/target/checks
stamp=$checks/installed-$(printf '%s-' "${validators[@]}")
if [ ! -e "$stamp" ]; then
    python3 -m venv --clear "$checks"
    "$checks/bin/pip" install -q --disable-pip-version-check "${validators[@]}"
    touch "$stamp"
fi
