//! The format of a progress record: JSON, which operators can read, and earlier and later versions can parse.
//!
//! ```json
//! {"format":1,
//!  "settings":{"source":"app.source","window_ms":2000,"lateness_ms":750},
//!  "final_until_ms":1764000002000,
//!  "partitions":[{"topic":"app.source","partition":0,"resume_offset":17,
//!    "resume_watermark_ms":1764000001250,"read_offset":21,"last":{"offset":20,"time_ms":1764000002100}}],
//!  "cluster_id":"…","run":{"host":"a","process":0,"pid":4711,"started_ms":1764000000000},
//!  "heartbeat_ms":2000}
//! ```
//!
//! The progress topic contains only such records. A reader ignores fields that it does not know. So:
//! - Format 1 is the format of version 0.1. A record has this number if a reader may ignore all newer fields without
//!   changing results, so that version 0.1 can still continue from it.
//! - Format 2 has fields that a reader must support: a backward reset (`resets`, a `newest_final_ms` later than the
//!   final-until time, an entry of `formers` with a later one), a limit above which records are rejected as `ahead`, or
//!   records of tables that are not complete (`unwritten_since`).
//!
//! Later versions may add optional fields without a new format number. Examples are `idle`, `run`, `heartbeat_ms` and
//! `cluster_id`, which only shorten a wait or add a check, and `finals`, which reduces the number of final results that
//! are read. The names `steps` and `horizons` of a partition are reserved for kinds of windows for which a restart
//! needs more than the restart offset.

use bytes::Bytes;
use emostream_log::NewRecord;
use emostream_protocol::Unwritten;
use serde::{Deserialize, Serialize};

use super::{
    record::{
        AheadLimit, LastRecord, PartitionProgress, PriorEpoch, Progress, Resets, RunIdentity,
    },
    settings::Settings,
};
use crate::topics::Topics;

/// The key of each progress record, so that compaction leaves only the newest one.
const PROGRESS_KEY: &[u8] = b"dataflow";

/// The format of a record without fields that a reader must support: version 0.1 can continue from it.
const COMPATIBLE: u32 = 1;

/// The newest format that this version reads and writes.
const NEWEST: u32 = 2;

/// The value of a progress record.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredProgress {
    format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settings: Option<Settings>,
    final_until_ms: u64,
    partitions: Vec<StoredPartition>,
    #[serde(default, rename = "formers", skip_serializing_if = "Vec::is_empty")]
    prior_epochs: Vec<PriorEpoch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resets: Option<Resets>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    newest_final_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<RunIdentity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heartbeat_ms: Option<u64>,
    #[serde(flatten)]
    unwritten: Unwritten,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredPartition {
    #[serde(default)]
    topic: String,
    partition: u32,
    resume_offset: u64,
    resume_watermark_ms: u64,
    read_offset: u64,
    #[serde(default)]
    last: Option<LastRecord>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    idle: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ahead: Option<AheadLimit>,
}

impl StoredProgress {
    fn of(progress: &Progress, source: &str) -> StoredProgress {
        let newest_final_ms = (progress.newest_final_ms > progress.final_until_ms)
            .then_some(progress.newest_final_ms);
        let resets = (progress.resets.number > 0).then_some(progress.resets);
        let set_back = |epoch: &PriorEpoch| epoch.final_until_ms > progress.final_until_ms;
        let must_be_honoured = newest_final_ms.is_some()
            || resets.is_some()
            || progress.unwritten.since.is_some()
            || progress.prior_epochs.iter().any(set_back)
            || progress.partitions.iter().any(|p| p.ahead.is_some());
        let partition = |p: &PartitionProgress| StoredPartition {
            topic: source.to_owned(),
            partition: p.partition,
            resume_offset: p.resume_offset,
            resume_watermark_ms: p.resume_watermark_ms,
            read_offset: p.read_offset,
            last: p.last,
            idle: p.idle,
            ahead: p.ahead,
        };
        StoredProgress {
            format: if must_be_honoured { NEWEST } else { COMPATIBLE },
            settings: progress.settings.clone(),
            final_until_ms: progress.final_until_ms,
            partitions: progress.partitions.iter().map(partition).collect(),
            prior_epochs: progress.prior_epochs.clone(),
            resets,
            newest_final_ms,
            cluster_id: progress.cluster_id.clone(),
            run: progress.run.clone(),
            heartbeat_ms: progress.heartbeat_ms,
            unwritten: progress.unwritten.clone(),
        }
    }
}

impl TryFrom<StoredProgress> for Progress {
    type Error = String;

    fn try_from(stored: StoredProgress) -> Result<Progress, String> {
        if !(COMPATIBLE..=NEWEST).contains(&stored.format) {
            return Err(format!("format {}", stored.format));
        }
        let partition = |p: StoredPartition| PartitionProgress {
            partition: p.partition,
            resume_offset: p.resume_offset,
            resume_watermark_ms: p.resume_watermark_ms,
            read_offset: p.read_offset,
            last: p.last,
            idle: p.idle,
            ahead: p.ahead,
        };
        Ok(Progress {
            settings: stored.settings,
            final_until_ms: stored.final_until_ms,
            partitions: stored.partitions.into_iter().map(partition).collect(),
            prior_epochs: stored.prior_epochs,
            resets: stored.resets.unwrap_or_default(),
            newest_final_ms: stored.newest_final_ms.unwrap_or(stored.final_until_ms),
            cluster_id: stored.cluster_id,
            run: stored.run,
            heartbeat_ms: stored.heartbeat_ms,
            unwritten: stored.unwritten,
        })
    }
}

/// Encodes `progress` as the value of a progress record. `source` is the topic of its partitions.
pub fn encode(progress: &Progress, source: &str) -> Vec<u8> {
    serde_json::to_vec(&StoredProgress::of(progress, source))
        .expect("progress can always be encoded as JSON")
}

/// Returns the record of `progress`.
pub fn progress_record(topics: &Topics, progress: &Progress) -> NewRecord {
    NewRecord {
        topic: topics.progress.clone(),
        partition: Some(0),
        time_ms: None,
        key: Some(Bytes::from_static(PROGRESS_KEY)),
        value: encode(progress, &topics.source).into(),
        headers: Vec::new(),
    }
}

/// Decodes the progress in a record's value.
///
/// # Errors
///
/// The reason why the value cannot be decoded.
pub fn decode(value: &[u8]) -> Result<Progress, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use emostream_protocol::{FinalsFrom, ResultOrder};

    use super::*;

    /// A record of version 0.1.
    const BY_0_1: &str = r#"{"format":1,"settings":{"source":"app.source","window_ms":2000,"lateness_ms":750,"scale":1000},"final_until_ms":1764000002000,"partitions":[{"partition":0,"resume_offset":17,"resume_watermark_ms":1764000001250,"read_offset":21,"last":{"offset":20,"time_ms":1764000002100}}],"formers":[{"window_ms":1000,"lateness_ms":750,"final_until_ms":1763999999000,"read_offsets":[[0,18]]}]}"#;

    #[test]
    fn records_of_version_0_1_are_read_and_written_in_a_form_that_it_can_read() {
        let progress = decode(BY_0_1.as_bytes()).unwrap();
        assert_eq!(progress.final_until_ms, 1_764_000_002_000);
        assert_eq!(progress.newest_final_ms, progress.final_until_ms);
        let again: serde_json::Value =
            serde_json::from_slice(&encode(&progress, "app.source")).unwrap();
        let former: serde_json::Value = serde_json::from_str(BY_0_1).unwrap();
        for (name, value) in former.as_object().unwrap() {
            if !["partitions", "formers"].contains(&name.as_str()) {
                assert_eq!(&again[name], value, "{name}");
            }
        }
        for list in ["partitions", "formers"] {
            for (name, value) in former[list][0].as_object().unwrap() {
                assert_eq!(&again[list][0][name], value, "{list}: {name}");
            }
        }
    }

    #[test]
    fn a_heartbeat_is_a_field_that_version_0_1_may_ignore() {
        let plain = decode(BY_0_1.as_bytes()).unwrap();
        assert_eq!(plain.heartbeat_ms, None);
        let beating = Progress {
            heartbeat_ms: Some(2000),
            ..plain
        };
        let value = encode(&beating, "r");
        let json: serde_json::Value = serde_json::from_slice(&value).unwrap();
        assert_eq!(
            (&json["format"], &json["heartbeat_ms"]),
            (&1.into(), &2000.into())
        );
        assert_eq!(decode(&value).unwrap(), beating);
    }

    #[test]
    fn a_reset_is_recognised_by_its_record() {
        let run = decode(BY_0_1.as_bytes()).unwrap();
        assert!(!run.is_of_a_reset(), "version 0.1 stores no run");
        let rejects_only = Progress {
            heartbeat_ms: Some(2000),
            ..run.clone()
        };
        assert!(rejects_only.is_of_a_reset());
        let forgets = Progress {
            settings: None,
            ..run
        };
        assert!(forgets.is_of_a_reset());
    }

    #[test]
    fn fields_that_a_reader_must_support_have_a_format_that_version_0_1_refuses() {
        let plain = decode(BY_0_1.as_bytes()).unwrap();
        let format = |progress: &Progress| {
            let value: serde_json::Value = serde_json::from_slice(&encode(progress, "r")).unwrap();
            value["format"].as_u64().unwrap()
        };
        assert_eq!(format(&plain), 1);
        let mut ahead = plain.clone();
        ahead.partitions[0].ahead = Some(AheadLimit {
            below_offset: 9,
            limit_ms: 5,
        });
        let mut reset = plain.clone();
        reset.resets.number = 1;
        let mut newest_final = plain.clone();
        newest_final.newest_final_ms += 1;
        let mut set_back = plain.clone();
        set_back.prior_epochs[0].final_until_ms = u64::MAX;
        let mut unwritten = plain.clone();
        unwritten.unwritten.since = Some(ResultOrder::default());
        for progress in [ahead, reset, newest_final, set_back, unwritten] {
            assert_eq!(format(&progress), 2);
            assert_eq!(decode(&encode(&progress, "r")).unwrap(), progress);
        }
    }

    #[test]
    fn offsets_of_finals_are_a_field_that_version_0_1_may_ignore() {
        let mut progress = decode(BY_0_1.as_bytes()).unwrap();
        assert_eq!(progress.unwritten, Unwritten::default());
        progress.unwritten.finals = Some(FinalsFrom {
            since: ResultOrder::default(),
            offsets: vec![(0, 17), (1, 4)],
        });
        let json = encode(&progress, "r");
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value["format"], 1);
        assert_eq!(decode(&json).unwrap(), progress);
    }

    #[test]
    fn a_newer_format_is_refused() {
        let newer = BY_0_1.replace("\"format\":1", "\"format\":3");
        assert!(decode(newer.as_bytes()).unwrap_err().contains("format 3"));
    }
}
