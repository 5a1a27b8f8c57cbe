//! Where a run begins: read from the log and compared, then fenced, then read and compared again.
//!
//! ```text
//!  newest finals ─▶ progress ─▶ offsets of the reactions ─▶ does it fit? ──no──▶ refused, nothing was touched
//!                                                             │ yes
//!                                                 fence ─▶ the same once more ─▶ totals, trending ─▶ begin
//! ```
//!
//! Reading the totals of many rooms takes seconds, in which the run commits its progress again and again
//! ([`crate::commit`]): a standby must not take it for dead.
//!
//! Invariants:
//! - A start that is refused fences no run: one with the wrong flags does not end the healthy one.
//! - What a run begins with was read after every older run was fenced, so no other run can change it.
//! - Finals are read before the progress that covers them, and offsets after it: a commit of the running
//!   dataflow in between makes nothing look as if it did not fit.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    time::Duration,
};

use emostream_log::{Log, LogError, Record, Transactor, read_last, read_since, read_to_end};
use emostream_model::{Room, Topics, TotalsRecord, Trending, TrendingRecord, WindowRecord};

use crate::{
    Config, DataflowError,
    clock::{MAX_AHEAD_MS, PartitionClock},
    fit::compare,
    holds::moment,
    progress::{COMMIT_HEADER, CommitId, PartitionProgress, Progress},
    results::resets_of,
    sink::HEARTBEAT,
    slide::Stay,
    stored_progress, topic_settings,
    totals::RoomTotals,
};

/// A final's record is written after its window, by clocks that may differ: how much earlier than the
/// window's end its time may be at most. More than the five seconds that reactions may be ahead.
const WRITTEN_EARLY_MS: u64 = 60_000;

/// How long a broker may take to tell the end of the progress topic.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// How many of the last offsets of the progress topic are read for its newest record: it, and what its
/// transaction left.
const LAST_PROGRESS: u64 = 10;

/// How many of the last offsets of each partition of the windows may hold the newest final: more than a
/// transaction writes of one window after a later one.
const LAST_FINALS: u64 = 1000;

/// The totals of every room as of F.
pub type RecoveredTotals = Vec<RoomTotals>;

/// What lies in the trending span as of F, from time 0 on.
pub type RecoveredTrending = Vec<Stay>;

/// What a run has once every older run is fenced.
pub struct TakenOver {
    /// The only transactor that can commit.
    pub transactor: Box<dyn Transactor>,
    /// The newest commit.
    pub newest: Option<CommitId>,
    /// The progress that it goes on from, with its own settings and every partition of the reactions.
    pub progress: Progress,
    /// F as it was stored: after a reset it may lie within one of this run's windows, and the progress's F is their
    /// next end.
    pub stored_until_ms: u64,
}

/// What a run restores from the results of those before it.
pub struct Restored {
    /// The totals of every room as of F.
    pub totals: RecoveredTotals,
    /// What lies in the trending span as of F.
    pub trending: RecoveredTrending,
}

/// Checks that a run with this configuration can go on from what the log holds. Fences no run.
pub fn check(config: &Config, log: &dyn Log) -> Result<Option<Progress>, DataflowError> {
    require_topics(config, log)?;
    Ok(Found::read(config, log)?.stored)
}

fn require_topics(config: &Config, log: &dyn Log) -> Result<(), DataflowError> {
    let topics = &config.topics;
    log.partitions(&topics.live())
        .and_then(|_| require_result_topics(topics, log))
        .map_err(DataflowError::Start)?;
    topic_settings::require(config, log)
}

/// Checks that a run can begin, fences older runs, and reads where they got to.
///
/// `None` if the end of the progress topic is not `silent_at` any more, just before it would fence: the active run of
/// a standby lives, or another standby was first.
pub fn take_over(
    config: &Config,
    log: &dyn Log,
    silent_at: Option<u64>,
) -> Result<Option<TakenOver>, DataflowError> {
    let topics = &config.topics;
    require_topics(config, log)?;
    let before = Found::read(config, log)?;
    if let Some(end) = silent_at {
        let ends = log.end_offsets(&topics.progress(), 0, END_PATIENCE);
        if ends.map_err(DataflowError::Start)?.end != end {
            return Ok(None);
        }
    }
    let transactor = fence(topics, log, config.commit_timeout).map_err(DataflowError::Start)?;
    // Where no run has committed meanwhile, all of it holds still.
    let found = match stored(topics, log)? == before.stored {
        true => before.clone(),
        false => Found::read(config, log)?,
    };
    if found.stored != before.stored && found.is_reset() {
        let topic = topics.progress();
        return Err(DataflowError::ResetMeanwhile { topic });
    }
    let stored = found.stored.clone().unwrap_or_default();
    let final_until_ms = config.window.ceil(stored.final_until_ms);
    for known in &stored.partitions {
        tracing::debug!(
            partition = known.partition,
            resume_offset = known.resume_offset,
            read_offset = known.read_offset,
            "stored progress"
        );
    }
    Ok(Some(TakenOver {
        transactor,
        newest: newest_commit(topics, log).map_err(DataflowError::Start)?,
        stored_until_ms: stored.final_until_ms,
        progress: Progress {
            settings: Some(config.settings()),
            final_until_ms,
            partitions: found.partitions(config),
            newest_final_ms: stored.newest_final_ms.max(found.newest_final_ms),
            cluster_id: log.cluster_id(),
            run: Some(config.identity()),
            heartbeat_ms: Some(HEARTBEAT.as_millis() as u64),
            formers: stored.formers,
            resets: stored.resets,
        },
    }))
}

impl TakenOver {
    /// The progress as it is to be committed before anything is counted: with F as it was stored, so that a run that
    /// begins from this record restores the same as this one.
    pub fn unchanged(&self) -> Progress {
        Progress {
            final_until_ms: self.stored_until_ms,
            ..self.progress.clone()
        }
    }
}

/// Reads the results that a run goes on from: as of `progress`, whose F was stored as `stored_until_ms`.
pub fn restore(
    config: &Config,
    log: &dyn Log,
    progress: &Progress,
    stored_until_ms: u64,
) -> Result<Restored, DataflowError> {
    Ok(Restored {
        trending: trending(config, log, progress, stored_until_ms)?,
        totals: totals(&config.topics.totals(), log)?,
    })
}

/// [`LogError::UnknownTopic`] if a topic does not exist that transactions write to.
pub fn require_result_topics(topics: &Topics, log: &dyn Log) -> Result<(), LogError> {
    let written = [
        topics.windows(),
        topics.totals(),
        topics.trending(),
        topics.rejected(),
    ];
    written
        .iter()
        .try_for_each(|topic| log.partitions(topic).map(drop))
}

/// Refuses progress that was made under other settings.
pub fn require_settings(config: &Config, stored: &Progress) -> Result<(), DataflowError> {
    let stored = stored.settings.as_ref();
    let Some(difference) = stored.and_then(|it| config.settings().difference(it)) else {
        return Ok(());
    };
    let topic = config.topics.progress();
    Err(DataflowError::OtherSettings { topic, difference })
}

/// What the log says of where the dataflow stands, and that a run with some settings can go on from it.
#[derive(Clone)]
struct Found {
    newest_final_ms: u64,
    stored: Option<Progress>,
    /// What each partition of the reactions holds.
    kept: Vec<Range<u64>>,
}

impl Found {
    fn read(config: &Config, log: &dyn Log) -> Result<Found, DataflowError> {
        let topics = &config.topics;
        let newest_final_ms = newest_final_ms(topics, log)?;
        let stored = stored(topics, log)?;
        let known = stored.clone().unwrap_or_default();
        let (kept, misfits) =
            compare(&topics.reactions(), log, &known).map_err(DataflowError::Start)?;
        require_cluster(topics, log, &known)?;
        require_settings(config, &known)?;
        require_progress(topics, newest_final_ms, stored.as_ref())?;
        let now_ms = config.clock.unix_ms();
        let last_begins_ms = known.final_until_ms.saturating_sub(config.window.as_ms());
        if last_begins_ms > now_ms.saturating_add(MAX_AHEAD_MS) {
            return Err(DataflowError::FinalAhead {
                final_until: moment(known.final_until_ms),
                now: moment(now_ms),
            });
        }
        if let Some(misfit) = misfits.into_iter().next() {
            return Err(DataflowError::Misfit { misfit });
        }
        Ok(Found {
            newest_final_ms,
            stored,
            kept,
        })
    }

    fn is_reset(&self) -> bool {
        self.stored.as_ref().is_some_and(|it| it.settings.is_none())
    }

    /// Where each partition resumes: where the stored progress says, a new one at its beginning.
    fn partitions(&self, config: &Config) -> Vec<PartitionProgress> {
        let stored = self.stored.clone().unwrap_or_default();
        let resume = |(partition, kept): (u32, &Range<u64>)| {
            let known = stored.partitions.iter().find(|p| p.partition == partition);
            let mut progress = known
                .copied()
                .unwrap_or_else(|| PartitionProgress::begin(partition, kept.start));
            if let (None, Some(former)) = (&stored.settings, stored.formers.last()) {
                progress.resume_watermark_ms =
                    PartitionClock::resumed(progress.resume_watermark_ms, former.lateness_ms)
                        .newest_ms()
                        .saturating_sub(config.lateness_ms);
            }
            progress
        };
        (0..).zip(&self.kept).map(resume).collect()
    }
}

/// Refuses progress of another Kafka cluster.
pub fn require_cluster(
    topics: &Topics,
    log: &dyn Log,
    stored: &Progress,
) -> Result<(), DataflowError> {
    match (stored.cluster_id.clone(), log.cluster_id()) {
        (Some(stored), Some(now)) if stored != now => {
            let topic = topics.progress();
            Err(DataflowError::OtherCluster { topic, stored, now })
        }
        _ => Ok(()),
    }
}

/// Refuses progress that does not know of the newest final: it was lost, or rolled back.
pub fn require_progress(
    topics: &Topics,
    newest_final_ms: u64,
    stored: Option<&Progress>,
) -> Result<(), DataflowError> {
    let known_ms = stored.map_or(0, |stored| {
        stored.newest_final_ms.max(stored.final_until_ms)
    });
    if newest_final_ms <= known_ms {
        return Ok(());
    }
    Err(DataflowError::FinalsBeyondProgress {
        windows: topics.windows(),
        progress: topics.progress(),
        newest: moment(newest_final_ms),
        known: match stored {
            Some(stored) => format!("ends at {}", moment(stored.final_until_ms)),
            None => "is empty".to_owned(),
        },
    })
}

/// The end of the newest window that has finals; 0 if there are none.
///
/// Finals of one partition lie in the order of their windows, but for those of one transaction: so its last
/// records are looked at.
pub fn newest_final_ms(topics: &Topics, log: &dyn Log) -> Result<u64, DataflowError> {
    let mut newest_ms = 0;
    let mut keep = |record: Record<'_>| {
        if let Ok(closed) = serde_json::from_slice::<WindowRecord>(record.value) {
            newest_ms = newest_ms.max(closed.window.end);
        }
    };
    read_last(log, &topics.windows(), LAST_FINALS, &mut keep).map_err(DataflowError::Start)?;
    Ok(newest_ms)
}

/// Kafka's transactional id for the results. All runs on the same topics share it, so that a new one fences the others.
pub fn transactional_id(topics: &Topics) -> String {
    format!("{}.dataflow", topics.prefix())
}

/// The consumer group whose offsets show how far a run has read the reactions.
pub fn consumer_group(topics: &Topics) -> String {
    format!("{}.dataflow", topics.prefix())
}

/// Fences every older run: none can commit any more. The log aborts a transaction that takes longer than `timeout`.
pub fn fence(
    topics: &Topics,
    log: &dyn Log,
    timeout: Duration,
) -> Result<Box<dyn Transactor>, LogError> {
    log.transactor(&transactional_id(topics), timeout)
}

/// Offset and value of the newest progress record.
pub fn newest_record(topics: &Topics, log: &dyn Log) -> Result<Option<(u64, Vec<u8>)>, LogError> {
    let mut newest = None;
    let mut keep = |record: Record<'_>| newest = Some((record.offset, record.value.to_vec()));
    read_last(log, &topics.progress(), LAST_PROGRESS, &mut keep)?;
    Ok(newest)
}

/// The newest commit; `None` if there is none, or a former version made it.
pub fn newest_commit(topics: &Topics, log: &dyn Log) -> Result<Option<CommitId>, LogError> {
    let mut newest = None;
    let mut keep = |record: Record<'_>| {
        let headers = record.headers.read();
        let commit = headers.iter().find(|header| header.name == COMMIT_HEADER);
        newest = commit.and_then(|commit| CommitId::parse(&commit.value));
    };
    read_last(log, &topics.progress(), LAST_PROGRESS, &mut keep)?;
    Ok(newest)
}

/// The progress that was committed last; `None` if there is none. It may be moved until its writer is
/// fenced.
pub fn stored(topics: &Topics, log: &dyn Log) -> Result<Option<Progress>, DataflowError> {
    let newest = newest_record(topics, log).map_err(DataflowError::Start)?;
    newest.map_or(Ok(None), |(_, value)| decode(topics, &value))
}

/// The progress in a record's value; `None` if the record deletes it.
pub fn decode(topics: &Topics, value: &[u8]) -> Result<Option<Progress>, DataflowError> {
    if value.is_empty() {
        return Ok(None);
    }
    let unreadable = |detail| DataflowError::UnreadableProgress {
        topic: topics.progress(),
        detail,
    };
    stored_progress::decode(value).map(Some).map_err(unreadable)
}

fn totals(topic: &str, log: &dyn Log) -> Result<RecoveredTotals, DataflowError> {
    // By name, as windows bring them: what is known first is numbered first.
    let mut rooms: BTreeMap<Room, (u64, TotalsRecord)> = BTreeMap::new();
    let mut unreadable = 0_u64;
    let mut keep = |record: Record<'_>| match serde_json::from_slice::<TotalsRecord>(record.value) {
        Ok(totals) => {
            let resets = resets_of(&record);
            let as_of = |resets: u64, totals: &TotalsRecord| (resets, totals.window.start);
            // Not the record that is read last: the topic may have got more partitions, and a room another one.
            let older = |(known_resets, known): &(u64, TotalsRecord)| {
                as_of(*known_resets, known) <= as_of(resets, &totals)
            };
            if rooms.get(&totals.room).is_none_or(older) {
                rooms.insert(totals.room.clone(), (resets, totals));
            }
        }
        Err(_) => unreadable += 1,
    };
    read_to_end(log, topic, &mut keep).map_err(DataflowError::Start)?;
    if unreadable > 0 {
        tracing::warn!(topic, unreadable, "records that are no totals were skipped");
    }
    let recovered = |(_, totals): (u64, TotalsRecord)| {
        let named = totals.counts.named.into_iter();
        RoomTotals {
            room: totals.room,
            start_ms: totals.window.start,
            counts: named.map(|count| (count.emoji, count.count)).collect(),
            unnamed: totals.counts.unnamed,
        }
    };
    Ok(rooms.into_values().map(recovered).collect())
}

/// What lies in the trending span as of F: the finals that the stored F has not seen leave.
///
/// The next run may begin at a greater F, or with another span. What should have left by then, and what
/// the topic shows of a room though no final backs it, leaves at its F: so the topic comes right there.
///
/// Finals of a time that was given up by a reset are in no span.
fn trending(
    config: &Config,
    log: &dyn Log,
    progress: &Progress,
    stored_until_ms: u64,
) -> Result<RecoveredTrending, DataflowError> {
    let (span, topics, resets) = (config.span(), &config.topics, progress.resets);
    let final_until_ms = progress.final_until_ms;
    let since_ms = stored_until_ms.saturating_sub(span.span_ms + WRITTEN_EARLY_MS);
    let mut stays = Vec::new();
    let mut keep = |record: Record<'_>| {
        if let Ok(closed) = serde_json::from_slice::<WindowRecord>(record.value) {
            let leaves_ms = span.leaves_ms(closed.window.start);
            let given_up =
                closed.window.end > resets.until_ms && resets_of(&record) < resets.number;
            if leaves_ms >= stored_until_ms && !given_up {
                stays.push(Stay {
                    room: closed.room,
                    from_ms: 0,
                    until_ms: leaves_ms.max(final_until_ms),
                    counts: closed.counts.iter().map(|t| (t.emoji, t.count)).collect(),
                });
            }
        }
    };
    read_since(log, &topics.windows(), since_ms, &mut keep).map_err(DataflowError::Start)?;
    let backed: HashSet<Room> = stays.iter().map(|stay| stay.room.clone()).collect();
    for shown in shown(&topics.trending(), log)? {
        if shown.span_ms != span.span_ms || !backed.contains(&shown.room) {
            stays.push(Stay {
                room: shown.room,
                from_ms: 0,
                until_ms: final_until_ms,
                counts: shown.top.iter().map(|c| (c.emoji, c.count)).collect(),
            });
        }
    }
    Ok(stays)
}

/// The rooms that the topic shows as trending.
fn shown(topic: &str, log: &dyn Log) -> Result<Vec<TrendingRecord>, DataflowError> {
    let mut rooms: BTreeMap<Room, TrendingRecord> = BTreeMap::new();
    let mut keep = |record: Record<'_>| {
        if let Ok(Trending::Room(record)) = serde_json::from_slice(record.value) {
            match record.top.is_empty() {
                true => rooms.remove(&record.room),
                false => rooms.insert(record.room.clone(), record),
            };
        }
    };
    read_to_end(log, topic, &mut keep).map_err(DataflowError::Start)?;
    Ok(rooms.into_values().collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use emostream_log::{Cleanup, Header, NewRecord, TopicSpec, embedded::EmbeddedLog};
    use emostream_model::RESETS_HEADER;

    use super::*;

    #[test]
    fn totals_after_a_backward_reset_win_over_those_of_a_later_window() {
        let log = EmbeddedLog::in_memory().unwrap();
        log.create_topic(&TopicSpec {
            name: "totals".to_owned(),
            partitions: 2,
            replication: 1,
            min_in_sync: 1,
            cleanup: Cleanup::Compact,
            max_ahead: None,
        })
        .unwrap();
        let totals = |partition, start: u64, count: u64, headers| {
            NewRecord {
            topic: "totals".to_owned(),
            partition: Some(partition),
            time_ms: None,
            key: Some("a".into()),
            value: format!(
                r#"{{"room":"a","start":{start},"end":{},"total":{count},"counts":[{{"emoji":"🔥","count":{count}}}]}}"#,
                start + 2000
            )
            .into(),
            headers,
        }
        };
        let reset = vec![Header {
            name: RESETS_HEADER.to_owned(),
            value: "1".into(),
        }];
        // Read in this order: the one that counts lies in the partition that is read first.
        let records = vec![totals(0, 2000, 7, reset), totals(1, 8000, 5, vec![])];
        log.transactor("t", std::time::Duration::from_secs(5))
            .unwrap()
            .commit(records)
            .unwrap();
        let restored = super::totals("totals", &log).unwrap();
        let counts = restored.into_iter().flat_map(|totals| totals.counts);
        let counts: Vec<u64> = counts.map(|(_, count)| count).collect();
        assert_eq!(counts, [7]);
    }
}
