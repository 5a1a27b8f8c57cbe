//! Writes results as a dataflow does: final results with their totals in one transaction, and live tallies.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use emostream_log::{
    Log, NewRecord, Transactor,
    testing::{self, header, now_ms},
};
use emostream_model::{
    AllRooms, Count, Emoji, LeadersRecord, REMOVED_HEADER, ResultOrder, Room, RoomCount,
    TOTALS_BEGIN_HEADER, Topics, TotalCounts, TotalsRecord, Trending, TrendingRecord, Unwritten,
    WindowRecord, WindowSize, compress, sort_counts,
};

pub(crate) const WINDOW_MS: u64 = 2000;
pub(crate) const SWARM_SIZE: u64 = 1000;

/// Emojis and their counts.
pub(crate) type Counts<'a> = &'a [(&'a str, u64)];

pub(crate) struct Counting {
    transactor: Box<dyn Transactor>,
    log: Arc<dyn Log>,
    totals: BTreeMap<String, BTreeMap<Emoji, u64>>,
}

impl Counting {
    pub(crate) fn new(log: Arc<dyn Log>) -> Self {
        Self {
            transactor: log.transactor("counting", Duration::from_secs(10)).unwrap(),
            log,
            totals: BTreeMap::new(),
        }
    }

    /// Closes the `nth` window now. `rooms` are the names of rooms and their counts in this window.
    pub(crate) fn close(&mut self, nth: u64, rooms: &[(&str, Counts<'_>)]) {
        self.close_at(now_ms(), nth, rooms);
    }

    /// Closes the `nth` window with records of the time `written_ms`.
    pub(crate) fn close_at(&mut self, written_ms: u64, nth: u64, rooms: &[(&str, Counts<'_>)]) {
        let mut records = Vec::new();
        for (room, counts) in rooms {
            let (of_window, of_totals) = self.records(nth, room, counts);
            records.extend([timed(of_window, written_ms), timed(of_totals, written_ms)]);
        }
        self.commit(records);
    }

    /// Closes several windows of one room, all in one transaction.
    pub(crate) fn close_many(
        &mut self,
        room: &str,
        windows: std::ops::Range<u64>,
        counts: Counts<'_>,
    ) {
        let both = windows.flat_map(|nth| <[NewRecord; 2]>::from(self.records(nth, room, counts)));
        let records = both.collect();
        self.commit(records);
    }

    /// Returns the records of a final result and of the room's totals after it. They are not written to the log.
    pub(crate) fn records(
        &mut self,
        nth: u64,
        room: &str,
        counts: Counts<'_>,
    ) -> (NewRecord, NewRecord) {
        let totals = self.totals.entry(room.to_owned()).or_default();
        for (emoji, count) in counts {
            *totals.entry(Emoji::from_text(emoji).unwrap()).or_default() += count;
        }
        let record = tally(nth, room, counts, None);
        let topic = Topics::default().windows();
        (keyed(topic, room, &record), self.totals_as_of(nth, room))
    }

    /// Returns the records of a final result with which the totals of the room begin at 0. They are not written to the
    /// log.
    pub(crate) fn beginning(
        &mut self,
        nth: u64,
        room: &str,
        counts: Counts<'_>,
    ) -> (NewRecord, NewRecord) {
        self.totals.remove(room);
        let (mut of_window, of_totals) = self.records(nth, room, counts);
        of_window.headers = vec![header(TOTALS_BEGIN_HEADER, "")];
        (of_window, of_totals)
    }

    /// Closes the `nth` window of one room, whose totals begin at 0 with this window.
    pub(crate) fn begin_at(&mut self, written_ms: u64, nth: u64, room: &str, counts: Counts<'_>) {
        let (of_window, of_totals) = self.beginning(nth, room, counts);
        let records = [of_window, of_totals].map(|record| timed(record, written_ms));
        self.commit(records.into());
    }

    /// Writes the removal of a room, as a dataflow does if the room's last final result is older than the retention.
    /// Final results before the `nth` window are removed.
    pub(crate) fn remove(&mut self, room: &str, nth: u64) {
        self.totals.remove(room);
        let topics = Topics::default();
        let topics = [topics.totals(), topics.trending()];
        self.commit(topics.map(|topic| removal(topic, room, nth)).into());
    }

    /// Returns the totals record of a room whose last window is the `nth`. It is not written to the log.
    pub(crate) fn totals_as_of(&self, nth: u64, room: &str) -> NewRecord {
        let mut counted: Vec<Count> = self
            .total(room)
            .iter()
            .map(|(emoji, count)| Count {
                emoji: *emoji,
                count: *count,
            })
            .collect();
        sort_counts(&mut counted, |count| (count.count, count.emoji));
        let totals = TotalsRecord {
            room: Room::new(room).unwrap(),
            window: WindowSize::from_ms(WINDOW_MS)
                .unwrap()
                .window_of(nth * WINDOW_MS),
            total: counted.iter().map(|count| count.count).sum(),
            counts: TotalCounts {
                named: counted,
                ..TotalCounts::default()
            },
        };
        keyed(Topics::default().totals(), room, &totals)
    }

    pub(crate) fn commit(&mut self, records: Vec<NewRecord>) {
        self.transactor.commit(records).unwrap();
    }

    /// Writes a live tally of the `nth` window.
    pub(crate) fn live(&self, nth: u64, room: &str, counts: Counts<'_>) {
        let record = tally(nth, room, counts, Some(now_ms()));
        self.append(keyed(Topics::default().live(), room, &record));
    }

    /// Writes a live tally with a count of one. Its window begins at `start_ms` and has the length `window_ms`.
    pub(crate) fn live_of(&self, start_ms: u64, window_ms: u64, room: &str) {
        let record = WindowRecord {
            window: WindowSize::from_ms(window_ms).unwrap().window_of(start_ms),
            ..tally(0, room, &[("🔥", 1)], Some(now_ms()))
        };
        self.append(keyed(Topics::default().live(), room, &record));
    }

    /// Writes a trending record: the top emojis of a room in the span that ends with the `nth` window.
    pub(crate) fn trending(&self, nth: u64, room: &str, top: Counts<'_>) {
        self.append(trending(nth, room, top));
    }

    /// Appends a record to the log.
    pub(crate) fn append(&self, record: NewRecord) {
        testing::append(&*self.log, [record]);
    }

    /// Returns the totals of the room as of the last final result.
    pub(crate) fn total(&self, room: &str) -> BTreeMap<Emoji, u64> {
        self.totals.get(room).cloned().unwrap_or_default()
    }
}

/// Returns the trending record of a room, or of all rooms (`*`), for the span that ends with the `nth` window.
pub(crate) fn trending(nth: u64, room: &str, top: Counts<'_>) -> NewRecord {
    let size = WindowSize::from_ms(WINDOW_MS).unwrap();
    let (window, span_ms) = (size.window_of(nth * WINDOW_MS), 60_000);
    let count = |(emoji, count): &(&str, u64)| Count {
        emoji: Emoji::from_text(emoji).unwrap(),
        count: *count,
    };
    let top: Vec<Count> = top.iter().map(count).collect();
    let record = match Room::new(room) {
        Ok(room) => Trending::Room(TrendingRecord {
            room,
            window,
            span_ms,
            top,
        }),
        Err(_) => Trending::All(LeadersRecord {
            room: AllRooms,
            window,
            span_ms,
            rooms: top
                .iter()
                .map(|_| RoomCount {
                    room: Room::default(),
                    count: nth,
                })
                .collect(),
            top,
        }),
    };
    keyed(Topics::default().trending(), room, &record)
}

/// Returns a tombstone (a record without a value), which removes the final results of a room before the `nth` window.
pub(crate) fn removal(topic: String, room: &str, nth: u64) -> NewRecord {
    NewRecord {
        value: Default::default(),
        headers: vec![header(REMOVED_HEADER, &(nth * WINDOW_MS).to_string())],
        ..keyed(topic, room, &"")
    }
}

/// Returns a record with this value in the room's partition.
pub(crate) fn keyed(topic: String, room: &str, value: &impl serde::Serialize) -> NewRecord {
    testing::keyed(topic, room, serde_json::to_vec(value).unwrap())
}

/// Returns a progress record with the offsets of the final results that are not in a totals record yet.
pub(crate) fn progress(unwritten: &Unwritten) -> NewRecord {
    NewRecord {
        partition: Some(0),
        ..keyed(Topics::default().progress(), "dataflow", unwritten)
    }
}

/// Returns a progress record that states that no final result is in a totals record yet.
pub(crate) fn nothing_written() -> NewRecord {
    progress(&Unwritten {
        since: Some(ResultOrder::default()),
        finals: None,
    })
}

/// Returns a progress record of a dataflow that commits at least once per `heartbeat`.
pub(crate) fn commit_of(heartbeat: Duration) -> NewRecord {
    let progress = serde_json::json!({"heartbeat_ms": heartbeat.as_millis() as u64});
    NewRecord {
        partition: Some(0),
        ..keyed(Topics::default().progress(), "dataflow", &progress)
    }
}

pub(crate) fn timed(record: NewRecord, time_ms: u64) -> NewRecord {
    NewRecord {
        time_ms: Some(time_ms),
        ..record
    }
}

fn tally(nth: u64, room: &str, counts: Counts<'_>, emitted_at: Option<u64>) -> WindowRecord {
    let size = WindowSize::from_ms(WINDOW_MS).unwrap();
    let compressed = |(emoji, count): &(&str, u64)| {
        compress(Emoji::from_text(emoji).unwrap(), *count, SWARM_SIZE)
    };
    let mut counts: Vec<_> = counts.iter().map(compressed).collect();
    sort_counts(&mut counts, |tally| (tally.count, tally.emoji));
    WindowRecord {
        room: Room::new(room).unwrap(),
        window: size.window_of(nth * WINDOW_MS),
        emitted_at,
        total: counts.iter().map(|tally| tally.count).sum(),
        counts,
    }
}
