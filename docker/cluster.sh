#!/usr/bin/env bash
# The cluster of docker/compose.yaml without Docker: each role is a process on this machine, with its own Kafka (by
# Maven) and the same proxy. Ctrl-C stops everything.
#
#   cluster.sh             start it; processes that end or are killed are restarted, as by Docker
#   cluster.sh commands    print the commands without starting them
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

# The session timeout is longer than in tests, because a broker on a busy machine may be silent for longer.
export KAFKA_SESSION_TIMEOUT_MS=${KAFKA_SESSION_TIMEOUT_MS:-9000}
# Pause before a restart; without it, a process that cannot start would keep a core busy.
pause_seconds=0.5
# Timeout of the start. It is long enough for two busy cores; usually all roles are ready within some seconds.
ready_seconds=120

fail() {
    echo "cluster.sh: $*" >&2
    exit 1
}

declare -A taken port
free_port() { # free_port NAME: sets port[NAME] to a free port of 127.0.0.1
    local number
    for _ in $(seq 1000); do
        # The port is below the kernel's range of ephemeral ports, so that no outgoing connection uses it.
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

# Calls the command $1 with each role and its flags, in the order in which data flows. It has one relay more than
# compose.yaml, below the others, as in a deeper tree.
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

listens() { # listens ADDRESS: whether a process listens on the address
    local host=${1%:*}
    case $host in '*' | 0.0.0.0 | '') host=127.0.0.1 ;; esac
    (exec 8<>"/dev/tcp/$host/${1##*:}") 2>/dev/null
}
! listens "$listen" || fail "$listen is in use; stop the process that listens on it, or set CLUSTER_LISTEN to another address"
[ -x "$emostream" ] || fail "$emostream is missing; build it with: make build"
command -v haproxy >/dev/null || fail "haproxy is missing; install it with: apt-get install haproxy"

# Restarts a process until SIGTERM. Runs in a subshell. The process has its own session, so that Ctrl-C reaches only this
# script, which stops all processes in the right order.
keep() { # keep NAME COMMAND…
    local name=$1 child='' stopping='' code
    shift
    trap 'stopping=yes; [ -z "$child" ] || kill "$child" 2>/dev/null || true' TERM
    trap '' INT
    while [ -z "$stopping" ]; do
        setsid "$@" >>"$dir/$name.log" 2>&1 </dev/null &
        child=$!
        # The file is renamed atomically, so that a reader gets the previous pid or this one, never a part of it.
        echo "$child" >"$dir/$name.pid.new"
        mv "$dir/$name.pid.new" "$dir/$name.pid"
        # SIGTERM may have arrived before `child` was set.
        [ -z "$stopping" ] || kill "$child" 2>/dev/null || true
        # A signal to this shell interrupts the wait, not the child.
        while :; do
            code=0
            # This command suppresses the shell's message about killed jobs.
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
        64 | 78) # A restart would not help.
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

# The roles stop in the order in which data flows, so that accepted reactions are in the log before anything else ends.
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

ready() { # ready PORT: whether the role with this admin port is ready
    local answer
    { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
    printf 'GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n' >&3
    IFS= read -r -t 2 -u 3 answer || answer=''
    exec 3>&-
    [[ $answer == "HTTP/1.1 200 "* ]]
}

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
# These commands remove files and processes of an earlier run that was killed.
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

EmoStream runs as a cluster of processes on Kafka at $kafka. Open http://$listen/, or send it reactions:

  $emostream load --url http://$listen --rate 2000/s --stored --verify

Kill any process: it is restarted, and no count changes:  kill -9 \$(cat $dir/dataflow-0.pid)
Logs and pids are in $dir. Ctrl-C stops everything.
SAY
# The script waits for a signal, which is also sent if a role cannot continue.
wait
