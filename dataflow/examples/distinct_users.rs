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
    StreamsError,
    aggregate::pre_aggregator::{Event, InternedKeys},
    config::AppConfig,
    runtime::run::run,
    source::format::{Format, RecordTimes},
    topology::{Application, JsonFinals, Topology, Tumbling},
};
use prometheus::Registry;

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

/// Returns the application.
pub fn distinct_users() -> Result<Application<Users>, StreamsError> {
    let size = WindowSize::from_ms(2000).expect("the size of a window is above 0");
    Application::new(AppConfig::new("emostream.users"), |t: &Topology<Users>| {
        t.source("emostream.reactions", Users)
            .group_by_key()
            .window(Tumbling::of(size))
            .count_by_item()
            .finals()
            .to("emostream.users", JsonFinals::DistinctItems);
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let brokers = env::args().nth(1).unwrap_or("127.0.0.1:9092".to_owned());
    let log = KafkaLog::connect(KafkaOptions {
        brokers,
        ..KafkaOptions::default()
    })?;
    let app = distinct_users()?;
    let topics = &app.config().topics;
    // EmoStream creates the source topic. The example creates only its other topics.
    let own = topics.specs(4, 1).into_iter();
    for topic in own.filter(|it| it.name != topics.source) {
        log.create_topic(&topic)?;
    }
    let (registry, ready) = (Registry::new(), Arc::new(|state| println!("{state:?}")));
    Ok(run(
        app,
        Arc::new(log),
        &registry,
        Default::default(),
        ready,
    )?)
}
