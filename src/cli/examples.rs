//! The examples at the end of the `--help` of each command. A test checks that the parser of arguments accepts each
//! example.

pub(crate) const EMOSTREAM: &str = "\
Start with:
  emostream up                                        # then open http://127.0.0.1:8080
  emostream load --rate 1000/s --duration 30s         # a crowd
  emostream subscribe                                 # follow a room in the terminal

Each flag can be set by an environment variable, which --help of the command names; an empty variable is ignored.";

pub(crate) const UP: &str = "\
Examples:
  emostream up
  emostream up --listen 0.0.0.0:8080 --data /var/lib/emostream --jwt-key key
  emostream up --kafka broker:9092 --topic-prefix stage";

pub(crate) const INGEST: &str = "\
Examples:
  emostream ingest --kafka broker:9092 --listen 0.0.0.0:8080
  emostream ingest --kafka broker:9092 --per-user-rate 20/s --trusted-proxy 10.0.0.0/8
  emostream ingest --kafka broker:9092 --jwks-url https://id.example/keys --jwt-audience emo
  emostream ingest --kafka broker:9092 -X linger.ms=0 --emoji-alias goal=⚽";

pub(crate) const DATAFLOW: &str = "\
Examples:
  emostream dataflow --kafka broker:9092 -w 2
  emostream dataflow --kafka broker:9092 -w 2 -n 3 -p 0 -h hosts      # on the first host of three
  emostream dataflow --describe";

pub(crate) const PUBLISHER: &str = "\
Examples:
  emostream publisher --kafka broker:9092 --listen 0.0.0.0:8080
  emostream publisher --kafka broker:9092 --ingest-url https://react.example
  emostream publisher --kafka broker:9092 --relay-listen 10.0.0.1:9470      # accepts relays";

pub(crate) const RELAY: &str = "\
Examples:
  emostream relay --upstream publisher:9470 --listen 0.0.0.0:8080
  emostream relay --upstream relay-0:9470,relay-1:9470 --relay-listen 0.0.0.0:9470
  emostream relay --upstream emo.example:9470 --upstream-tls --relay-token-file token";

pub(crate) const SUBSCRIBE: &str = "\
In a terminal, the command draws the room, and q or Ctrl-C ends it. Otherwise, it prints one line per message.

Examples:
  emostream subscribe --room match-7
  emostream subscribe --url https://emo.example --room match-7 --token-file token
  emostream subscribe --room match-7 --json | jq -c 'select(.type == \"final\")'";

pub(crate) const INSPECT: &str = "\
Examples:
  emostream inspect windows --room match-7 --from -10m
  emostream inspect reactions --follow --kafka broker:9092
  emostream inspect rejected --from 2026-01-31T20:15:00Z --format json | jq .headers.reason
  emostream inspect progress --follow";

pub(crate) const LOAD: &str = "\
Examples:
  emostream load --rate 5000/s --duration 60s --rooms 5
  emostream load --rate 2000/s --spike 10x@30s --verify
  emostream load --url http://react.example --subscribe-url http://emo.example --batch 100";

pub(crate) const TOPICS: &str = "\
Examples:
  emostream topics create --kafka broker:9092 --partitions 8 --replication 3
  emostream topics check --kafka broker:9092";

pub(crate) const RESET: &str = "\
Examples:
  emostream reset --data ./emostream-data             # with `up` stopped
  emostream reset --kafka broker:9092 --from latest --yes";
