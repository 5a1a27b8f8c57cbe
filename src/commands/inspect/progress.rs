//! Prints the stored progress as a table: a row for each partition, with the current end offset of the partition.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use emostream_app::process::{Failure, output};
use emostream_dataflow::{LATENESS_MS, PartitionProgress, Progress, SWARM_SIZE, WINDOW_MS};
use emostream_log::{Log, WakeSignal};
use emostream_model::Topics;
use indicatif::HumanCount;

use super::{POLL_INTERVAL, merge::Merge, ranges};
use crate::cli::parse::{From, moment, now_ms, span_ms};

/// Timeout of the request for the end offsets of the partitions.
const END_TIMEOUT: Duration = Duration::from_secs(8);

/// Prints the newest progress. With `follow`, later progress is printed, too.
pub(super) fn run(log: &dyn Log, topics: &Topics, follow: bool) -> Result<(), Failure> {
    let topic = topics.progress();
    let bell = WakeSignal::default();
    let from = ranges(log, &topic, From::Earliest)?;
    let mut merge = Merge::open(log, &topic, &from, bell.wake())?;
    let mut newest = None;
    let mut shown = false;
    // The explanation of the columns is printed only once, after the first table.
    let mut explain = true;
    loop {
        let batch = merge.next()?;
        let idle = batch.is_empty();
        newest = batch.into_iter().last().or(newest);
        if !idle {
            continue;
        }
        if !merge.caught_up() {
            bell.wait(POLL_INTERVAL);
            continue;
        }
        let page = match newest.take() {
            // A record with an empty value is a tombstone, so no progress is stored.
            Some(record) if !record.value.is_empty() => {
                let page = page(log, topics, &record.value)?;
                Some(
                    page + if std::mem::take(&mut explain) {
                        LEGEND
                    } else {
                        ""
                    },
                )
            }
            Some(_) => Some(nothing()),
            None if !shown => Some(nothing()),
            None => None,
        };
        if let Some(page) = page {
            shown = true;
            match output::print(&page) {
                Ok(()) => {}
                gone => return output::quietly(gone),
            }
        }
        if !follow {
            return Ok(());
        }
        merge.follow();
        bell.wait(POLL_INTERVAL);
    }
}

fn nothing() -> String {
    "no progress is stored: the dataflow has not committed yet\n".to_owned()
}

/// The explanation of the columns, which is printed below the table.
const LEGEND: &str = "\
F          final until: every window that ends by then is final, and its results are committed
R          restart offset: the first record that may count in an open window; the next run starts reading here
N          committed offset: records before it are never counted or rejected twice
lag        number of records that are not committed yet, usually those of the last few seconds. Without reactions,
           these are the heartbeats of the ingests since the last commit
watermark  newest time of the records before R, less the lateness: records from R on are expected to be newer
";

fn page(log: &dyn Log, topics: &Topics, value: &[u8]) -> Result<String, Failure> {
    let progress: Progress = match serde_json::from_slice(value) {
        Ok(progress) => progress,
        Err(error) => {
            let text = String::from_utf8_lossy(value);
            return Ok(format!(
                "progress that this version cannot read ({error}): {}\n",
                output::escaped(&text)
            ));
        }
    };
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header([
            "partition",
            "R: resumes at",
            "N: read to",
            "log ends at",
            "lag",
            "watermark at R",
        ]);
    let ends = log.high_watermarks(&topics.reactions(), END_TIMEOUT);
    // If the end offsets cannot be requested, the table is shown without them. The topic may have been deleted, which a
    // user can fix by `reset`.
    let ends = ends.unwrap_or_else(|error| {
        tracing::debug!(%error, "no ends");
        Vec::new()
    });
    for partition in &progress.partitions {
        let end = ends.get(partition.partition as usize);
        table.add_row(row(
            partition,
            end.and_then(|end| end.as_ref().ok()).copied(),
        ));
    }
    for column in table.column_iter_mut().take(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let headline = headline(&progress, now_ms());
    let run = progress.run.as_ref();
    let committed = run.map_or(String::new(), |run| format!("committed by {run}\n"));
    let unwritten = unwritten(&progress).unwrap_or_default();
    Ok(format!("{headline}\n{committed}{unwritten}{table}\n\n"))
}

/// Returns a sentence about rooms whose totals records do not contain all final results yet; `None` if there are no
/// such rooms.
fn unwritten(progress: &Progress) -> Option<String> {
    let since = progress.unwritten.since?;
    Some(format!(
        "the totals records of some large rooms do not include the final results since {} yet; new totals records are usually written within minutes\n",
        moment(since.start_ms)
    ))
}

fn row(partition: &PartitionProgress, end: Option<u64>) -> [String; 6] {
    let gone = || "gone".to_owned();
    let read = partition.read_offset;
    [
        partition.partition.to_string(),
        partition.resume_offset.to_string(),
        read.to_string(),
        end.map_or_else(gone, |end| end.to_string()),
        end.map_or_else(gone, |end| match end.checked_sub(read) {
            Some(lag) => HumanCount(lag).to_string(),
            None => format!("-{}", read - end),
        }),
        match partition.resume_watermark_ms {
            0 => "nothing seen".to_owned(),
            at_ms => moment(at_ms),
        },
    ]
}

fn headline(progress: &Progress, now_ms: u64) -> String {
    let settings = match &progress.settings {
        Some(settings) => {
            let number = |name| settings.number(name).unwrap_or_default();
            format!(
                "settings: windows of {}, lateness {}, swarms of {} identical emojis",
                span_ms(number(WINDOW_MS)),
                span_ms(number(LATENESS_MS)),
                number(SWARM_SIZE)
            )
        }
        None => "reset: the next run may have any settings".to_owned(),
    };
    let until_ms = progress.final_until_ms;
    match until_ms {
        0 => format!("nothing is final yet; {settings}"),
        _ => format!(
            "final up to {} (F), {}; {settings}",
            moment(until_ms),
            age(now_ms.saturating_sub(until_ms))
        ),
    }
}

/// Formats an age in the greatest unit (days, hours, minutes) of which it has at least two, as a whole number. A
/// shorter age is formatted in seconds.
fn age(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min")];
    let fits = units.iter().find(|(unit, _)| ms >= 2 * unit);
    match fits {
        Some((unit, name)) => format!("{} {name} ago", ms / unit),
        None => format!("{:.1} s ago", ms as f64 / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use emostream_model::ResultOrder;

    use super::*;

    #[test]
    fn a_row_shows_the_lag() {
        let partition = PartitionProgress {
            resume_watermark_ms: 1_764_000_000_000,
            read_offset: 20,
            ..PartitionProgress::begin(3, 10)
        };
        assert_eq!(
            row(&partition, Some(1420)),
            ["3", "10", "20", "1420", "1,400", "2025-11-24 16:00:00 UTC"]
        );
        assert_eq!(row(&partition, Some(15))[4], "-5");
        assert_eq!(row(&partition, None)[3..5], ["gone", "gone"]);
    }

    #[test]
    fn totals_that_are_not_complete_are_named() {
        let mut progress = Progress::default();
        assert_eq!(unwritten(&progress), None);
        progress.unwritten.since = Some(ResultOrder {
            resets: 0,
            start_ms: 1_764_000_000_000,
        });
        let sentence = unwritten(&progress).unwrap();
        assert!(
            sentence.contains("since 2025-11-24 16:00:00 UTC"),
            "{sentence}"
        );
    }

    #[test]
    fn the_headline_shows_the_age_of_f() {
        let mut progress = Progress::default();
        assert!(headline(&progress, 5).starts_with("nothing is final yet"));
        progress.final_until_ms = 1_764_000_000_000;
        let headline = headline(&progress, 1_764_000_003_500);
        assert!(
            headline.contains("16:00:00 UTC (F), 3.5 s ago"),
            "{headline}"
        );
        assert_eq!(age(3 * 3_600_000), "3 h ago");
    }
}
