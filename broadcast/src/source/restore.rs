//! Restores the rooms from the log when a publisher starts.
//!
//! ```text
//!  [progress] its newest record: from where finals complete totals
//!  [totals] to its end ───────────────┐
//!  [windows] from there on            ├▶ rooms
//!  [windows] since the ring began ────┤
//!  [trending] to its end ─────────────┘
//! ```
//!
//! The totals record of a room with many emojis is some minutes older than the room's last final results, so the counts
//! of these final results are added. The newest progress record has the offsets at which these final results begin. It
//! is read first: totals that are read after it can only be newer, so they need no final results before these offsets.
//!
//! Totals are read before the final results, so a final result that is written in between is added and not missed. No
//! final result is counted twice. Kafka makes the partitions of a transaction visible one after another, so totals may
//! contain a window whose final result is not visible yet. The restore waits for such a final result. Only final
//! results of the last commits can be missing: all final results before the offsets in the progress record are visible.
//!
//! A room that was removed has a record without a value (a tombstone) in the totals topic. Its final results from
//! before the removal are not counted, even if they are still in the ring. The trending topic contains removals of
//! rooms, too. The tailer applies these removals, and those that it reads later.

use std::{collections::HashMap, mem::take, ops::Range, time::Duration};

use emostream_log::{Log, LogError, Record, StallTimer, WakeSignal, read_last, read_to_end};
use emostream_model::{
    LaterFinals, RelayFinal, RelayUpdate, ResultOrder, Room, TotalsRecord, Unwritten,
};

use crate::config::Config;
use crate::hub::updates::Updates;
use crate::room::totals::RoomTotals;
use crate::source::topic_reader::{Decoder, PARK, TopicReader, final_of, headers_of, trending_of};

/// Number of offsets at the end of the progress topic that are read to find its newest record. One offset is not
/// enough, since some of them are transaction markers.
const LAST_PROGRESS: u64 = 10;
/// Maximum number of final results that are read by one poll.
const OLDER_RECORDS: usize = 1000;
/// Time within which the records of a transaction become visible in all partitions, even if a broker restarts in
/// between. If totals are older than this, the final result that they contain is visible, or it has expired.
const SETTLED: Duration = Duration::from_secs(60);
/// Maximum time for which a starting publisher waits for final results that recent totals already contain.
const FINALS_TIMEOUT: Duration = Duration::from_secs(5);

/// The readers of the topics after the restore. Each continues at the position up to which it has read.
pub(crate) struct Restored {
    pub(crate) windows: TopicReader,
    pub(crate) trending: TopicReader,
    pub(crate) live: TopicReader,
    /// This reader begins with the newest record that the progress topic had at the start.
    pub(crate) progress: TopicReader,
    /// The end offset of each partition of the live topic at the start.
    pub(crate) live_before: HashMap<u32, u64>,
    /// Removals of rooms that were read from the trending topic, and are not applied yet.
    pub(crate) removals: Vec<RelayUpdate>,
}

/// Restores the rooms from the log.
pub(crate) fn restore(
    config: &Config,
    log: &dyn Log,
    updates: &Updates,
    bell: &WakeSignal,
    decoder: &mut Decoder,
) -> Result<Restored, LogError> {
    let settled_ms = updates.ago(SETTLED.min(config.subscribers.ring / 2));
    let unwritten = unwritten(log, &config.topics.progress())?;
    let mut kept = RestoredRooms {
        settled_ms,
        settled_until: unwritten.finals.as_ref().map(|finals| finals.since),
        ..RestoredRooms::default()
    };
    kept.read_totals(log, &config.topics.totals(), decoder)?;

    let windows = since(
        log,
        &config.topics.windows(),
        updates.ago(config.subscribers.ring),
    )?;
    for (partition, start) in &windows {
        updates.start_partition(*partition, *start);
    }
    let older = older(log, &config.topics.windows(), &unwritten, &windows)?;
    kept.read_older(log, &config.topics.windows(), &older, bell, decoder)?;
    let mut windows = TopicReader::new(config.topics.windows(), true, windows);
    // Live tallies are read for the window that is open now, and for the one before it, which may not be closed yet.
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
    let removals = read_trending(log, &mut trending, updates, bell, decoder)?;
    let progress_offsets = log.offsets(&config.topics.progress())?;
    let newest = |kept: Range<u64>| kept.end.saturating_sub(LAST_PROGRESS).max(kept.start);
    let progress = (0..)
        .zip(progress_offsets.into_iter().map(newest))
        .collect();
    let progress = TopicReader::new(config.topics.progress(), false, progress);
    Ok(Restored {
        windows,
        trending,
        live,
        progress,
        live_before,
        removals,
    })
}

/// Reads the trending topic and applies its lists. Returns the removals of rooms that are known.
fn read_trending(
    log: &dyn Log,
    trending: &mut TopicReader,
    updates: &Updates,
    bell: &WakeSignal,
    decoder: &mut Decoder,
) -> Result<Vec<RelayUpdate>, LogError> {
    let mut stall = StallTimer::start();
    let mut removals = Vec::new();
    loop {
        let read = trending.poll(log, bell, updates, &mut |record| match trending_of(
            decoder, record,
        ) {
            Some(RelayUpdate::Removed { room, .. }) if updates.hub.find(&room).is_none() => {}
            Some(removed @ RelayUpdate::Removed { .. }) => removals.push(removed),
            Some(update) => updates.restore_trending(update),
            None => {}
        })?;
        match read {
            0 if trending.at_end() => return Ok(removals),
            0 => {
                stall.check(log, "what is trending")?;
                bell.wait(PARK);
            }
            _ => stall.reset(),
        }
    }
}

/// Returns the part of the newest progress record that describes which final results are not in a totals record yet.
fn unwritten(log: &dyn Log, topic: &str) -> Result<Unwritten, LogError> {
    let mut newest = Unwritten::default();
    let mut keep = |record: Record<'_>| {
        // A progress record that cannot be parsed was written by another version. Either the totals records of that
        // version contain all final results, or the dataflow of this version rejects the progress. So the default is
        // used: all final results are in totals records.
        newest = serde_json::from_slice(record.value).unwrap_or_default();
    };
    // If there is no record, no dataflow has run yet.
    read_last(log, topic, LAST_PROGRESS, &mut keep)?;
    Ok(newest)
}

/// For each partition, returns the range of offsets of final results that are older than the `ring` and whose counts
/// have to be added to totals.
fn older(
    log: &dyn Log,
    topic: &str,
    unwritten: &Unwritten,
    ring: &[(u32, u64)],
) -> Result<Vec<(u32, Range<u64>)>, LogError> {
    let kept = log.offsets(topic)?;
    let mut older = Vec::new();
    for ((partition, end), kept) in ring.iter().zip(kept) {
        let start = match (&unwritten.finals, unwritten.since) {
            (Some(finals), _) => finals.offset(*partition),
            (None, Some(_)) => 0,
            (None, None) => continue,
        };
        let start = start.max(kept.start);
        if start < *end {
            older.push((*partition, start..*end));
        }
    }
    Ok(older)
}

/// Returns, for each partition, the offset of the first record whose time is `time_ms` or later.
fn since(log: &dyn Log, topic: &str, time_ms: u64) -> Result<Vec<(u32, u64)>, LogError> {
    Ok((0..).zip(log.offsets_at(topic, time_ms)?).collect())
}

/// The results that are read to restore the rooms.
#[derive(Default)]
struct RestoredRooms {
    /// The final results of each room, in the order in which they were read.
    finals: HashMap<Room, Vec<RelayFinal>>,
    /// The latest totals of each room. The totals of a removed room are empty.
    totals: HashMap<Room, RoomTotals>,
    /// The final results of each room that are later than its totals record and older than the ring.
    older: HashMap<Room, LaterFinals<RoomTotals>>,
    /// Totals that were written after this time (Unix milliseconds) may be visible before the final result that they
    /// contain.
    settled_ms: u64,
    /// All final results before this position are visible. So the restore does not wait for the final results of totals
    /// that are as of an earlier position.
    settled_until: Option<ResultOrder>,
    /// The rooms whose totals contain a final result that was not read yet. The value is the position of that final
    /// result.
    awaited: HashMap<Room, ResultOrder>,
}

impl RestoredRooms {
    /// Reads the latest totals of each room. Recent totals are recorded in `awaited`, so that the restore waits for the
    /// final result that they contain.
    ///
    /// If partitions were added to the topic, a room has records in two partitions, which are read one after another.
    /// The record of the later window is used, even if it is not the one that was read last.
    fn read_totals(
        &mut self,
        log: &dyn Log,
        topic: &str,
        decoder: &mut Decoder,
    ) -> Result<(), LogError> {
        read_to_end(log, topic, &mut |record| {
            if record.value.is_empty() {
                // A tombstone without the header is from another program. It is ignored, so the totals that were read
                // before it still count.
                let before = headers_of(&record).removed_before();
                if let Some((room, before)) = Room::from_key(record.key).zip(before) {
                    self.remove(room, before);
                }
            } else if let Some(totals) = decoder.read::<TotalsRecord>(record) {
                let order = headers_of(&record).order(totals.window);
                self.apply_totals(order, record.time_ms, totals);
            }
        })
    }

    fn apply_totals(&mut self, order: ResultOrder, written_ms: u64, totals: TotalsRecord) {
        let known = self.totals.get(&totals.room);
        if known.is_some_and(|known| known.as_of() > Some(order)) {
            return;
        }
        let is_old = self.settled_until.is_some_and(|until| order < until);
        match written_ms >= self.settled_ms && !is_old {
            true => self.awaited.insert(totals.room.clone(), order),
            false => self.awaited.remove(&totals.room),
        };
        let counts = RoomTotals::of(&totals.counts.named, Some(order));
        self.totals.insert(totals.room, counts);
    }

    /// Removes the totals of a room if they are as of a position before `before`. Later totals show that the room has
    /// had final results again, so they are kept.
    fn remove(&mut self, room: Room, before: ResultOrder) {
        let known = self.totals.get(&room);
        if known.is_none_or(|known| known.as_of() < Some(before)) {
            self.awaited.remove(&room);
            self.totals.insert(room, RoomTotals::removed(before));
        }
    }

    /// Reads final results that are older than the ring. A final result that is later than the totals record of its
    /// room is stored, so that its counts are added.
    fn read_older(
        &mut self,
        log: &dyn Log,
        topic: &str,
        older: &[(u32, Range<u64>)],
        bell: &WakeSignal,
        decoder: &mut Decoder,
    ) -> Result<(), LogError> {
        if older.is_empty() {
            return Ok(());
        }
        let from: Vec<(u32, u64)> = older.iter().map(|(p, range)| (*p, range.start)).collect();
        let mut reader = log.scanner(topic, &from, bell.wake())?;
        let mut stall = StallTimer::start();
        for (partition, range) in older {
            let mut is_over = false;
            while !is_over {
                let read = reader.poll_while(*partition, OLDER_RECORDS, &mut |record| {
                    is_over = record.offset >= range.end;
                    // A final result has all fields of a totals record. It is parsed as a totals record, which keeps
                    // the counts of emojis that this build does not know.
                    if !is_over && let Some(closed) = decoder.read::<TotalsRecord>(record) {
                        self.add_older(&record, closed);
                    }
                    !is_over
                })?;
                is_over |= reader.position(*partition) >= range.end || reader.at_end(*partition);
                if read > 0 {
                    stall.reset();
                } else if !is_over {
                    stall.check(log, "the finals")?;
                    bell.wait(PARK);
                }
            }
        }
        Ok(())
    }

    fn add_older(&mut self, read: &Record<'_>, closed: TotalsRecord) {
        let headers = headers_of(read);
        let order = headers.order(closed.window);
        self.is_seen(&closed.room, order);
        let known = self.totals.get(&closed.room);
        if known.is_none_or(|known| known.as_of() < Some(order)) {
            let older = self.older.entry(closed.room).or_default();
            let counts = older.counts(read.partition, order, headers.totals_begin);
            counts.merge(RoomTotals::of(&closed.counts.named, Some(order)));
        }
    }

    /// Notes that a final result of a room was read, so that the restore does not wait for it any more.
    fn is_seen(&mut self, room: &Room, order: ResultOrder) {
        let awaited = self.awaited.get(room);
        if awaited.is_some_and(|awaited| order >= *awaited) {
            self.awaited.remove(room);
        }
    }

    /// Reads final results up to the end of the topic, and waits until the final result of each room in `awaited` was
    /// read.
    fn read_finals(
        &mut self,
        log: &dyn Log,
        windows: &mut TopicReader,
        updates: &Updates,
        bell: &WakeSignal,
        decoder: &mut Decoder,
    ) -> Result<(), LogError> {
        let mut stall = StallTimer::start();
        loop {
            let read = windows.poll(log, bell, updates, &mut |record| {
                if let Some(closed) = final_of(decoder, record) {
                    self.add_final(closed);
                }
            })?;
            if read > 0 {
                stall.reset();
                continue;
            }
            if windows.at_end() && self.awaited.is_empty() {
                return Ok(());
            }
            if windows.at_end() && stall.elapsed() > FINALS_TIMEOUT {
                let rooms = self.awaited.len();
                tracing::warn!(
                    rooms,
                    "the final results that the newest totals contain are missing from the log"
                );
                return Ok(());
            }
            stall.check(log, "the finals")?;
            bell.wait(PARK);
        }
    }

    fn add_final(&mut self, closed: RelayFinal) {
        let room = closed.record.room.clone();
        self.is_seen(&room, closed.order());
        self.finals.entry(room).or_default().push(closed);
    }

    fn fill(mut self, updates: &Updates) {
        for (room, mut finals) in take(&mut self.finals) {
            // Final results of two partitions were read alternately, so they are sorted. The sort keeps the order of
            // the offsets within a partition.
            finals.sort_by_key(RelayFinal::order);
            let record = self.totals.remove(&room).unwrap_or_default();
            let totals = self.complete(&room, record);
            updates.restore_room(&room, totals, finals);
        }
        for (room, record) in take(&mut self.totals) {
            let totals = self.complete(&room, record);
            // A room that was removed has no totals, so it is not restored.
            if totals.total() > 0 {
                updates.restore_room(&room, totals, Vec::new());
            }
        }
        for (room, older) in self.older {
            let totals = older.fold(RoomTotals::default(), RoomTotals::merge);
            updates.restore_room(&room, totals, Vec::new());
        }
    }

    /// Returns the totals of a room as of the last final result before the ring: its totals record, and the counts of
    /// later final results.
    fn complete(&mut self, room: &Room, record: RoomTotals) -> RoomTotals {
        match self.older.remove(room) {
            Some(older) => older.fold(record, RoomTotals::merge),
            None => record,
        }
    }
}
