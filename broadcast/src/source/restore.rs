//! Restores the rooms from the log when a publisher starts.
//!
//! ```text
//!  [totals] to its end ───────────────┐
//!  [windows] since the ring began ────┼▶ rooms
//!  [trending] to its end ─────────────┘
//! ```
//!
//! Totals are read before the finals, so a final that comes in between is added, never missed. Nor is
//! one doubled: a window that the totals hold already is waited for, since Kafka shows the parts of a
//! transaction one after another.

use std::{collections::HashMap, time::Duration};

use emostream_log::{Doorbell, Log, LogError, Record, StallTimer, read_to_end};
use emostream_model::{Room, TotalsRecord, WindowRecord};

use crate::config::Config;
use crate::hub::updates::{RestoredFinal, Updates};
use crate::room::{result_order::ResultOrder, totals::RoomTotals};
use crate::source::topic_reader::{Decoder, PARK, TopicReader, id_of, of_trending};

/// The parts of a transaction are all seen within this time; on Kafka some milliseconds, but a broker
/// may restart in between. Older totals have their final in the log, or it has expired.
const SETTLED: Duration = Duration::from_secs(60);
/// How long a start waits for the finals of totals that are younger than that.
const PATIENCE: Duration = Duration::from_secs(5);

/// The readers after the restore, each where it has stopped.
pub(crate) struct Restored {
    pub(crate) windows: TopicReader,
    pub(crate) trending: TopicReader,
    pub(crate) live: TopicReader,
    /// Where each partition of the live tallies ended.
    pub(crate) live_before: HashMap<u32, u64>,
}

/// Restores the rooms.
pub(crate) fn restore(
    config: &Config,
    log: &dyn Log,
    updates: &Updates,
    bell: &Doorbell,
    decoder: &mut Decoder,
) -> Result<Restored, LogError> {
    let settled_ms = updates.ago(SETTLED.min(config.subscribers.ring / 2));
    let mut kept = RestoredRooms::read_totals(log, &config.topics.totals(), settled_ms, decoder)?;

    let windows = since(
        log,
        &config.topics.windows(),
        updates.ago(config.subscribers.ring),
    )?;
    for (partition, start) in &windows {
        updates.start_partition(*partition, *start);
    }
    let mut windows = TopicReader::new(config.topics.windows(), true, windows);
    // The tallies of the window that is open now, and of the one that is about to close.
    let open_ms = updates.ago(Duration::from_millis(config.window_ms.saturating_mul(2)));
    let live = since(log, &config.topics.live(), open_ms)?;
    let live_offsets = log.offsets(&config.topics.live())?;
    let live_ends = live_offsets.into_iter().map(|kept| kept.end);
    let live_before = (0..).zip(live_ends).collect();
    let live = TopicReader::new(config.topics.live(), false, live);

    kept.read_finals(log, &mut windows, updates, bell, decoder)?;
    kept.fill(updates);
    let trending = since(log, &config.topics.trending(), 0)?;
    let mut trending = TopicReader::new(config.topics.trending(), false, trending);
    read_trending(log, &mut trending, updates, bell, decoder)?;
    Ok(Restored {
        windows,
        trending,
        live,
        live_before,
    })
}

/// Everything that is trending, and of each room that it is no longer.
fn read_trending(
    log: &dyn Log,
    trending: &mut TopicReader,
    updates: &Updates,
    bell: &Doorbell,
    decoder: &mut Decoder,
) -> Result<(), LogError> {
    let mut stall = StallTimer::start();
    loop {
        let read = trending.poll(log, bell, updates, &mut |record| {
            if let Some(result) = decoder.read(record) {
                updates.restore_trending(of_trending(result));
            }
        })?;
        match read {
            0 if trending.at_end() => return Ok(()),
            0 => {
                stall.check(log, "what is trending")?;
                bell.wait(PARK);
            }
            _ => stall.news(),
        }
    }
}

/// Where each partition's records since `time_ms` begin.
fn since(log: &dyn Log, topic: &str, time_ms: u64) -> Result<Vec<(u32, u64)>, LogError> {
    Ok((0..).zip(log.offsets_at(topic, time_ms)?).collect())
}

/// What the rings are rebuilt from.
#[derive(Default)]
struct RestoredRooms {
    /// The finals of each room, as they were read.
    finals: HashMap<Room, Vec<RestoredFinal>>,
    /// The latest totals of each room.
    totals: HashMap<Room, (ResultOrder, TotalsRecord)>,
    /// Rooms whose totals hold a window whose final was not seen yet.
    awaited: HashMap<Room, ResultOrder>,
}

impl RestoredRooms {
    /// The latest totals of each room; those written since `settled_ms` await their final.
    ///
    /// A room whose topic got more partitions has records in two of them, and they are read partition by
    /// partition: the later one counts, not the one that was read last.
    fn read_totals(
        log: &dyn Log,
        topic: &str,
        settled_ms: u64,
        decoder: &mut Decoder,
    ) -> Result<Self, LogError> {
        let mut kept = Self::default();
        read_to_end(log, topic, &mut |record| {
            if let Some(totals) = decoder.read::<TotalsRecord>(record) {
                let order = ResultOrder::of(&record, totals.window);
                let known = kept.totals.get(&totals.room);
                if known.is_some_and(|(known, _)| order < *known) {
                    return;
                }
                match record.time_ms >= settled_ms {
                    true => kept.awaited.insert(totals.room.clone(), order),
                    false => kept.awaited.remove(&totals.room),
                };
                kept.totals.insert(totals.room.clone(), (order, totals));
            }
        })?;
        Ok(kept)
    }

    /// All finals to the end, those that are awaited included.
    fn read_finals(
        &mut self,
        log: &dyn Log,
        windows: &mut TopicReader,
        updates: &Updates,
        bell: &Doorbell,
        decoder: &mut Decoder,
    ) -> Result<(), LogError> {
        let mut stall = StallTimer::start();
        loop {
            let read = windows.poll(log, bell, updates, &mut |record| {
                if let Some(result) = decoder.read(record) {
                    self.take(record, result);
                }
            })?;
            if read > 0 {
                stall.news();
                continue;
            }
            if windows.at_end() && self.awaited.is_empty() {
                return Ok(());
            }
            if windows.at_end() && stall.elapsed() > PATIENCE {
                let rooms = self.awaited.len();
                tracing::warn!(rooms, "the finals of the newest totals are missing");
                return Ok(());
            }
            stall.check(log, "the finals")?;
            bell.wait(PARK);
        }
    }

    fn take(&mut self, read: Record<'_>, record: WindowRecord) {
        let order = ResultOrder::of(&read, record.window);
        let awaited = self.awaited.get(&record.room);
        if awaited.is_some_and(|awaited| order >= *awaited) {
            self.awaited.remove(&record.room);
        }
        let finals = self.finals.entry(record.room.clone()).or_default();
        finals.push(RestoredFinal {
            order,
            id: id_of(read),
            written_ms: read.time_ms,
            record,
        });
    }

    fn fill(mut self, updates: &Updates) {
        for (room, mut finals) in self.finals {
            // Those of two partitions came in turns. Within one, this is the order of their offsets.
            finals.sort_by_key(|read| read.order);
            let base = self.totals.remove(&room);
            let base = base.as_ref().map(|(order, record)| (*order, record));
            let ordered = finals.iter().map(|read| (read.order, &read.record));
            let before = RoomTotals::before(base, ordered);
            updates.restore_room(&room, before, finals);
        }
        for (room, (_, record)) in self.totals {
            updates.restore_room(&room, RoomTotals::of(&record.counts.named), []);
        }
    }
}
