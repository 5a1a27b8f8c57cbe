#!/usr/bin/env bash
# Creates the two base images of docker/Dockerfile, for hosts that cannot pull images: emostream-base, a Debian, and
# emostream-builder, the same with a C++ compiler, perl and the host's Rust. Requires root and debootstrap.
#
#   docker/base.sh && make image BASE=emostream-base BUILDER=emostream-builder
#
# If no Docker daemon runs, the one of Debian's docker.io works without a network of its own:
#
#   dockerd --iptables=false --bridge=none &
#   make image … IMAGE_FLAGS="--network host"
#   docker run --rm --network host --read-only --tmpfs /data:uid=10001 emostream up
set -euo pipefail

suite=bookworm
mirror=${1-} # debootstrap's own by default

fail() {
    echo "base.sh: $*" >&2
    exit 1
}
[ "$(id -u)" = 0 ] || fail "debootstrap needs root"
command -v debootstrap >/dev/null || fail "debootstrap is missing; install it with: apt-get install debootstrap"
command -v docker >/dev/null || fail "docker is missing; install it with: apt-get install docker.io"
sysroot=$(rustc --print sysroot) || fail "rustc is missing; the builder's Rust is this machine's"

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

system() { # system NAME PACKAGES
    debootstrap --variant=minbase --include="$2" "$suite" "$dir/$1" $mirror >"$dir/log" 2>&1 || {
        tail -n 20 "$dir/log" >&2
        fail "debootstrap failed (see above)"
    }
    # The unpacked packages are not needed in the image.
    rm -rf "$dir/$1"/var/cache/apt/archives/*.deb "$dir/$1"/var/lib/apt/lists/*
}

image() { # image NAME [CHANGE]
    tar -C "$dir/$1" -c . | docker import ${2:+--change "$2"} - "emostream-$1"
}

system base ca-certificates
image base
system builder ca-certificates,gcc,g++,make,perl,libc6-dev
mkdir "$dir/builder/opt/rust"
# The builder trusts the certificates that this host trusts, such as that of a company's proxy.
cp /etc/ssl/certs/ca-certificates.crt "$dir/builder/etc/ssl/certs/ca-certificates.crt"
tar -C "$sysroot" --exclude ./share --exclude ./lib/rustlib/src -c . | tar -C "$dir/builder/opt/rust" -x
image builder "ENV PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
