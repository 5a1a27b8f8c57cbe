//! `emostream topics check`: shows the topics, their differences from what EmoStream needs, and the commands that fix
//! them.
//!
//! ```text
//!  specs ─┐
//!         ├─▶ differences ─▶ a table, and for each difference a sentence and a command
//!  log ───┘
//! ```

use std::{collections::BTreeSet, fmt};

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use emostream_app::{
    flags::{DEFAULT_PARTITIONS, default_min_in_sync},
    process::{Exit, Failure, output},
};
use emostream_log::{Cleanup, Log, LogError, Timestamps, TopicDescription, TopicSpec};
use emostream_model::Topics;
use indicatif::BinaryBytes;

use crate::{
    cli::flags::{StoreFlags, TOOLS_FILE, TopicFlags},
    cli::parse::span,
    permissions::Role,
    topics::{self, TopicTarget},
};

/// Minimum of the topics' setting `max.message.bytes`, which is Kafka's default. Records of up to this size may occur:
/// a flush, the totals of a room with every emoji, or a rejected record with its headers.
const RECORD_BYTES: u64 = 1_048_588;

/// Replication is recommended for clusters with at least this many brokers. The same number of replicas is recommended.
const BROKERS_FOR_COPIES: u32 = 3;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    topics: TopicFlags,
    /// Number of partitions that each topic should have (the progress topic has one)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    partitions: Option<u32>,
    /// Number of replicas that each partition should have
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    replication: Option<u32>,
    /// Number of replicas that must have a record before it is acknowledged [default: min(2, replicas)]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    min_isr: Option<u32>,
}

/// The settings that topics should have.
struct Wanted<'a> {
    names: &'a Topics,
    /// The flags that name the log: `--kafka BROKERS` or `--data DIR`.
    store: String,
    /// The brokers as an argument of Kafka's tools; `None` for the embedded log.
    brokers: Option<String>,
    partitions: Option<u32>,
    replication: Option<u32>,
    min_in_sync: Option<u32>,
}

/// A difference between a topic and the settings that it should have.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    /// The difference in a few words, which the table shows.
    what: String,
    /// A sentence that explains how to fix the difference.
    fix: String,
    /// The command that fixes the difference; `None` if no single command does.
    command: Option<String>,
    /// Whether the fix is only recommended. If this is so for all differences, the command exits with 0.
    hint: bool,
}

pub(crate) fn run(flags: Flags) -> Result<(), Failure> {
    let names = flags.topics.names();
    let wanted = Wanted {
        names: &names,
        store: flags.store.as_typed(),
        brokers: flags.store.brokers_of_tools(),
        partitions: flags.partitions,
        replication: flags.replication,
        min_in_sync: flags.min_isr,
    };
    let target = match flags.store.is_kafka() {
        // The numbers of replicas in the specifications are not used, because the wanted ones depend on the flags and
        // on the topic itself.
        true => TopicTarget::Kafka {
            replication: 1,
            min_in_sync: 1,
        },
        false => TopicTarget::Embedded,
    };
    let log = flags.store.open_for_reading()?;
    let mut rows = Vec::new();
    let mut advice = Advice::default();
    let (mut topics, mut missing) = (0, 0);
    let permissions = wanted.permissions();
    for spec in topics::specs(&names, flags.partitions.unwrap_or(1), target) {
        let found = describe(&*log, &spec.name);
        if let Err(LogError::Denied { .. }) = &found {
            output::quietly(output::print(&permissions))?;
        }
        let found = found?;
        let differences = wanted.differences(&spec, found.as_ref());
        rows.push(row(&spec.name, found.as_ref(), &differences));
        (topics, missing) = (topics + 1, missing + usize::from(found.is_none()));
        advice.add(&spec.name, differences);
    }
    let text = match missing == topics {
        true => format!(
            "\nnone of the topics '{}.…' exists here; this command creates them (use at least as many partitions as there will ever be workers):\n    {}\n",
            names.prefix(),
            wanted.create()
        ),
        false => advice.to_string(),
    };
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["topic", "partitions", "copies", "kept", "differs"])
        .add_rows(rows);
    output::quietly(output::print(&format!("{table}\n{text}{permissions}")))?;
    match advice.wrong.len() {
        0 => Ok(()),
        wrong => {
            let verb = if wrong == 1 { "differs" } else { "differ" };
            let message =
                format!("{wrong} of {topics} topics {verb} from the required settings; see above");
            Err(Failure::new(Exit::Mismatch, message))
        }
    }
}

/// The sentences and commands for all topics. Topics with the same sentence share a paragraph.
#[derive(Default)]
struct Advice {
    paragraphs: Vec<Paragraph>,
    /// The topics that have a difference which must be fixed.
    wrong: BTreeSet<String>,
}

struct Paragraph {
    fix: String,
    hint: bool,
    topics: Vec<String>,
    commands: Vec<String>,
}

impl Advice {
    fn add(&mut self, topic: &str, differences: Vec<Difference>) {
        for Difference {
            fix, command, hint, ..
        } in differences
        {
            if !hint {
                self.wrong.insert(topic.to_owned());
            }
            let same = |it: &Paragraph| it.fix == fix && it.hint == hint;
            let at = self.paragraphs.iter().position(same).unwrap_or_else(|| {
                self.paragraphs.push(Paragraph {
                    fix,
                    hint,
                    topics: Vec::new(),
                    commands: Vec::new(),
                });
                self.paragraphs.len() - 1
            });
            let paragraph = &mut self.paragraphs[at];
            paragraph.topics.push(topic.to_owned());
            let new = command.filter(|command| !paragraph.commands.contains(command));
            paragraph.commands.extend(new);
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Paragraph {
            fix,
            hint,
            topics,
            commands,
        } in &self.paragraphs
        {
            let optional = if *hint { "(optional) " } else { "" };
            let colon = if commands.is_empty() { "" } else { ":" };
            writeln!(f, "\n{}: {optional}{fix}{colon}", topics.join(", "))?;
            for command in commands {
                writeln!(f, "    {command}")?;
            }
        }
        Ok(())
    }
}

fn describe(log: &dyn Log, topic: &str) -> Result<Option<TopicDescription>, LogError> {
    match log.describe(topic) {
        Ok(found) => Ok(Some(found)),
        Err(LogError::UnknownTopic { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn row(name: &str, found: Option<&TopicDescription>, differences: &[Difference]) -> [String; 5] {
    let words: Vec<&str> = differences.iter().map(|it| it.what.as_str()).collect();
    let differs = words.join(", ");
    let name = name.to_owned();
    match found {
        None => [name, String::new(), String::new(), String::new(), differs],
        Some(found) => [
            name,
            found.partitions.to_string(),
            found.replication.to_string(),
            kept(found),
            differs,
        ],
    }
}

fn kept(topic: &TopicDescription) -> String {
    let deleted = topic.deleted.map(|deletion| {
        let after = deletion.after.map_or("for ever".to_owned(), span);
        let bytes = deletion
            .bytes
            .map(|bytes| format!(", at most {}", BinaryBytes(bytes)));
        after + &bytes.unwrap_or_default()
    });
    match (topic.compacted, deleted) {
        (true, None) => "newest of each key".to_owned(),
        (true, Some(deleted)) => format!("newest of each key, {deleted}"),
        (false, deleted) => deleted.unwrap_or_default(),
    }
}

impl Wanted<'_> {
    fn differences(&self, spec: &TopicSpec, found: Option<&TopicDescription>) -> Vec<Difference> {
        let Some(found) = found else {
            return vec![self.missing()];
        };
        let mut differences = Vec::new();
        differences.extend(self.partitions(spec, found));
        differences.extend(self.replication(found));
        differences.extend(self.cleanup(spec, found));
        differences.extend(self.max_ahead(spec, found));
        differences.extend(self.record_bytes(spec, found));
        differences.extend(self.min_in_sync(spec, found));
        differences.extend(self.unclean_election(spec, found));
        differences
    }

    fn missing(&self) -> Difference {
        Difference {
            what: "missing".to_owned(),
            fix: "it does not exist; this command creates the missing topics".to_owned(),
            command: Some(self.create()),
            hint: false,
        }
    }

    /// Returns a text with the commands that give each role its permissions. For the embedded log, which has no
    /// permissions, the text is empty.
    fn permissions(&self) -> String {
        let Some(brokers) = &self.brokers else {
            return String::new();
        };
        let mut text = "\nIf Kafka has an authorizer, each role needs these permissions (replace User:ROLE by its principal).\n".to_owned();
        if brokers.ends_with(TOOLS_FILE) {
            text += &format!(
                "Create {TOOLS_FILE} for Kafka's tools, in the format of its Java clients.\n"
            );
        }
        for role in Role::ALL {
            text += &format!("  {role}\n");
            for command in role.commands(self.names, brokers) {
                text += &format!("    {command}\n");
            }
        }
        text
    }

    /// Returns the command that creates the missing topics.
    fn create(&self) -> String {
        let (store, prefix) = (&self.store, self.names.prefix());
        if self.brokers.is_none() {
            return format!("emostream up {store}");
        }
        let partitions = self.partitions.unwrap_or(DEFAULT_PARTITIONS);
        let flag = |name, value: Option<u32>| value.map(|n| format!(" {name} {n}"));
        let copies = [
            flag("--replication", self.replication),
            flag("--min-isr", self.min_in_sync),
        ];
        let copies: String = copies.into_iter().flatten().collect();
        format!(
            "emostream topics create {store} --topic-prefix {prefix} --partitions {partitions}{copies}"
        )
    }

    fn partitions(&self, spec: &TopicSpec, found: &TopicDescription) -> Option<Difference> {
        let has = found.partitions;
        let is_progress = spec.name == self.names.progress();
        let wants = match is_progress {
            true => 1,
            false => self.partitions?,
        };
        if has == wants {
            return None;
        }
        let start_over = "use new topics with another --topic-prefix";
        let (fix, command) = if is_progress {
            let fix = format!(
                "it has {has} partitions, but progress needs exactly one; if `emostream inspect progress` shows none, delete the topic and create it again, otherwise {start_over}"
            );
            (
                fix,
                self.kafka_topics(&format!("--delete --topic {}", spec.name)),
            )
        } else if has > wants {
            let fix = format!(
                "it has {has} partitions, and Kafka cannot remove any; leave them, or {start_over}"
            );
            (fix, None)
        } else if spec.name == self.names.reactions() {
            let more = format!("--alter --topic {} --partitions {wants}", spec.name);
            let fix = format!("it has {has} partitions; a running dataflow reads new ones, too");
            (fix, self.kafka_topics(&more))
        } else {
            let fix = format!(
                "it has {has} partitions; more would move rooms between them and break the order of their results, so leave it (any number works), or {start_over}"
            );
            (fix, None)
        };
        Some(Difference {
            what: format!("{has} partitions, not {wants}"),
            fix,
            command,
            // The dataflow works with any number of partitions of the topics of results, so for them this is only a
            // recommendation.
            hint: !is_progress && spec.name != self.names.reactions(),
        })
    }

    fn replication(&self, found: &TopicDescription) -> Option<Difference> {
        let has = found.replication;
        let (wants, hint) = match self.replication {
            Some(wants) if has < wants => (wants, false),
            None if has == 1 && found.brokers >= BROKERS_FOR_COPIES => (BROKERS_FOR_COPIES, true),
            _ => return None,
        };
        let brokers = found.brokers;
        if brokers < wants {
            return Some(Difference {
                what: format!("copies: {has}, not {wants}"),
                fix: format!(
                    "{wants} replicas need {wants} brokers, but the cluster has only {brokers}"
                ),
                command: None,
                hint,
            });
        }
        let command = self.brokers.as_ref().map(|brokers| {
            format!(
                "kafka-reassign-partitions.sh --bootstrap-server {brokers} --execute --reassignment-json-file FILE"
            )
        });
        Some(Difference {
            what: format!("copies: {has}, not {wants}"),
            fix: format!(
                "it has only {has} of {wants} copies, and may be lost with a broker; name {wants} brokers as the replicas of each of its partitions in FILE (Kafka's manual: increasing the replication factor)"
            ),
            command,
            hint,
        })
    }

    fn cleanup(&self, spec: &TopicSpec, found: &TopicDescription) -> Option<Difference> {
        let differs = |what: &str, fix: String, setting: String| {
            Some(self.setting(spec, what.to_owned(), fix, &setting))
        };
        let Cleanup::Delete { after, bytes } = spec.cleanup else {
            if found.compacted && found.deleted.is_none() {
                return None;
            }
            let fix = "only the newest record of every key must be kept".to_owned();
            return differs(
                "not only compacted",
                fix,
                "cleanup.policy=compact".to_owned(),
            );
        };
        let Some(deleted) = found.deleted.filter(|_| !found.compacted) else {
            let fix =
                "its records must be deleted by their age, since they have no keys for compaction"
                    .to_owned();
            return differs("cleanup", fix, "cleanup.policy=delete".to_owned());
        };
        if deleted.after.is_some_and(|has| has < after) {
            let fix = format!("records are deleted before they are {} old", span(after));
            let setting = format!("retention.ms={}", after.as_millis());
            return differs("retention too short", fix, setting);
        }
        let size = deleted
            .bytes
            .filter(|_| bytes.is_none() && spec.max_ahead.is_some())?;
        let fix = format!(
            "a partition of more than {} loses reactions that may not be counted yet; to remove the limit",
            BinaryBytes(size)
        );
        let setting = self.setting(
            spec,
            "bounded by size".to_owned(),
            fix,
            "retention.bytes=-1",
        );
        Some(Difference {
            hint: true,
            ..setting
        })
    }

    fn max_ahead(&self, spec: &TopicSpec, found: &TopicDescription) -> Option<Difference> {
        let wants = spec.max_ahead?;
        let takes = match found.timestamps {
            Timestamps::Appended => return None,
            Timestamps::Written {
                max_ahead: Some(most),
            } if most <= wants => return None,
            Timestamps::Written {
                max_ahead: Some(most),
            } => format!("up to {} in the future", span(most)),
            Timestamps::Written { max_ahead: None } => "at any time in the future".to_owned(),
            Timestamps::WrittenWithoutLimit => {
                return Some(Difference {
                    what: "accepts the future".to_owned(),
                    fix: "the brokers are older than Kafka 3.6 and cannot reject reactions with timestamps in the future, so a dataflow runs here only with --unbounded-timestamps; upgrade the brokers".to_owned(),
                    command: None,
                    hint: false,
                });
            }
        };
        let fix = format!(
            "it accepts reactions with timestamps {takes}, and such a reaction would close windows too early; limit this time to {}",
            span(wants)
        );
        let setting = format!("message.timestamp.after.max.ms={}", wants.as_millis());
        Some(self.setting(spec, "accepts the future".to_owned(), fix, &setting))
    }

    fn record_bytes(&self, spec: &TopicSpec, found: &TopicDescription) -> Option<Difference> {
        let takes = found
            .max_record_bytes
            .filter(|takes| *takes < RECORD_BYTES)?;
        let fix = format!(
            "records of more than {} are refused: an ingest splits a flush to fit, but the dataflow cannot split a result; Kafka's default is enough",
            BinaryBytes(takes)
        );
        let setting = format!("max.message.bytes={RECORD_BYTES}");
        Some(self.setting(spec, "records too small".to_owned(), fix, &setting))
    }

    fn min_in_sync(&self, spec: &TopicSpec, found: &TopicDescription) -> Option<Difference> {
        let default = default_min_in_sync(found.replication);
        let (has, replicas) = (found.min_in_sync, found.replication);
        let wants = self.min_in_sync.unwrap_or(default).min(replicas);
        let fix = match has {
            _ if has > replicas => format!(
                "nothing can be written: {has} replicas must have a record, and the topic has {replicas}"
            ),
            _ if has < wants => format!(
                "a record is acknowledged when only {has} of {replicas} replicas have it, and is lost if these replicas are lost"
            ),
            _ => return None,
        };
        let setting = format!("min.insync.replicas={wants}");
        Some(self.setting(
            spec,
            format!("required in sync: {has}, not {wants}"),
            fix,
            &setting,
        ))
    }

    fn unclean_election(&self, spec: &TopicSpec, found: &TopicDescription) -> Option<Difference> {
        let fix = "a replica that lacks acknowledged records may become the leader, and these records would be lost";
        let what = "unclean elections".to_owned();
        let setting = "unclean.leader.election.enable=false";
        let differs = self.setting(spec, what, fix.to_owned(), setting);
        found.unclean_election.then_some(differs)
    }

    /// Returns a difference that can be fixed by a new value of one setting of the topic.
    fn setting(&self, spec: &TopicSpec, what: String, fix: String, setting: &str) -> Difference {
        let name = &spec.name;
        let command = self.brokers.as_ref().map(|brokers| {
            format!(
                "kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {name} --add-config {setting}"
            )
        });
        let fix = match command {
            Some(_) => fix,
            None => format!(
                "{fix}; topics of the embedded log cannot be changed, so use another --data directory"
            ),
        };
        Difference {
            what,
            fix,
            command,
            hint: false,
        }
    }

    fn kafka_topics(&self, what: &str) -> Option<String> {
        let brokers = self.brokers.as_ref()?;
        Some(format!(
            "kafka-topics.sh --bootstrap-server {brokers} {what}"
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use std::time::Duration;

    use emostream_log::Deletion;

    use super::*;

    fn wanted(names: &Topics) -> Wanted<'_> {
        Wanted {
            names,
            store: "--kafka b:9092".to_owned(),
            brokers: Some("b:9092".to_owned()),
            partitions: Some(4),
            replication: None,
            min_in_sync: None,
        }
    }

    fn specs(names: &Topics) -> Vec<TopicSpec> {
        let target = TopicTarget::Kafka {
            replication: 1,
            min_in_sync: 1,
        };
        topics::specs(names, 4, target)
    }

    /// Returns the differences that `topic` has if `change` was applied to its description.
    fn differences(topic: &str, change: impl Fn(&mut TopicDescription)) -> Vec<Difference> {
        let names = Topics::default();
        let specs = specs(&names);
        let spec = specs
            .iter()
            .find(|s| s.name == format!("emostream.{topic}"))
            .unwrap();
        let mut found = TopicDescription::of(spec);
        change(&mut found);
        wanted(&names).differences(spec, Some(&found))
    }

    #[test]
    fn created_topics_have_no_differences() {
        let names = Topics::default();
        for spec in specs(&names) {
            let found = TopicDescription::of(&spec);
            assert_eq!(wanted(&names).differences(&spec, Some(&found)), []);
        }
    }

    #[test]
    fn each_difference_names_the_command_that_fixes_it() {
        type Change = fn(&mut TopicDescription);
        let cases: [(&str, Change, &str); 12] = [
            (
                "reactions",
                |t| t.timestamps = Timestamps::Written { max_ahead: None },
                "--add-config message.timestamp.after.max.ms=5000",
            ),
            (
                "reactions",
                |t| t.partitions = 2,
                "--alter --topic emostream.reactions --partitions 4",
            ),
            (
                "reactions",
                |t| t.deleted.as_mut().unwrap().after = Some(Duration::from_secs(3600)),
                "retention.ms=86400000",
            ),
            ("windows", |t| t.compacted = true, "cleanup.policy=delete"),
            ("totals", |t| t.compacted = false, "cleanup.policy=compact"),
            (
                "progress",
                |t| {
                    t.deleted = Some(Deletion {
                        after: None,
                        bytes: None,
                    })
                },
                "cleanup.policy=compact",
            ),
            (
                "progress",
                |t| t.partitions = 4,
                "--delete --topic emostream.progress",
            ),
            (
                "windows",
                |t| t.max_record_bytes = Some(10_000),
                "--add-config max.message.bytes=1048588",
            ),
            ("live", |t| t.brokers = 3, "kafka-reassign-partitions.sh"),
            (
                "reactions",
                |t| t.replication = 3,
                "--add-config min.insync.replicas=2",
            ),
            (
                "progress",
                |t| t.min_in_sync = 2,
                "--add-config min.insync.replicas=1",
            ),
            (
                "windows",
                |t| t.unclean_election = true,
                "--add-config unclean.leader.election.enable=false",
            ),
        ];
        for (topic, change, command) in cases {
            let differences = differences(topic, change);
            let [difference] = &differences[..] else {
                panic!("{topic}: {differences:?}")
            };
            let typed = difference.command.as_ref().unwrap();
            assert!(
                typed.contains(command) && typed.contains("--bootstrap-server b:9092"),
                "{typed}"
            );
            assert_eq!(difference.hint, topic == "live", "{topic}");
        }
    }

    #[test]
    fn a_topic_may_bound_the_future_more_narrowly_or_let_the_broker_date_its_records() {
        let second = Some(Duration::from_secs(1));
        for timestamps in [
            Timestamps::Written { max_ahead: second },
            Timestamps::Appended,
        ] {
            assert_eq!(differences("reactions", |t| t.timestamps = timestamps), []);
        }
        let old = differences("reactions", |t| {
            t.timestamps = Timestamps::WrittenWithoutLimit
        });
        assert!(old[0].fix.contains("3.6"), "{old:?}");
    }

    #[test]
    fn topics_with_the_same_difference_share_a_sentence_and_count_as_topics() {
        let names = Topics::default();
        let mut advice = Advice::default();
        for spec in specs(&names) {
            let mut found = TopicDescription::of(&spec);
            found.brokers = 3;
            if spec.name == names.reactions() {
                found.timestamps = Timestamps::Written { max_ahead: None };
                found.partitions = 2;
            }
            advice.add(&spec.name, wanted(&names).differences(&spec, Some(&found)));
        }
        let text = advice.to_string();
        assert_eq!(text.matches("only 1 of 3 copies").count(), 1, "{text}");
        assert!(
            text.contains("emostream.windows, emostream.totals"),
            "{text}"
        );
        assert_eq!(
            advice.wrong.len(),
            1,
            "two differences in one topic: {text}"
        );
    }

    #[test]
    fn a_missing_topic_is_created_by_emostream() {
        let names = Topics::default();
        let missing = wanted(&names).differences(&specs(&names)[0], None);
        assert_eq!(
            missing[0].command.as_deref().unwrap(),
            "emostream topics create --kafka b:9092 --topic-prefix emostream --partitions 4"
        );
    }

    #[test]
    fn a_longer_retention_is_not_a_difference_and_more_partitions_stay() {
        assert_eq!(
            differences("windows", |t| t.deleted.as_mut().unwrap().after = None),
            []
        );
        assert_eq!(
            differences("windows", |t| t.partitions = 9)[0].command,
            None
        );
        assert_eq!(
            differences("windows", |t| t.partitions = 2)[0].command,
            None
        );
    }
}
