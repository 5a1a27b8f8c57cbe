//! `emostream inspect`: reads a topic, decodes its records, and prints them as a table or as JSON.
//!
//! ```text
//!  log ──partitions──▶ merge by time ──▶ decode ──▶ table, or one JSON object per line
//! ```

mod decode;
mod merge;
mod progress;
mod table;

use std::{ops::Range, time::Duration};

use clap::{Args, ValueEnum};
use emostream_log::{Log, WakeSignal};
use emostream_model::{Room, Topics};

use self::{decode::Decoded, merge::Merge, table::Table};
use crate::{
    cli::flags::{StoreFlags, TopicFlags},
    cli::parse::{From, moment, now_ms, span},
    exit::Failure,
    output,
    signal::Signals,
};

/// Maximum time until the next poll of a reader that waits for new records, in case a wake-up is lost.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The topic to read
    #[arg(value_name = "TOPIC")]
    topic: Topic,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    topics: TopicFlags,
    /// Print only the records of this room
    #[arg(long)]
    room: Option<Room>,
    /// Position to start from: earliest, latest, -10m (10 minutes ago), or a time such as 2026-01-31T20:15:00Z
    #[arg(long, default_value = "earliest", allow_hyphen_values = true)]
    from: From,
    /// Read only this partition
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Do not end after the last record, but wait for new ones
    #[arg(long)]
    follow: bool,
    /// Also show heartbeats (the empty records of an ingest) in the table of reactions
    #[arg(long)]
    heartbeats: bool,
    /// Output format
    #[arg(long, default_value = "table")]
    format: Format,
}

/// The topics that can be read. Each is named by the last word of the topic's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Topic {
    /// Finals: the exact tallies of closed windows
    Windows,
    /// Live tallies of open windows
    Live,
    /// Cumulative counts of each room
    Totals,
    /// The top emojis of each room and of all rooms in a sliding span of time
    Trending,
    /// Reactions that were not counted: late, with a timestamp too far in the future, undecodable, or with an unknown
    /// emoji
    Rejected,
    /// Stored progress of the dataflow
    Progress,
    /// Accepted reactions
    Reactions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table that fits the terminal
    Table,
    /// One JSON object per line
    Json,
}

impl Topic {
    fn name(self, topics: &Topics) -> String {
        match self {
            Self::Windows => topics.windows(),
            Self::Live => topics.live(),
            Self::Totals => topics.totals(),
            Self::Trending => topics.trending(),
            Self::Rejected => topics.rejected(),
            Self::Progress => topics.progress(),
            Self::Reactions => topics.reactions(),
        }
    }
}

pub(crate) fn run(flags: Flags, signals: &Signals) -> Result<(), Failure> {
    let topic = flags.topic.name(&flags.topics.names());
    if !flags.follow {
        signals.interrupt_work();
    }
    let log = flags.store.clone().open_for_reading()?;
    if flags.topic == Topic::Progress && flags.format == Format::Table {
        return progress::run(&*log, &flags.topics.names(), flags.follow);
    }
    let mut ranges = ranges(&*log, &topic, flags.from)?;
    if let Some(only) = flags.partition {
        let partitions = ranges.len();
        ranges.retain(|(partition, ..)| *partition == only);
        if ranges.is_empty() {
            let why = format!(
                "{topic} has the partitions 0 to {}",
                partitions.saturating_sub(1)
            );
            return Err(Failure::usage("--partition", why));
        }
    }
    let bell = WakeSignal::default();
    let mut merge = Merge::open(&*log, &topic, &ranges, bell.wake())?;
    let mut printer = Printer {
        format: flags.format,
        table: Table::new(flags.topic),
    };
    let table = flags.format == Format::Table;
    let silent = |decoded: &Decoded| table && decoded.heartbeat && !flags.heartbeats;
    let wanted = |decoded: Decoded| {
        let decoded = decoded.only(flags.room.as_ref())?;
        (!silent(&decoded)).then_some(decoded)
    };
    let (mut read, mut shown, mut explained) = (0, 0, false);
    loop {
        let batch = merge.next()?;
        let idle = batch.is_empty();
        let rows = batch
            .iter()
            .map(|record| decode::decode(flags.topic, record));
        let rows: Vec<Decoded> = rows.filter_map(wanted).collect();
        (read, shown) = (read + batch.len(), shown + rows.len());
        match printer.print(rows) {
            Ok(()) => {}
            gone => return output::quietly(gone),
        }
        if idle && merge.caught_up() {
            // An empty table would not show the reason, so a sentence explains it. The sentence is printed to standard
            // error, because programs may read standard output.
            if shown == 0 && !std::mem::replace(&mut explained, true) {
                output::print_error(&nothing(&flags, &topic, ranges.len(), read));
            }
            match flags.follow {
                true => {
                    merge.follow();
                    output_of(&mut printer)?;
                    bell.wait(POLL_INTERVAL);
                }
                false => return output_of(&mut printer),
            }
        } else if idle {
            bell.wait(POLL_INTERVAL);
        }
    }
}

/// Returns the sentence that is printed if there is no row: how many records were read, and why none of them is shown.
fn nothing(flags: &Flags, topic: &str, partitions: usize, read: usize) -> String {
    let from = match flags.from {
        From::Earliest => "all records".to_owned(),
        From::Latest => "only new records".to_owned(),
        From::Ago(ago) => format!("records of the last {}", span(ago)),
        From::At(at_ms) => format!("records since {}", moment(at_ms)),
    };
    let partitions = match (flags.partition, partitions) {
        (Some(only), _) => format!("partition {only}"),
        (None, 1) => "1 partition".to_owned(),
        (None, all) => format!("{all} partitions"),
    };
    let found = match (read, &flags.room) {
        (0, _) => "no records".to_owned(),
        (_, Some(room)) => format!("none of {read} records is of room {room}"),
        (_, None) => format!("all {read} records are heartbeats; --heartbeats shows them"),
    };
    let waits = if flags.follow { "; waiting" } else { "" };
    format!("nothing to show: {topic} ({partitions}, {from}): {found}{waits}")
}

fn output_of(printer: &mut Printer) -> Result<(), Failure> {
    output::quietly(printer.flush())
}

/// Returns each partition with the first offset to read and its current end offset.
fn ranges(log: &dyn Log, topic: &str, from: From) -> Result<Vec<(u32, u64, u64)>, Failure> {
    let time_ms = from.time_ms(now_ms());
    let kept = log.offsets(topic)?;
    let first = match (from, time_ms) {
        (_, Some(time_ms)) => log.offsets_at(topic, time_ms)?,
        (From::Latest, _) => kept.iter().map(|kept| kept.end).collect(),
        _ => kept.iter().map(|kept| kept.start).collect(),
    };
    let range = |(partition, (kept, first)): (u32, (Range<u64>, u64))| {
        (partition, first.max(kept.start), kept.end)
    };
    Ok((0..).zip(kept.into_iter().zip(first)).map(range).collect())
}

fn json_line(json: &serde_json::Value) -> String {
    format!("{}\n", output::escaped(&json.to_string()))
}

/// Prints rows in the format of `--format`.
struct Printer {
    format: Format,
    table: Table,
}

impl Printer {
    fn print(&mut self, rows: Vec<Decoded>) -> Result<(), Option<Failure>> {
        match self.format {
            Format::Json => {
                let lines: String = rows.iter().map(|row| json_line(&row.json)).collect();
                output::print(&lines)
            }
            Format::Table => {
                for row in rows {
                    let cells = row.cells.iter();
                    let cells = cells.map(|cell| output::escaped(cell).into_owned());
                    if let Some(page) = self.table.add(cells.collect()) {
                        output::print(&page)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> Result<(), Option<Failure>> {
        match self.table.page() {
            Some(page) => output::print(&page),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use emostream_dataflow::streams_topics;

    use super::*;

    #[test]
    fn every_topic_of_the_topology_can_be_inspected() {
        let names = Topics::default();
        let all = Topic::value_variants().iter();
        let mut inspected: Vec<String> = all.map(|topic| topic.name(&names)).collect();
        let mut declared = streams_topics(&names).all();
        inspected.sort();
        declared.sort();
        assert_eq!(inspected, declared);
    }
}
