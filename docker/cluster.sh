#!/usr/bin/env bash
# The cluster of docker/compose.yaml without Docker: every role a process of its own on this machine, with a
# Kafka of its own (by Maven) and the same proxy. Ctrl-C ends all of it.
#
#   cluster.sh             start it; what ends or is killed is started again, as Docker would
#   cluster.sh commands    print what would be started
#
# CLUSTER_LISTEN: the one address for everything, 127.0.0.1:8080 by default
# CLUSTER_DIR:    logs and pids, NAME.log and NAME.pid: target/cluster by default
# EMOSTREAM:      the program, target/release/emostream by default
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
kafka_sh=$root/tests/kafka/kafka.sh
emostream=${EMOSTREAM:-$root/target/release/emostream}
dir=${CLUSTER_DIR:-$root/target/cluster}
listen=${CLUSTER_LISTEN:-127.0.0.1:8080}

# A broker on a busy machine is silent for longer than one of a test of its own.
export KAFKA_SESSION_TIMEOUT_MS=${KAFKA_SESSION_TIMEOUT_MS:-9000}
# Between an end and the next start: not at once, or what cannot start would keep a core busy.
pause_seconds=0.5
# For two busy cores; all are ready in some seconds.
ready_seconds=120

fail() {
    echo "cluster.sh: $*" >&2
    exit 1
}

declare -A taken port
free_port() { # free_port NAME: a port of 127.0.0.1 that nobody has, in port[NAME]
    local number
    for _ in $(seq 1000); do
        # Below the range the kernel takes client ports from.
        number=$((20000 + RANDOM % 12000))
        [ -n "${taken[$number]-}" ] && continue
        if ! (exec 8<>"/dev/tcp/127.0.0.1/$number") 2>/dev/null; then
            taken[$number]=yes
            port[$1]=$number
            return
        fi
    done
    fail "no free port found"
}

# The roles with their flags, each given to the command $1, in the order of the data. One relay more than in
# compose.yaml hangs below the others, as a tree would go on.
roles() { # roles COMMAND…
    local hosts=127.0.0.1:${port[timely-0]},127.0.0.1:${port[timely-1]}
    local n
    for n in 0 1; do
        "$@" "ingest-$n" ingest --kafka "$kafka" --listen "127.0.0.1:${port[ingest-$n]}" \
            --admin "127.0.0.1:${port[ingest-$n-admin]}"
    done
    for n in 0 1; do
        "$@" "dataflow-$n" dataflow --kafka "$kafka" --admin "127.0.0.1:${port[dataflow-$n-admin]}" \
            -w 1 -n 2 -p "$n" --hosts "$hosts"
    done
    "$@" publisher publisher --kafka "$kafka" --listen "127.0.0.1:${port[publisher]}" \
        --admin "127.0.0.1:${port[publisher-admin]}" --relay-listen "127.0.0.1:${port[publisher-relays]}"
    for n in 0 1; do
        "$@" "relay-$n" relay --upstream "127.0.0.1:${port[publisher-relays]}" \
            --listen "127.0.0.1:${port[relay-$n]}" --admin "127.0.0.1:${port[relay-$n-admin]}" \
            --relay-listen "127.0.0.1:${port[relay-$n-relays]}"
    done
    "$@" relay-2 relay --upstream "127.0.0.1:${port[relay-0-relays]},127.0.0.1:${port[relay-1-relays]}" \
        --listen "127.0.0.1:${port[relay-2]}" --admin "127.0.0.1:${port[relay-2-admin]}"
}
names=(ingest-0 ingest-1 dataflow-0 dataflow-1 publisher relay-0 relay-1 relay-2)

for name in kafka timely-{0,1} {ingest,relay}-{0,1} relay-2 publisher {relay-0,relay-1,publisher}-relays; do
    free_port "$name"
done
for name in "${names[@]}"; do
    free_port "$name-admin"
done
kafka=127.0.0.1:${port[kafka]}

show() { # show NAME ARGUMENT…
    shift
    echo "emostream $*"
}
if [ "${1-}" = commands ]; then
    show topics topics create --kafka "$kafka" --partitions 8
    roles show
    exit
fi
[ $# -eq 0 ] || fail "'$1' is unknown; write nothing, or: commands"

listens() { # listens ADDRESS: whether somebody does
    local host=${1%:*}
    case $host in '*' | 0.0.0.0 | '') host=127.0.0.1 ;; esac
    (exec 8<>"/dev/tcp/$host/${1##*:}") 2>/dev/null
}
! listens "$listen" || fail "$listen is in use; stop what listens there, or choose another by CLUSTER_LISTEN"
[ -x "$emostream" ] || fail "$emostream is missing; build it with: make build"
command -v haproxy >/dev/null || fail "haproxy is missing; install it with: apt-get install haproxy"

# Keeps a process running until it is told to stop. Runs in a subshell of its own. The process is in a session
# of its own, so that Ctrl-C reaches this script alone, which ends all in the right order.
keep() { # keep NAME COMMAND…
    local name=$1 child='' stopping='' code
    shift
    trap 'stopping=yes; [ -z "$child" ] || kill "$child" 2>/dev/null || true' TERM
    trap '' INT
    while [ -z "$stopping" ]; do
        setsid "$@" >>"$dir/$name.log" 2>&1 </dev/null &
        child=$!
        # Whoever reads it at this moment finds the former one or this one, never half of it.
        echo "$child" >"$dir/$name.pid.new"
        mv "$dir/$name.pid.new" "$dir/$name.pid"
        # A stop that came before there was anybody to tell.
        [ -z "$stopping" ] || kill "$child" 2>/dev/null || true
        # A signal to this shell interrupts the wait, not the child.
        while :; do
            code=0
            # Without the shell's own word about who was killed.
            { wait "$child" || code=$?; } 2>/dev/null
            kill -0 "$child" 2>/dev/null || break
        done
        [ -z "$stopping" ] || break
        if ((code > 128)); then
            echo "$name was killed by signal $((code - 128))" >&2
        else
            echo "$name ended with $code: $(tail -n 1 "$dir/$name.log")" >&2
        fi
        case $code in
        64 | 78) # Starting it again would not help.
            echo "$code" >"$dir/failed"
            kill -TERM $$
            return
            ;;
        esac
        sleep "$pause_seconds" &
        wait $! || true
    done
}

declare -A keepers
start() { # start NAME COMMAND…
    keep "$@" &
    keepers[$1]=$!
}
begin() { # begin NAME ARGUMENT…
    local name=$1
    shift
    start "$name" "$emostream" "$@"
}

stop() { # stop NAME…
    local name
    for name in "$@"; do
        kill "${keepers[$name]}" 2>/dev/null || true
    done
    for name in "$@"; do
        wait "${keepers[$name]}" 2>/dev/null || true
        unset "keepers[$name]"
    done
}

# In the order of the data: what was accepted is in the log before anything else ends.
end() {
    local code=$?
    trap - EXIT
    trap '' INT TERM HUP
    [ ! -e "$dir/failed" ] || code=$(cat "$dir/failed")
    echo "ending" >&2
    local first=() name
    for name in ingest-0 ingest-1; do
        [ -z "${keepers[$name]-}" ] || first+=("$name")
    done
    stop "${first[@]}"
    stop "${!keepers[@]}"
    "$kafka_sh" stop "$dir/kafka"
    exit "$code"
}

ready() { # ready PORT: whether the role with this port for its administrator is
    local answer
    { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
    printf 'GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n' >&3
    IFS= read -r -t 2 -u 3 answer || answer=''
    exec 3>&-
    [[ $answer == "HTTP/1.1 200 "* ]]
}

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
# What a run that was killed may have left.
"$kafka_sh" stop "$dir/kafka"
rm -rf "$dir/kafka" "$dir/failed" "$dir"/*.log "$dir"/*.pid "$dir"/*.pid.new
trap end EXIT
trap 'exit 0' INT TERM HUP

echo "Kafka starts at $kafka" >&2
"$kafka_sh" start "$dir/kafka" "${port[kafka]}"
"$emostream" topics create --kafka "$kafka" --partitions 8 >>"$dir/topics.log"
export PROXY_LISTEN=$listen
for name in ingest relay; do
    for n in 0 1; do
        variable=${name^^}_$n
        export "$variable=127.0.0.1:${port[$name-$n]}" "${variable}_ADMIN=${port[$name-$n-admin]}"
    done
done
start proxy haproxy -db -f "$here/proxy/haproxy.cfg"
roles begin

deadline=$((SECONDS + ready_seconds))
until_ready() { # until_ready NAME COMMAND…
    local name=$1
    shift
    until "$@"; do
        ((SECONDS < deadline)) || fail "$name is not ready after $ready_seconds s; its log is $dir/$name.log"
        sleep 0.1 &
        wait $! || true
    done
}
for name in "${names[@]}"; do
    until_ready "$name" ready "${port[$name-admin]}"
    printf '  %-10s metrics at http://127.0.0.1:%s/metrics\n' "$name" "${port[$name-admin]}"
done
until_ready proxy listens "$listen"
cat <<SAY

EmoStream runs as a cluster of processes on Kafka at $kafka. Open http://$listen/, or send it a crowd:

  $emostream load --url http://$listen --rate 2000/s --stored --verify

Kill any one, it comes back, and no count changes:  kill -9 \$(cat $dir/dataflow-0.pid)
Logs and pids are in $dir. Ctrl-C ends all.
SAY
# Until a signal, which also comes when a role cannot go on.
wait
