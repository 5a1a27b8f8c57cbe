#!/bin/bash
# Whether the role of this container is alive: asks /healthz at the port of EMOSTREAM_ADMIN. Bash asks, so
# that the image needs no program for it.
set -euo pipefail

port=${EMOSTREAM_ADMIN##*:}
# Only one-shot commands have no administrator.
[ "$port" = off ] && exit 0

exec 3<>"/dev/tcp/127.0.0.1/$port"
printf 'GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n' >&3
answer=$(cat <&3)
case $answer in
# Who speaks TLS says so to those who do not, and is as alive.
"HTTP/1.1 200 "* | *"this address speaks TLS"*) ;;
*)
    echo "${answer:-no answer}"
    exit 1
    ;;
esac
