#!/usr/bin/env bash
# A real Apache Kafka for the tests: fetched by Maven, one KRaft broker, which is removed afterwards.
# KAFKA_VERSION: the version, by default that of pom.xml; the tests also pass on 3.9.
# KAFKA_ADVERTISED_HOST: the advertised host, 127.0.0.1 by default.
# KAFKA_FILE_KB: maximum kilobytes of a file of the broker; longer writes fail as on a full disk.
# KAFKA_SESSION_TIMEOUT_MS: the session timeout of the broker, 2000 by default; a bench that keeps every core busy needs
# more, or the broker counts as dead.
# KAFKA_LISTENERS="NAME:PORT:ADVERTISED …": a new broker also listens on PORT, and advertises the port ADVERTISED there: a
# proxy's port, if a test cuts off only these clients. NAME is SECOND, SASL_SSL, SSL or MISNAMED.
# KAFKA_SETTINGS=FILE: more settings of a new broker, which override those of this script.
# KAFKA_FORMAT: more arguments of kafka-storage.sh format, such as users of SCRAM.
#
#   kafka.sh fetch                    fetch it into target/kafka/VERSION, once
#   kafka.sh start DIR PORT           start a broker on 127.0.0.1:PORT with its data, log and pid in DIR;
#                                     returns when it responds
#   kafka.sh join DIR PORT OTHER      start one more broker of the cluster whose broker is in OTHER
#   kafka.sh stop DIR                 stop the broker of DIR; no error if it does not run
#   kafka.sh run CMD…                 start one on a free port, run CMD with EMOSTREAM_TEST_KAFKA set,
#                                     always stop it; the exit code is that of CMD
#   kafka.sh topics|acls|configs PORT ARG…
#                                     Kafka's own kafka-topics.sh, kafka-acls.sh or kafka-configs.sh
#   kafka.sh consume PORT TOPIC [ARG…]
#                                     print the records that Kafka's console consumer reads with
#                                     read_committed from the beginning:
#                                     partition, offset, key and value, separated by tabs
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=${KAFKA_VERSION:-$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/pom.xml")}
home=$(cd "$here/../.." && pwd)/target/kafka/$version

# Timeout of the start: a busy machine with two cores needs up to half a minute.
start_seconds=120
stop_seconds=20

fail() {
    echo "kafka.sh: $*" >&2
    exit 1
}

need() { # need PROGRAM PACKAGE
    command -v "$1" >/dev/null || fail "$1 is missing; install it with: apt-get install $2"
}

fetch() {
    need java openjdk-17-jre-headless
    local stamp
    stamp="$home/fetched-$(cksum <"$here/pom.xml" | tr ' ' -)"
    [ -e "$stamp" ] && return
    need mvn maven
    mkdir -p "$home"
    # Two test runs may fetch at the same time.
    exec 9>"$home/lock"
    flock 9
    if [ ! -e "$stamp" ]; then
        rm -rf "$home/libs"
        mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies \
            "-Dkafka.version=$version" "-DoutputDirectory=$home/libs" >"$home/fetch.log" 2>&1 || {
            cat "$home/fetch.log" >&2
            fail "Maven could not fetch Kafka $version (see above)"
        }
        touch "$stamp"
    fi
    exec 9>&-
}

# Runs a program of Kafka to its end, with the log settings and the folder of the caller. A JVM starts with a third
# less CPU time if it maps the classes from the archive of an earlier run (class data sharing). Without an archive, the
# JVM writes one when it ends.
kafka() { # kafka CLASS ARG…
    local code=0 sharing archive
    # Another JVM cannot map the archive, so the time of the `java` program is in the name.
    archive=$home/$1-$(stat -Lc %Y "$(command -v java)").jsa
    if [ -e "$archive" ]; then
        sharing=-XX:SharedArchiveFile=$archive
    else
        sharing=-XX:ArchiveClassesAtExit=$dir/classes.jsa
    fi
    # JVMs would print warnings about the archive to standard output.
    java -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC "$sharing" -Xlog:disable \
        -Dlog4j2.configurationFile="$log_settings" -cp "$home/libs/*" "$@" || code=$?
    [ ! -e "$dir/classes.jsa" ] || mv "$dir/classes.jsa" "$archive"
    return "$code"
}

settings() { # settings DIR PORT CONTROLLER_PORT [join]
    local session_ms=${KAFKA_SESSION_TIMEOUT_MS:-2000}
    local listeners=PLAINTEXT://127.0.0.1:$2 advertised=PLAINTEXT://${KAFKA_ADVERTISED_HOST:-127.0.0.1}:$2
    local listener name at sent_to
    for listener in ${KAFKA_LISTENERS-}; do
        IFS=: read -r name at sent_to <<<"$listener"
        listeners+=,$name://127.0.0.1:$at
        advertised+=,$name://127.0.0.1:$sent_to
    done
    if [ -z "${4-}" ]; then
        cat <<SETTINGS
process.roles=broker,controller
node.id=1
listeners=$listeners,CONTROLLER://127.0.0.1:$3
SETTINGS
    else
        cat <<SETTINGS
process.roles=broker
node.id=$2
listeners=$listeners
SETTINGS
    fi
    cat <<SETTINGS
controller.quorum.voters=1@127.0.0.1:$3
advertised.listeners=$advertised
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECOND:PLAINTEXT,\
SASL_SSL:SASL_SSL,SSL:SSL,MISNAMED:SASL_SSL
controller.listener.names=CONTROLLER
log.dirs=$1/data
num.partitions=1
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=3
group.initial.rebalance.delay.ms=0
# After SIGKILL the broker's old session has to expire before the broker can register again.
broker.session.timeout.ms=$session_ms
# Several heartbeats in a session: by default one is sent every 2 s, so a single late one would move the leaders.
broker.heartbeat.interval.ms=$((session_ms / 10))
SETTINGS
    [ -z "${KAFKA_SETTINGS-}" ] || cat "$KAFKA_SETTINGS"
}

write_log_settings() { # write_log_settings LEVEL > FILE
    cat <<SETTINGS
status = ERROR
appender.err.type = Console
appender.err.name = err
appender.err.target = SYSTEM_ERR
appender.err.layout.type = PatternLayout
appender.err.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = $1
rootLogger.appenderRef.err.ref = err
SETTINGS
}

free_port() {
    local port
    for _ in $(seq 100); do
        # The port is below the kernel's range of ephemeral ports, so that no outgoing connection uses it.
        port=$((20000 + RANDOM % 12000))
        if ! (exec 8<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    fail "no free port found"
}

alive() { # alive DIR: whether the process of DIR/pid runs, and is that broker
    local pid
    pid=$(cat "$1/pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    # Another process may have the same pid by now.
    { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF "kafka.Kafka $1/server.properties"
}

start() { # start DIR PORT [OTHER]
    fetch
    local dir port=$2 other=${3-} deadline format key_set
    mkdir -p "$1"
    dir=$(cd "$1" && pwd)
    alive "$dir" && fail "a broker runs in $dir already"
    log_settings=$dir/log4j2.properties
    write_log_settings INFO >"$log_settings"
    if [ ! -e "$dir/server.properties" ]; then
        if [ -z "$other" ]; then
            cluster_id >"$dir/cluster"
            free_port >"$dir/controller"
        else
            cp "$other/cluster" "$other/controller" "$dir"
        fi
        settings "$dir" "$port" "$(cat "$dir/controller")" ${other:+join} >"$dir/server.properties"
        read -ra format <<<"${KAFKA_FORMAT-}"
        kafka kafka.tools.StorageTool format -t "$(cat "$dir/cluster")" -c "$dir/server.properties" \
            "${format[@]}" >"$dir/format.log" 2>&1 || {
            cat "$dir/format.log" >&2
            fail "Kafka's directory $dir could not be formatted"
        }
    fi
    # Kafka 4 reads the key set of OAUTHBEARER only from URLs that the JVM's properties allow.
    key_set=$(sed -n 's/^sasl.oauthbearer.jwks.endpoint.url=//p' "$dir/server.properties")
    # The broker is not started through a function, since the pid must be the broker's own. The descriptors are closed,
    # so that a pipe of the caller's does not wait for the broker.
    (
        [ -z "${KAFKA_FILE_KB-}" ] || ulimit -f "$KAFKA_FILE_KB"
        exec setsid java -Xmx512m -XX:TieredStopAtLevel=1 -Dlog4j2.configurationFile="$log_settings" \
            "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=$key_set" \
            -cp "$home/libs/*" kafka.Kafka "$dir/server.properties"
    ) >>"$dir/broker.log" 2>&1 </dev/null 3>&- 8>&- 9>&- &
    echo $! >"$dir/pid"
    deadline=$((SECONDS + start_seconds))
    until answers "$dir" "$port"; do
        if ! kill -0 "$(cat "$dir/pid")" 2>/dev/null; then
            tail -n 30 "$dir/broker.log" >&2
            fail "the broker ended while it started (its log: $dir/broker.log)"
        fi
        if ((SECONDS >= deadline)); then
            tail -n 30 "$dir/broker.log" >&2
            stop "$dir"
            fail "the broker did not respond within $start_seconds s (its log: $dir/broker.log)"
        fi
        sleep 0.2
    done
}

# Whether the broker serves clients. An open port is not enough, because it is bound long before that. Kafka's tools need
# seconds of CPU for a request, so the broker's log is checked first, and then the port.
answers() { # answers DIR PORT
    local begun
    begun=$(cat "$1/begun" 2>/dev/null || echo 0)
    tail -c "+$((begun + 1))" "$1/broker.log" | grep -qF 'Kafka Server started' || return 1
    (exec 8<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null || return 1
    wc -c <"$1/broker.log" >"$1/begun"
}

cluster_id() { # 16 random bytes in URL-safe base64, as Kafka makes them
    head -c 16 /dev/urandom | base64 | tr '+/' 'AA' | tr -d '='
}

stop() { # stop DIR
    local dir pid deadline
    [ -d "$1" ] || return 0
    dir=$(cd "$1" && pwd)
    alive "$dir" || return 0
    pid=$(cat "$dir/pid")
    kill "$pid" 2>/dev/null || true
    deadline=$((SECONDS + stop_seconds))
    while alive "$dir"; do
        if ((SECONDS >= deadline)); then
            kill -9 "$pid" 2>/dev/null || true
        fi
        sleep 0.1
    done
}

run() {
    fetch
    local dir port code=0
    dir=$(mktemp -d)
    # shellcheck disable=SC2064 # the directory as it is now
    trap "stop '$dir'; rm -rf '$dir'" EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    port=$(free_port)
    # No test kills this broker, so its session may be long enough for a busy machine.
    KAFKA_SESSION_TIMEOUT_MS=${KAFKA_SESSION_TIMEOUT_MS:-30000} start "$dir" "$port"
    # The command runs in the background, so that this script handles signals immediately.
    EMOSTREAM_TEST_KAFKA=127.0.0.1:$port "$@" <&0 &
    local child=$!
    trap "kill $child 2>/dev/null; exit 130" INT
    trap "kill $child 2>/dev/null; exit 143" TERM HUP
    wait "$child" || code=$?
    exit "$code"
}

consume() { # consume PORT TOPIC [ARG…]
    fetch
    local port=$1 topic=$2 dir code=0
    shift 2
    dir=$(mktemp -d)
    # shellcheck disable=SC2064 # the directory as it is now
    trap "rm -rf '$dir'" EXIT
    log_settings=$dir/log4j2.properties
    write_log_settings WARN >"$log_settings"
    # The consumer ends after some seconds without records, and reports that as an error.
    kafka org.apache.kafka.tools.consumer.ConsoleConsumer \
        --bootstrap-server "127.0.0.1:$port" --topic "$topic" --from-beginning \
        --consumer-property isolation.level=read_committed --timeout-ms 5000 \
        --property print.partition=true --property print.offset=true \
        --property print.key=true --property print.value=true --property print.timestamp=false \
        "$@" 2>"$dir/err" || code=$?
    grep -qF UNKNOWN_TOPIC_OR_PARTITION "$dir/err" && fail "topic $topic not found"
    grep -qF TimeoutException "$dir/err" && code=0
    [ "$code" -eq 0 ] || cat "$dir/err" >&2
    exit "$code"
}

tool() { # tool NAME PORT ARG…
    fetch
    local class package=org.apache.kafka.tools dir port=$2
    case $1 in
    topics) class=TopicCommand ;;
    acls) class=AclCommand ;;
    configs) class=ConfigCommand ;;
    esac
    shift 2
    # In Kafka 4 this package contains no tools any more.
    ! grep -qF "kafka/admin/$class.class" "$home"/libs/kafka_*.jar || package=kafka.admin
    dir=$(mktemp -d)
    # shellcheck disable=SC2064 # the directory as it is now
    trap "rm -rf '$dir'" EXIT
    log_settings=$dir/log4j2.properties
    write_log_settings WARN >"$log_settings"
    kafka "$package.$class" --bootstrap-server "127.0.0.1:$port" "$@"
}

usage() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 64
}

case "${1-}" in
fetch) fetch ;;
start) [ $# -eq 3 ] || usage; start "$2" "$3" ;;
stop) [ $# -eq 2 ] || usage; stop "$2" ;;
join) [ $# -eq 4 ] || usage; start "$2" "$3" "$4" ;;
topics | acls | configs) [ $# -ge 3 ] || usage; tool "$@" ;;
run) [ $# -ge 2 ] || usage; shift; run "$@" ;;
consume) [ $# -ge 3 ] || usage; shift; consume "$@" ;;
*) usage ;;
esac
