//! Counts the distinct users of each room and window, exactly once. This is an example of another application of the
//! engine: it reads the same reactions as EmoStream, and writes its finals to the topic `distinct_users.counts`. A
//! window keeps each user in memory, so the example is suitable for rooms of a few thousand users. Like EmoStream, it
//! rejects plain JSON reactions with an unknown emoji.
//!
//! `emostream topics create` creates the topic that it reads. Then:
//!
//! ```text
//! cargo run -p emostream-dataflow --example distinct_users -- topics create --kafka BROKERS
//! cargo run -p emostream-dataflow --example distinct_users -- --kafka BROKERS
//! ```

use emostream_app::App;
use emostream_model::{EmojiNames, Payload, Room};
use emostream_streams::prelude::*;

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
        let payload = Payload::decode(record.value, &EmojiNames::default()).ok()?;
        for reaction in payload.reactions(record.time_ms).ok()? {
            let key = rooms.number(reaction.room, |room| Room::from_record(room).ok());
            let (at_ms, item) = (reaction.at_ms, Some(reaction.user.to_owned()));
            events.push(Event { at_ms, key, item });
        }
        let (base_ms, newest_ms) = payload.times(record.time_ms);
        Some(RecordTimes { base_ms, newest_ms })
    }
}

/// Returns the application.
pub fn distinct_users(config: AppConfig) -> Result<Application<Users>, StreamsError> {
    let id = config.application_id.clone();
    Application::new(config, |t: &Topology<Users>| {
        t.source("emostream.reactions", Users)
            .group_by_key()
            .window(Tumbling::of(WindowSize::from_ms(2000).expect("above 0")))
            .count_by_item()
            .finals()
            .to(format!("{id}.counts"), JsonFinals::DistinctItems);
    })
}

fn main() -> std::process::ExitCode {
    App::new("distinct_users", "Counts distinct users, exactly once")
        .run(|(), config| distinct_users(config))
}
