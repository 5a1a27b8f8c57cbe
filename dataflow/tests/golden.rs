//! Golden tests: the files `golden/*.txt` contain inputs and expected outputs, which `golden/README.md` describes.
//!
//! Every case runs on one worker, on three workers, and once more with a restart after every few records. `BLESS=1`
//! writes the output into the file, and fails, so that a developer reviews the file.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

#[path = "golden/case.rs"]
mod case;
mod fixture;
#[path = "golden/outcome.rs"]
mod outcome;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, thread};

use case::{Case, Input, Step};
use emostream_dataflow::Config;
use emostream_log::testing::until;
use fixture::{Fixture, T0};
use outcome::Outcome;
use prometheus::Registry;

/// Number of records between two restarts.
const FEW: usize = 2;

/// The numbers of workers of successive runs, used in turn.
const WORKERS_IN_TURN: [usize; 3] = [1, 3, 2];

macro_rules! cases {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )*

        #[test]
        fn every_file_is_a_case() {
            let files = std::fs::read_dir(directory()).unwrap();
            let names = files.map(|file| file.unwrap().path());
            let cases = names.filter(|path| path.extension().is_some_and(|it| it == "txt"));
            let stems: BTreeSet<String> = cases
                .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
                .collect();
            assert_eq!(stems, BTreeSet::from([$(stringify!($name).to_owned()),*]));
        }
    };
}

cases! {
    one_reaction
    rooms_and_emojis
    swarms
    slow_partition
    late
    edges
    idle
    malformed_and_ahead
    unknown_emoji
    totals
    trending
    plain
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn check(name: &str) {
    let case =
        Case::read(&directory().join(format!("{name}.txt"))).unwrap_or_else(|e| panic!("{e}"));
    let outcomes = [
        ("-w 1", at_once(&case, 1)),
        ("-w 3", at_once(&case, 3)),
        ("stops and restarts", with_restarts(&case)),
    ];
    let bless = std::env::var_os("BLESS").is_some_and(|value| value == "1");
    let expected = match bless {
        true => &outcomes[0].1,
        false => &case.expected,
    };
    for (how, outcome) in &outcomes {
        if let Some(difference) = outcome.difference(expected) {
            panic!(
                "{name}.txt: not what came out with {how} (- expected, + came out):\n\
                 {difference}\n\
                 If this is right by the contract, write it into the file:\n  \
                 BLESS=1 cargo test -p emostream-dataflow --test golden {name}\n",
            );
        }
    }
    if bless && expected.difference(&case.expected).is_some() {
        case.rewrite(expected);
        panic!("{name}.txt is rewritten: look at each line that changed, then test without BLESS");
    }
}

/// Executes all steps of a case in one run.
fn at_once(case: &Case, workers: usize) -> Outcome {
    let fixture = Fixture::new(case.partitions());
    let run = Run::start(&fixture, case.config(&fixture.topics, workers));
    for step in &case.steps {
        match step {
            Step::Append(inputs) => append(&fixture, inputs),
            Step::WaitFinal(until_ms) => run.wait_final(&fixture, *until_ms),
            Step::WaitLive(count) => {
                run.wait(&format!("wait live {count}"), || {
                    outcome::live_reactions(&fixture) == *count
                });
            }
        }
    }
    run.stop();
    let outcome = Outcome::of(&fixture, case);
    match case.waits_for_live() {
        true => outcome,
        false => outcome.without_live(),
    }
}

/// Executes the steps of a case with restarts: each run is stopped as soon as it has read some records, and the next
/// one has another number of workers.
fn with_restarts(case: &Case) -> Outcome {
    let fixture = Fixture::new(case.partitions());
    let mut workers = WORKERS_IN_TURN.into_iter().cycle();
    let mut start = || {
        Run::start(
            &fixture,
            case.config(&fixture.topics, workers.next().unwrap()),
        )
    };
    let mut newest_ms = vec![0; fixture.partitions as usize];
    for step in &case.steps {
        match step {
            Step::Append(inputs) => {
                for few in inputs.chunks(FEW) {
                    append(&fixture, few);
                    for input in few {
                        let newest_ms = &mut newest_ms[input.partition as usize];
                        *newest_ms = input.observed_ms.max(*newest_ms);
                    }
                    let run = start();
                    run.wait("read what was written", || {
                        (0..).zip(&newest_ms).all(|(partition, newest_ms)| {
                            let read_ms = newest_ms.saturating_sub(case.lateness_ms());
                            run.watermark_ms(partition) >= read_ms
                        })
                    });
                    run.stop();
                }
            }
            Step::WaitFinal(until_ms) => {
                let run = start();
                run.wait_final(&fixture, *until_ms);
                run.stop();
            }
            // A run that is stopped early may write no live tally, so the test cannot wait for one.
            Step::WaitLive(_) => {}
        }
    }
    Outcome::of(&fixture, case).without_live()
}

fn append(fixture: &Fixture, inputs: &[Input]) {
    let record = |input: &Input| {
        fixture.reaction_record(input.partition, input.time_ms, input.value.clone())
    };
    fixture.append(inputs.iter().map(record).collect());
}

/// A running dataflow.
struct Run {
    stop: emostream_dataflow::Stop,
    running: thread::JoinHandle<Result<(), emostream_dataflow::StreamsError>>,
    registry: Registry,
}

impl Run {
    fn start(fixture: &Fixture, config: Config) -> Run {
        let registry = Registry::new();
        let (stop, running) = fixture.launch(config, registry.clone(), Arc::new(|_| {}));
        Run {
            stop,
            running,
            registry,
        }
    }

    fn wait_final(&self, fixture: &Fixture, until_ms: u64) {
        let seconds = outcome::seconds(until_ms);
        self.wait(&format!("wait final {seconds}"), || {
            fixture.final_until_ms() >= until_ms
        });
    }

    fn wait(&self, what: &str, mut enough: impl FnMut() -> bool) {
        until(what, || {
            assert!(!self.running.is_finished(), "the dataflow ended by itself");
            enough()
        });
    }

    fn stop(self) {
        self.stop.request();
        self.running.join().unwrap().unwrap();
    }

    /// Returns the watermark of a partition as the metrics show it.
    fn watermark_ms(&self, partition: u32) -> u64 {
        let families = self.registry.gather();
        let name = "emostream_dataflow_watermark_timestamp_seconds";
        let family = families.iter().find(|family| family.name() == name);
        let gauges = family.map_or(&[][..], |family| family.get_metric());
        let of = |gauge: &&prometheus::proto::Metric| {
            gauge.get_label()[0].value() == partition.to_string()
        };
        let gauge = gauges.iter().find(of);
        gauge.map_or(0, |gauge| {
            (gauge.get_gauge().get_value() * 1000.0).round() as u64
        })
    }
}
