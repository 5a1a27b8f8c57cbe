//! Counts the distinct users of each room and window, exactly once. This is an example of another application of the
//! engine: it reads the same reactions as EmoStream, and writes its finals to the topic `emostream.users`. A window
//! keeps each user in memory, so the example is suitable for rooms of a few thousand users. Like EmoStream, it rejects
//! plain JSON reactions with an unknown emoji.
//!
//! `cargo run -p emostream-dataflow --example distinct_users -- BROKERS`

use std::{env, error::Error, sync::Arc};

use emostream_log::{
    Log, Record,
    kafka::{KafkaLog, KafkaOptions},
};
use emostream_model::{EmojiNames, Payload, Room, WindowSize};
use emostream_streams::{
    aggregate::pre_aggregator::{Event, InternedKeys},
    config::Config,
    operators::{
        records::{Records, ValueFormat},
        tumbling::{ClosedWindow, tumbling_window},
    },
    recovery::restore::NoTables,
    runtime::{
        app::{Application, Counts, WorkerContext},
        run::run,
    },
    sink::result::ResultStreams,
    source::format::{Format, RecordTimes},
    topics::{FinalSummary, Topics},
};
use prometheus::Registry;
use serde_json::{Value, json};

const WINDOW_MS: u64 = 2000;

/// The format of reactions. The items that are counted are users, not emojis.
#[derive(Clone)]
pub struct Users;

impl Format for Users {
    type Key = Room;
    type Item = String;

    fn decode(
        &self,
        record: Record<'_>,
        rooms: &mut InternedKeys<Room>,
        events: &mut Vec<Event<String>>,
    ) -> Option<RecordTimes> {
        let mut event = |room: &str, user: &str, at_ms| {
            let key = rooms.number(room, |room| Room::from_record(room).ok());
            let item = Some(user.to_owned());
            events.push(Event { at_ms, key, item });
        };
        match Payload::decode(record.value, &EmojiNames::default()).ok()? {
            Payload::Batch(batch) => {
                for it in batch.reactions().ok()? {
                    event(it.room, it.user, it.at_ms);
                }
                Some(RecordTimes {
                    base_ms: batch.base_ms(),
                    newest_ms: batch.newest_ms(),
                })
            }
            Payload::Plain(plain) => {
                event(&plain.room, &plain.user, record.time_ms);
                Some(RecordTimes::of(&record))
            }
        }
    }
}

/// The format of finals: `{"room":"match-7","start":1764000000000,"users":1632}`.
#[derive(Debug)]
pub struct Finals;

impl ValueFormat<ClosedWindow<Room, String>> for Finals {
    fn bytes(&self, _: &ClosedWindow<Room, String>) -> usize {
        120
    }

    fn encode(&self, closed: &ClosedWindow<Room, String>) -> Vec<u8> {
        let (room, start, users) = (&closed.key, closed.window.start, closed.counts.len());
        let json = json!({"room": room, "start": start, "users": users});
        json.to_string().into_bytes()
    }
}

/// The application.
#[derive(Clone)]
pub struct DistinctUsers(Config);

impl Default for DistinctUsers {
    fn default() -> DistinctUsers {
        let (id, source) = ("emostream.users", "emostream.reactions");
        let topics = Topics::new(id, source, "emostream.users", |value| {
            let closed: Value = serde_json::from_slice(value).ok()?;
            Some(FinalSummary {
                end_ms: closed["start"].as_u64()? + WINDOW_MS,
                key: closed["room"].as_str()?.to_owned(),
                events: closed["users"].as_u64()?,
            })
        });
        let size = WindowSize::from_ms(WINDOW_MS).expect("windows are not empty");
        DistinctUsers(Config::new(topics, size))
    }
}

impl Application for DistinctUsers {
    type Format = Users;
    type Stored = NoTables<Room, String>;
    const METRICS_PREFIX: &'static str = "distinct_users";

    fn config(&self) -> &Config {
        &self.0
    }

    fn format(&self) -> Users {
        Users
    }

    fn build<'scope>(
        &self,
        counts: Counts<'scope, Users>,
        worker: WorkerContext<Room, String>,
        results: &mut ResultStreams<'scope>,
    ) {
        let windows = worker.windows(&self.0, None);
        let (finals, _) = tumbling_window(counts, windows, |_| ());
        results.add(
            finals,
            Records::new(&self.0.topics.finals, worker.resets, Finals),
        );
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let brokers = env::args().nth(1).unwrap_or("127.0.0.1:9092".to_owned());
    let log = KafkaLog::connect(KafkaOptions {
        brokers,
        ..KafkaOptions::default()
    })?;
    let app = DistinctUsers::default();
    let topics = &app.config().topics;
    // EmoStream creates the source topic. The example creates only its other topics.
    for topic in topics
        .specs(4, 1)
        .into_iter()
        .filter(|it| it.name != topics.source)
    {
        log.create_topic(&topic)?;
    }
    let ready = Arc::new(|state| println!("{state:?}"));
    Ok(run(
        app,
        Arc::new(log),
        &Registry::new(),
        Default::default(),
        ready,
    )?)
}
