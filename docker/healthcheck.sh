#!/bin/bash
# Checks whether the role of this container is alive: requests /healthz at the port of EMOSTREAM_ADMIN. It uses bash, so
# that the image needs no HTTP client.
set -euo pipefail

port=${EMOSTREAM_ADMIN##*:}
# Only one-shot commands have no admin address.
[ "$port" = off ] && exit 0

exec 3<>"/dev/tcp/127.0.0.1/$port"
printf 'GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n' >&3
answer=$(cat <&3)
case $answer in
# With TLS the response to a request without TLS is this error, and the role is alive, too.
"HTTP/1.1 200 "* | *"this address requires TLS"*) ;;
*)
    echo "${answer:-no answer}"
    exit 1
    ;;
esac
